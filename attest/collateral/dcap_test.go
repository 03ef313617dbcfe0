package collateral_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/collateral/collateraltest"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// realFiles are Intel's real collateral of June 2025.
func realFiles(t testing.TB) dcap.Files {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, "dcap-quotes-with-collateral/tdx_quote_collateral.json"))
	if os.IsNotExist(err) {
		t.Skip("SKIPPED: no vector dcap-quotes-with-collateral; set CLOISTER_VECTORS")
	} else if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return dcap.Files{
		TCBInfo:    []byte(`{"tcbInfo":` + m["tcb_info"] + `,"signature":"` + m["tcb_info_signature"] + `"}`),
		QEIdentity: []byte(`{"enclaveIdentity":` + m["qe_identity"] + `,"signature":"` + m["qe_identity_signature"] + `"}`),
		PCKCRL:     unhex(m["pck_crl"]), RootCRL: unhex(m["root_ca_crl"]),
		TCBInfoIssuerChain: []byte(m["tcb_info_issuer_chain"]), QEIdentityIssuerChain: []byte(m["qe_identity_issuer_chain"]), PCKCRLIssuerChain: []byte(m["pck_crl_issuer_chain"]),
	}
}

// TestRealIntel: Intel's real collateral, under Intel's pinned root.
func TestRealIntel(t *testing.T) {
	at := time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)
	b := newBench(t)
	b.clock.at = at
	b.pcs.Serve("tdx", "b0c06f000000", "platform", realFiles(t))
	pck := &dcap.PCK{FMSPC: [6]byte{0xb0, 0xc0, 0x6f}, CA: "platform"}
	pinned := func(o *collateral.Options) { o.Roots = collateral.Pinned() }
	c := b.open(pinned)
	got, err := c.DCAP(t.Context(), pck, dcap.TDX)
	if err != nil {
		t.Fatal(err)
	}
	if at.Before(got.IssueDate()) || !at.Before(got.Expiry()) {
		t.Errorf("holds from %s to %s", got.IssueDate(), got.Expiry())
	}
	if again, err := c.DCAP(t.Context(), pck, dcap.TDX); err != nil || again != got {
		t.Errorf("parsed again: %v", err)
	}
	if _, err := b.open(func(o *collateral.Options) { pinned(o); offline(o) }).DCAP(t.Context(), pck, dcap.TDX); err != nil {
		t.Errorf("offline: %v", err)
	}
	b.dir = t.TempDir()
	_, err = b.open(nil).DCAP(t.Context(), pck, dcap.TDX)
	code(t, "TDX-17 the real ones under another root", err, evidence.CodeChain)
	b.pcs.Set(collateraltest.Knobs{Status: 500})
	_, err = b.open(pinned).DCAP(t.Context(), pck, dcap.TDX)
	code(t, "SVC-28 a service that is down", err, evidence.CodeUnavailable)
	b.pcs.Set(collateraltest.Knobs{})
	b.clock.at = at.AddDate(1, 0, 0)
	_, err = b.open(pinned).DCAP(t.Context(), pck, dcap.TDX)
	code(t, "TDX-15 a year later", err, evidence.CodeUnavailable)
	_, err = c.DCAP(t.Context(), nil, dcap.TDX)
	code(t, "no platform", err, evidence.CodeParse)
	_, err = c.DCAP(t.Context(), &dcap.PCK{CA: "../platform"}, dcap.TDX)
	code(t, "SVC-12 a CA of no known name", err, evidence.CodeParse)
}
