package appraise

import (
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/vtpm"
)

// TestBootStateOfRealLogs: logs of other clouds' VMs, with the registers that they replay to.
func TestBootStateOfRealLogs(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	read := func(t *testing.T, name string) ([]byte, vtpm.PCRs) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "tcg-eventlogs", name))
		if os.IsNotExist(err) {
			t.Skipf("SKIPPED, NOT TESTED: vector %s is missing; set CLOISTER_VECTORS", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		log, err := vtpm.ParseEventLog(raw)
		if err != nil {
			t.Fatal(err)
		}
		values, err := log.Replay(vtpm.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		pcrs := vtpm.PCRs{}
		for n, v := range values {
			pcrs[n] = [32]byte(v)
		}
		return raw, pcrs
	}
	for name, want := range map[string]boot{
		"cos-101-amd-sev.bin":            {SecureBoot: true, DefaultKeys: true, DB: true, DBX: true},
		"eventlogwithsp800155.bin":       {SecureBoot: true, DefaultKeys: true, DB: true, DBX: true},
		"ubuntu-2104-no-secure-boot.bin": {DefaultKeys: true, DB: true, DBX: true},
		"ubuntu-2104-no-dbx.bin":         {DefaultKeys: true, DB: true},
	} {
		t.Run(name, func(t *testing.T) {
			raw, pcrs := read(t, name)
			got, err := bootState(raw, pcrs)
			if err != nil || *got != want {
				t.Fatalf("%+v, %v, want %+v", got, err, want)
			}
			for n := range 8 {
				bad := vtpm.PCRs{}
				for k, v := range pcrs {
					bad[k] = v
				}
				v := bad[n]
				v[0] ^= 1
				bad[n] = v
				if _, err := bootState(raw, bad); evidence.CodeOf(err) != evidence.CodeMeasurement {
					t.Errorf("TPM-06 register %d does not count: %v", n, err)
				}
			}
			if _, err := bootState(raw[:len(raw)-1], pcrs); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("TPM-06 cut in an event: %v", err)
			}
			if _, err := bootState(nil, pcrs); evidence.CodeOf(err) != evidence.CodeMeasurement {
				t.Errorf("TPM-06 no log: %v", err)
			}
		})
	}
	raw, pcrs := read(t, "arch-linux-workstation.bin")
	if got, err := bootState(raw, pcrs); err != nil || got.SecureBoot {
		t.Errorf("an empty SecureBoot variable: %+v, %v", got, err)
	}
}
