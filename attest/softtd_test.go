package attest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
	"cloister.dev/cloister/evidence/token"
)

// softTD is a service whose software issuer believes a root of software TDs.
func softTD(t *testing.T) (*world, *dcaptest.Vendor) {
	t.Helper()
	v := dcaptest.New(t, dcaptest.Options{Software: true})
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: sevsnptest.Now}
	c := config(t, w.dir, w.chip)
	file := filepath.Join(w.dir, "tdx-root.pem")
	if err := os.WriteFile(file, dcaptest.PEM(v.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Software.TDXRoots = []string{file}
	w.serve(t, c)
	w.authority = readAuthority(t, filepath.Join(c.StateDir, "software.public.json"))
	return w, v
}

func td(t *testing.T, v *dcaptest.Vendor, claims []byte, change func(*tdx.Quote)) []byte {
	t.Helper()
	q := tdxtest.Good()
	q.Body.ReportData, q.Body.MRConfigID = hcl.ReportData(claims), initdata.TDXConfigID(initData)
	if change != nil {
		change(&q)
	}
	return tdxtest.Quote(t, v, q)
}

func TestSoftwareTD(t *testing.T) {
	w, v := softTD(t)
	ctx, c := t.Context(), w.client("/software")
	good := func(change func(*tdx.Quote)) client.TdxVM {
		return client.TdxVM{Quote: td(t, v, runtimeData, change), RuntimeData: runtimeData, InitTimeData: initData, Nonce: "n"}
	}
	for name, change := range map[string]func(*tdx.Quote){"version 4": nil, "version 5": func(q *tdx.Quote) { *q = tdxtest.Version5(*q) }} {
		compact, err := c.TdxVM(ctx, good(change))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
		if err != nil {
			t.Fatal(err)
		}
		if _, there := tok.Claims["attester_tcb_status"]; there || tok.Claims["x-cloister-root"] != "software" || tok.Claims["tdx_mrtd"] != strings.Repeat("d1", 48) || tok.Claims["x-cloister-vtpm-isolation"] != "process" {
			t.Errorf("%s: claims %v", name, tok.Claims)
		}
		if got, _ := tok.Lookup("x-ms-inittime.version"); got != "cloister.initdata/1" {
			t.Errorf("%s: init data %v", name, got)
		}
	}
	other := dcaptest.New(t, dcaptest.Options{Software: true})
	for _, r := range []struct {
		name, path string
		in         client.TdxVM
		code       evidence.Code
	}{
		{"SVC-32 report data of another session", "/software", good(func(q *tdx.Quote) { q.Body.ReportData[0] ^= 1 }), evidence.CodeBinding},
		{"SVC-32 the second half of the report data", "/software", good(func(q *tdx.Quote) { q.Body.ReportData[63] = 1 }), evidence.CodeBinding},
		{"other init data", "/software", good(func(q *tdx.Quote) { q.Body.MRConfigID[0] ^= 1 }), evidence.CodeBinding},
		{"TDX-10 debug, by default policy", "/software", good(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Debug }), evidence.CodePolicy},
		{"TDX-10 profiling by the host", "/software", good(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.PerfProf }), evidence.CodeConfig},
		{"TDX-10 a reserved attribute", "/software", good(func(q *tdx.Quote) { q.Body.TDAttributes |= 1 << 40 }), evidence.CodeConfig},
		{"TDX-11 migratable, by default policy", "/software", good(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Migratable }), evidence.CodePolicy},
		{"TDX-11 a service TD, by default policy", "/software", good(func(q *tdx.Quote) { *q = tdxtest.Version5(*q); q.Body.MRServiceTD[0] = 1 }), evidence.CodePolicy},
		{"TDX-10 pages that the host may take, by default policy", "/software", good(func(q *tdx.Quote) { q.Body.TDAttributes = 0 }), evidence.CodePolicy},
		{"another software root", "/software", client.TdxVM{Quote: td(t, other, runtimeData, nil)}, evidence.CodeChain},
		{"SVC-24 a software TD where Intel does not count", "", good(nil), evidence.CodePolicy},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got, err := w.client(r.path).TdxVM(ctx, r.in); got != "" || evidence.CodeOf(err) != r.code {
				t.Errorf("%v, want %s", err, r.code)
			}
		})
	}
}

// A running guest in a TD: its claims, keys and quote hang on the TD's quote as they do on a SEV-SNP report.
func TestAzureGuestInATD(t *testing.T) {
	w, v := softTD(t)
	f, l := newTPM(t), stockLog()
	ctx, c := t.Context(), w.client("/software")
	good := func(change func(*tdx.Quote)) client.Guest {
		g := w.guest(t, f, l, "n1")
		g.Report, g.ChainPEM = nil, nil
		g.TDQuote = td(t, v, g.RuntimeClaims, change)
		g = f.encrypted(t, g, tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(l.pcrs))
		return g
	}
	compact, err := c.AzureGuest(ctx, good(nil))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"x-ms-attestation-type": "azurevm", "x-ms-isolation-tee.x-ms-attestation-type": "tdxvm", "x-ms-isolation-tee.tdx_mrtd": strings.Repeat("d1", 48), "x-ms-isolation-tee.tdx_td_attributes_debug": false,
		"x-ms-isolation-tee.x-ms-runtime.vm-configuration.vmUniqueId": vmUniqueID, "x-cloister-root": "software", "secureboot": true, "x-ms-runtime.client-payload.nonce": "bjE=",
	} {
		if got, _ := tok.Lookup(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	stranger := newTPM(t)
	for name, r := range map[string]struct {
		g    client.Guest
		code evidence.Code
	}{
		"SVC-32 a quote about other claims":    {good(func(q *tdx.Quote) { q.Body.ReportData[0] ^= 1 }), evidence.CodeBinding},
		"other init data":                      {good(func(q *tdx.Quote) { q.Body.MRConfigID[0] ^= 1 }), evidence.CodeBinding},
		"TDX-10 debug, by default policy":      {good(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Debug }), evidence.CodePolicy},
		"TDX-11 migratable, by default policy": {good(func(q *tdx.Quote) { q.Body.TDAttributes |= tdx.Migratable }), evidence.CodePolicy},
		"TPM-07 another TPM's AK": {func() client.Guest {
			g := good(nil)
			g.AKPublic = public(&stranger.ak.PublicKey, signing, nil)
			return g
		}(), evidence.CodeBinding},
		"TDX-27 a SEV-SNP report called a TD's": {func() client.Guest { g := good(nil); g.TDQuote = w.hardware(t, g.RuntimeClaims, nil); return g }(), evidence.CodeUnsupported},
	} {
		got, err := c.AzureGuest(ctx, r.g)
		var refusal *evidence.Refusal
		if got != "" || !errors.As(err, &refusal) || refusal.Code != r.code {
			t.Errorf("%s: %v, want %s", name, err, r.code)
		}
	}
}
