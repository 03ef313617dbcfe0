package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/collateral/collateraltest"
	"cloister.dev/cloister/evidence/dcap"
)

func collateralVector(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		t.Skipf("SKIPPED: no vector %s; set CLOISTER_VECTORS", name)
	} else if err != nil {
		t.Fatal(err)
	}
	return path
}

// cloister runs the command line and gives what it wrote and its exit status.
func cloister(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	if err := root.ExecuteContext(t.Context()); err != nil {
		return out.String() + err.Error(), status(err)
	}
	return out.String(), exitDone
}

// TestCollateral: fetch real collateral for a real quote from a stand-in of Intel's service, list it, carry it elsewhere,
// and verify with it.
func TestCollateral(t *testing.T) {
	raw, err := os.ReadFile(collateralVector(t, "dcap-quotes-with-collateral/tdx_quote_collateral.json"))
	if err != nil {
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
	pcs := collateraltest.NewPCS(t)
	pcs.Serve("tdx", "b0c06f000000", "platform", dcap.Files{
		TCBInfo:    []byte(`{"tcbInfo":` + m["tcb_info"] + `,"signature":"` + m["tcb_info_signature"] + `"}`),
		QEIdentity: []byte(`{"enclaveIdentity":` + m["qe_identity"] + `,"signature":"` + m["qe_identity_signature"] + `"}`),
		PCKCRL:     unhex(m["pck_crl"]), RootCRL: unhex(m["root_ca_crl"]),
		TCBInfoIssuerChain: []byte(m["tcb_info_issuer_chain"]), QEIdentityIssuerChain: []byte(m["qe_identity_issuer_chain"]), PCKCRLIssuerChain: []byte(m["pck_crl_issuer_chain"]),
	})
	dir, other, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "bundle.json")
	quote := collateralVector(t, "dcap-quotes-with-collateral/tdx_quote")
	const at = "2025-06-25"
	run := func(want int, args ...string) string {
		t.Helper()
		out, got := cloister(t, append([]string{"attest", "collateral"}, args...)...)
		if got != want {
			t.Errorf("%v: exit status %d, want %d\n%s", args, got, want, out)
		}
		return out
	}
	fetch := []string{"fetch", "--dir", dir, "--at", at, "--evidence", quote, "--intel-url", pcs.URL, "--intel-certificates-url", pcs.URL, "--amd-url", "http://127.0.0.1:1"}
	out := run(exitDone, fetch...)
	for _, want := range []string{"tcb/tdx/b0c06f000000", "qe/tdx", "pckcrl/platform", "rootcrl", "2025-07-19", "good"} {
		if !strings.Contains(out, want) {
			t.Errorf("fetch does not tell %s:\n%s", want, out)
		}
	}
	if run(exitDone, fetch...); len(pcs.Asked()) != 4 {
		t.Errorf("%d requests, want 4: what the folder has is not asked for again", len(pcs.Asked()))
	}
	run(exitDone, "export", "--dir", dir, "--at", at, "--out", file)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	run(exitDone, "import", "--dir", other, "--at", at, file)
	run(exitDone, "export", "--dir", other, "--at", at, "--out", file)
	if second, err := os.ReadFile(file); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v: the same endorsements make another bundle", err)
	}
	var rows []collateral.Row
	if err := json.Unmarshal([]byte(run(exitDone, "list", "--dir", other, "--at", at, "-o", "json")), &rows); err != nil || len(rows) != 4 {
		t.Errorf("list: %v, %d rows, want 4", err, len(rows))
	}
	for _, r := range rows {
		if r.State != collateral.StateGood {
			t.Errorf("%s: %s", r.ID, r.State)
		}
	}
	if out := run(exitDone, "list", "--dir", other, "--at", "2026-06-25"); strings.Count(out, "expired") != 4 {
		t.Errorf("TDX-15 a year later:\n%s", out)
	}
	run(exitUndecided, "export", "--dir", other, "--at", "2026-06-25", "--out", file)

	empty := t.TempDir()
	for name, change := range map[string]func([]byte) []byte{
		"a digest": func(b []byte) []byte { return bytes.Replace(b, []byte(`"sha256": "`), []byte(`"sha256": "00`), 1) },
		"an id": func(b []byte) []byte {
			return bytes.Replace(b, []byte("pckcrl/platform"), []byte("../../etc/x    "), 1)
		},
		"another CA": func(b []byte) []byte {
			return bytes.Replace(b, []byte("pckcrl/platform"), []byte("pckcrl/processor"), 1)
		},
		"a member more":                 func(b []byte) []byte { return bytes.Replace(b, []byte(`"id"`), []byte(`"url": "x", "id"`), 1) },
		"half of it":                    func(b []byte) []byte { return b[:len(b)/2] },
		"bytes that are no certificate": func([]byte) []byte { return []byte("hello") },
	} {
		bad := filepath.Join(t.TempDir(), "bad.json")
		if err := os.WriteFile(bad, change(bytes.Clone(first)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := run(exitRefused, "import", "--dir", empty, "--at", at, bad); out == "" {
			t.Error("no reason", name)
		}
	}
	if out := run(exitDone, "list", "--dir", empty, "--at", at, "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("something of a refused bundle was taken: %s", out)
	}

	// A loose file from a quoting library is taken too.
	loose := t.TempDir()
	if out := run(exitDone, "import", "--dir", loose, "--at", at, collateralVector(t, "dcap-quotes-with-collateral/tdx_quote_collateral.json")); strings.Count(out, "good") != 4 {
		t.Errorf("loose file:\n%s", out)
	}

	out, got := cloister(t, "attest", "verify", "--evidence", quote, "--collateral", dir, "--at", at, "--any", "all")
	without, gotWithout := cloister(t, "attest", "verify", "--evidence", quote, "--at", at, "--any", "all")
	if got == gotWithout || gotWithout != exitUndecided {
		t.Errorf("verify with the folder: exit status %d\n%s\nwithout: %d\n%s", got, out, gotWithout, without)
	}

	// Nobody answers: "unavailable", and the folder is as it was.
	run(exitUndecided, "fetch", "--dir", t.TempDir(), "--at", at, "--evidence", quote, "--intel-url", "http://127.0.0.1:1", "--intel-certificates-url", "http://127.0.0.1:1")
	for _, args := range [][]string{{"fetch", "--dir", dir}, {"fetch", "--dir", dir, "--product", "Rome"}, {"fetch", "--dir", dir, "--fmspc", "../"}, {"fetch", "--dir", dir, "--fmspc", "00806f050000", "--ca", "../x"},
		{"fetch", "--dir", dir, "--product", "Milan", "--amd-url", "http://169.254.169.254"}, {"list"}, {"list", "--dir", dir, "-o", "xml"}, {"list", "--dir", dir, "--at", "noon"}, {"export", "--dir", dir}} {
		run(exitUsage, args...)
	}
}

// TestCollateralSNP: what Azure's THIM gives is taken for a real report, and verifies it offline.
func TestCollateralSNP(t *testing.T) {
	dir := t.TempDir()
	const at = "2023-06-01"
	thim, report := collateralVector(t, "azure-aci-thim-snp/uvm_host_amd_certificate.json"), collateralVector(t, "azure-aci-thim-snp/snp_report.bin")
	if out, got := cloister(t, "attest", "collateral", "import", "--dir", dir, "--at", at, thim, collateralVector(t, "amd-roots/genoa_ask_ark_asvk.pem")); got != exitDone || !strings.Contains(out, "vcek/Milan/b12164b45a2a2742…/7308000000000003") || !strings.Contains(out, "authorities/Genoa/vlek") {
		t.Fatalf("exit status %d\n%s", got, out)
	}
	out, got := cloister(t, "attest", "inspect", "--evidence", report, "--collateral", dir, "--at", at)
	if got != exitDone {
		t.Errorf("exit status %d\n%s", got, out)
	}
}
