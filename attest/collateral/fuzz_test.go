package collateral_test

import (
	"testing"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/evidence"
)

// FuzzImport: strangers' files and bundles are taken or refused with a code, and what is taken is listed as good.
func FuzzImport(f *testing.F) {
	for _, s := range []string{"", "{}", `{"version":"cloister.dev/collateral/v1","entries":[]}`, `{"version":"cloister.dev/collateral/v1","entries":[{"id":"rootcrl","sha256":"","bytes":"MAA="}]}`,
		`{"version":"cloister.dev/collateral/v1","entries":[{"id":"../x"}]}`, `{"version":"cloister.dev/collateral/v1","entries":null,"entries":[]}`, "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := collateral.Open(collateral.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Import(t.Context(), collateral.File{Name: "f", Raw: raw}); err != nil && evidence.CodeOf(err) == "" {
			t.Fatalf("refused without a code: %v", err)
		}
	})
}

// FuzzParseID: what is taken has one form.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"rootcrl", "crl/Milan/vcek", "tcb/tdx/00806f050000", "../rootcrl"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := collateral.ParseID(text)
		if (err == nil) != (id.String() == text && text != "") {
			t.Fatalf("%q: %v, %q", text, err, id)
		}
	})
}
