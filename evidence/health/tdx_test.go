package health

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/tdx"
)

func vector(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	return raw
}

// A real platform that was out of date in October 2025.
func TestTDX(t *testing.T) {
	certs := func(names ...string) (out []byte) {
		for _, n := range names {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vector(t, "dcap-automata/"+n)})...)
		}
		return out
	}
	signer := certs("signing.der", "root.der")
	collateral, err := dcap.ParseCollateral(dcap.Files{TCBInfo: vector(t, "dcap-automata/1025-tcb_info.json"), QEIdentity: vector(t, "dcap-automata/1025-identity.json"), PCKCRL: vector(t, "dcap-automata/1025-pck_crl.der"),
		RootCRL: vector(t, "dcap-automata/intel_root_ca_crl.der"), TCBInfoIssuerChain: signer, QEIdentityIssuerChain: signer, PCKCRLIssuerChain: certs("platform.der", "root.der")})
	if err != nil {
		t.Fatal(err)
	}
	quote := vector(t, "dcap-automata/quote_tdx.bin")
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		t.Fatal(err)
	}
	o := TDXOptions{At: time.Date(2025, 10, 25, 0, 0, 0, 0, time.UTC), Challenge: q.Body.ReportData, Collateral: collateral}
	fit := TDXFloor{Accept: []dcap.Status{dcap.UpToDate, dcap.OutOfDate}, DeniedAdvisories: []string{}}
	for _, r := range []struct {
		name    string
		change  func(*TDXFloor, *TDXOptions, *[]byte)
		verdict evidence.Verdict
		do      string
	}{
		{"fit by a floor that takes it", func(*TDXFloor, *TDXOptions, *[]byte) {}, evidence.Accepted, ""},
		{"TDX-04 out of date", func(f *TDXFloor, _ *TDXOptions, _ *[]byte) { f.Accept = []dcap.Status{dcap.UpToDate} }, evidence.Refused, "update the host"},
		{"TDX-06 a denied advisory", func(f *TDXFloor, _ *TDXOptions, _ *[]byte) { f.DeniedAdvisories = []string{"INTEL-SA-00986"} }, evidence.Refused, "INTEL-SA-00986"},
		{"TDX-22 no status is named", func(f *TDXFloor, _ *TDXOptions, _ *[]byte) { f.Accept = nil }, evidence.Refused, ""},
		{"SVC-26 advisories left out", func(f *TDXFloor, _ *TDXOptions, _ *[]byte) { f.DeniedAdvisories = nil }, evidence.Refused, ""},
		{"the quote of another hour", func(_ *TDXFloor, o *TDXOptions, _ *[]byte) { o.Challenge[0]++ }, evidence.Refused, "anew"},
		{"SVC-28 no collateral", func(_ *TDXFloor, o *TDXOptions, _ *[]byte) { o.Collateral = nil }, evidence.Unavailable, "collateral"},
		{"TDX-15 collateral that has ended", func(_ *TDXFloor, o *TDXOptions, _ *[]byte) { o.At = o.At.AddDate(0, 3, 0) }, evidence.Unavailable, "collateral"},
		{"TDX-13 a changed quote", func(_ *TDXFloor, _ *TDXOptions, q *[]byte) {
			*q = append([]byte(nil), *q...)
			(*q)[200] ^= 1
		}, evidence.Refused, ""},
		{"TDX-24 no quote", func(_ *TDXFloor, _ *TDXOptions, q *[]byte) { *q = nil }, evidence.Refused, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			f, o, raw := fit, o, quote
			r.change(&f, &o, &raw)
			got := TDX(raw, f, o)
			if got.Verdict != r.verdict {
				t.Fatalf("%s: %+v", got.Verdict, got.Checks)
			}
			found := r.do == ""
			for _, m := range got.Mend {
				found = found || strings.Contains(m.Do, r.do)
			}
			if !found || (r.verdict == evidence.Accepted) != (len(got.Mend) == 0) {
				t.Errorf("remedies %+v, want %q", got.Mend, r.do)
			}
		})
	}
}
