package attest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/token"
)

// realReport is evidence of a real SEV-SNP VM of Azure.
func realReport(t *testing.T) client.SevSnpVM {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, "az-snp-vtpm-evidence", "hcl-report.bin"))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	var chainPEM []byte
	for _, name := range []string{"az-snp-vtpm-evidence/vcek.pem"} {
		part, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		chainPEM = append(append(chainPEM, part...), '\n')
	}
	report, err := hcl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return client.SevSnpVM{Report: report.Hardware, ChainPEM: chainPEM, RuntimeData: report.Claims, Nonce: "n"}
}

// Evidence of a real SEV-SNP VM gets a token of the hardware issuer, and none of the software issuer.
func TestRealHardware(t *testing.T) {
	in := realReport(t)
	chain, err := sevsnp.ParseChain(in.ChainPEM)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.now = chain.Leaf.NotBefore.Add(24 * time.Hour)
	compact, err := w.client("").SevSnpVM(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	hardware := readAuthority(t, filepath.Join(w.dir, "state", "hardware.public.json"))
	tok, err := token.Verify(compact, []token.Authority{hardware}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{"x-cloister-root": "amd", "x-cloister-vtpm-isolation": "none", "x-ms-sevsnpvm-vmpl": 0.0, "x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-familyId": "01000000000000000000000000000000"} {
		if got, _ := tok.Lookup(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if _, err := w.client("/software").SevSnpVM(t.Context(), in); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-22 real hardware at the software issuer: %v", err)
	}
	changed := in
	changed.RuntimeData = append([]byte(" "), in.RuntimeData...)
	if _, err := w.client("").SevSnpVM(t.Context(), changed); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("SNP-01 claims written anew: %v", err)
	}
	w.now = chain.Leaf.NotAfter.Add(time.Hour)
	if _, err := w.client("").SevSnpVM(t.Context(), in); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SNP-32 after the leaf's end: %v", err)
	}
}
