package vtpm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestHostileLogs: logs that replay to the true PCRs and still must be refused. Logs whose replay differs
// are caught against a quote and are not judged here.
func TestHostileLogs(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	dir = filepath.Join(dir, "launch", "tcg-logs-negative")
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Skipf("VECTORS MISSING: %v", err)
	}
	var e struct {
		Base  string
		Cases []struct {
			File, Verdict, Why string
			Replay             string `json:"replay_against_base_pcrs"`
		}
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	judge := func(file string) error {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseEventLog(raw)
		if err == nil {
			_, err = l.Replay(SHA256)
		}
		if err == nil {
			err = l.Check()
		}
		return err
	}
	if err := judge(e.Base); err != nil {
		t.Errorf("TPM-04 positive twin: %v", err)
	}
	for _, c := range e.Cases {
		if err := judge(c.File); c.Verdict == "refuse" && c.Replay == "equal" && err == nil {
			t.Errorf("TPM-04 %s accepted: %s", c.File, c.Why)
		}
	}
}

func TestExitBootServices(t *testing.T) {
	const call, success, failure = "Invocation", "Returned with Success", "Returned with Failure"
	for _, r := range []struct {
		name  string
		exits []string
		good  bool
	}{
		{"left at once", []string{call, success}, true},
		{"left at the second try", []string{failure, call, success}, true},
		{"left at the second call", []string{call, failure, call, success}, true},
		{"TPM-06 never left", nil, false},
		{"TPM-06 called only", []string{call}, false},
		{"called twice, never left", []string{call, call}, false},
		{"failed", []string{call, failure}, false},
		{"left twice", []string{call, success, call, success}, false},
		{"a text that no firmware writes", []string{"x", call, success}, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := checkExit(r.exits); (err == nil) != r.good {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzEventLog(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if l, err := ParseEventLog(raw); err == nil {
			_, _ = l.Replay(SHA256)
			_ = l.Check()
		}
	})
}
