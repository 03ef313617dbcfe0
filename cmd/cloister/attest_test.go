package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/judge/judgetest"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/sevsnp"
)

// madeEvidence is evidence of every form under a root of this test, by file name.
func madeEvidence(t testing.TB) map[string][]byte {
	t.Helper()
	v, other := judgetest.New(t), judgetest.New(t)
	data := [64]byte{1, 2, 3}
	x := launch.Expected{Version: launch.ExpectedVersion, Kind: bundle.Kind, Roots: []evidence.RootKind{evidence.RootSoftware}, PCRs: map[string]string{},
		Measurement: []string{hex.EncodeToString(judgetest.Measurement[:])}, HostData: hex.EncodeToString(judgetest.HostData[:])}
	for _, n := range []int{4, 7, 11, 12, 13} {
		value := v.PCRs[n]
		x.PCRs[strconv.Itoa(n)] = hex.EncodeToString(value[:])
	}
	document, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := json.Marshal(map[string]any{"softwareRoots": []string{string(v.RootPEM())}})
	if err != nil {
		t.Fatal(err)
	}
	report := v.Report(t, data, nil)
	return map[string][]byte{
		"report.bin": report, "report.hex": []byte(hex.EncodeToString(report) + "\n"), "chain.pem": v.Chip.Chain.PEM(), "vcek.der": v.Chip.Chain.Leaf.Raw,
		"debug.bin": v.Report(t, data, func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }), "root.pem": v.RootPEM(), "other-root.pem": other.RootPEM(),
		"vmpl1.bin": v.Report(t, data, func(r *sevsnp.Report) { r.VMPL = 1 }), "azure.json": v.Azure(t, judgetest.Nonce, nil), "bundle.json": v.Bundle(t, judgetest.Nonce, nil),
		"expect1.json": document, "state/trust.json": trust, "empty.bin": nil, "cut.bin": report[:1000],
	}
}

// TestAttestScripts uses "attest inspect" and "attest verify" as people and scripts do: no platform, evidence in files.
func TestAttestScripts(t *testing.T) {
	made := madeEvidence(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/attest",
		Setup: func(e *testscript.Env) error {
			for name, raw := range made {
				path := filepath.Join(e.WorkDir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					return err
				}
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					return err
				}
			}
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CLOISTER_STATE", e.WorkDir+"/none")
			e.Setenv("AT", judgetest.Now.Format(time.RFC3339))
			e.Setenv("UNIX", strconv.FormatInt(judgetest.Now.Unix(), 10))
			e.Setenv("NONCE", hex.EncodeToString(judgetest.Nonce))
			e.Setenv("DATA", "010203"+strings.Repeat("00", 61))
			e.Setenv("MEASUREMENT", hex.EncodeToString(judgetest.Measurement[:]))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": wantStatus},
	})
}

func TestReadNonce(t *testing.T) {
	for text, want := range map[string]string{"6368616c6c656e6765": "challenge", "Y2hhbGxlbmdl": "challenge", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=": strings.Repeat("\x07", 32), "-_-_": "\xfb\xff\xbf"} {
		if got, err := readNonce(text); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "*", "abc", "a b"} {
		if got, err := readNonce(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}
