package translog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

func fill(t *testing.T, path string, n int) []byte {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			e := Entry{Time: time.Unix(1, 0).UTC(), Event: "token-refused", Issuer: "https://a", Refused: evidence.Refuse(evidence.CodeBinding, "f", "g", "w")}
			if err := l.Append(e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	fill(t, path, 20)
	raw := fill(t, path, 3)
	lines := bytes.SplitAfter(raw, []byte("\n"))
	if len(lines) != 24 || !strings.Contains(string(lines[22]), `"seq":23`) {
		t.Fatalf("%d lines, last %s", len(lines)-1, lines[22])
	}
	for name, bad := range map[string][]byte{
		"a line changed":   bytes.Replace(raw, []byte("https://a"), []byte("https://b"), 1),
		"a line taken out": bytes.Join(append(append([][]byte{}, lines[:5]...), lines[6:]...), nil),
		"first taken out":  bytes.Join(lines[1:], nil),
		"two swapped":      bytes.Join(append([][]byte{lines[1], lines[0]}, lines[2:]...), nil),
		"no JSON":          append(bytes.Clone(raw), "x\n"...),
		"empty line":       append(bytes.Clone(raw), '\n'),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if l, err := Open(path); err == nil {
				l.Close()
				t.Error("the log was opened")
			}
		})
	}
	t.Run("a crash in the middle of a line", func(t *testing.T) {
		if err := os.WriteFile(path, append(bytes.Clone(raw), lines[0][:20]...), 0o600); err != nil {
			t.Fatal(err)
		}
		after := fill(t, path, 1)
		if !bytes.HasPrefix(after, raw) || bytes.Count(after, []byte("\n")) != 24 {
			t.Errorf("after the crash: %s", after[len(raw):])
		}
	})
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Open(path); err == nil {
		second.Close()
		t.Error("opened twice")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Entry{}); err == nil {
		t.Error("SVC-35: an entry went to a closed log")
	}
	if err := l.Append(Entry{}); err == nil || !strings.Contains(err.Error(), "earlier") {
		t.Errorf("SVC-35: after a failed write: %v", err)
	}
}

// Entries that come together are written together, each once and in a chain that holds.
func TestTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			if err := l.Append(Entry{Event: "token-issued", TokenID: fmt.Sprint(n)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 200 {
		if c := strings.Count(string(raw), fmt.Sprintf(`"jti":"%d"`, n)); c != 1 {
			t.Errorf("entry %d stands %d times", n, c)
		}
	}
	if l, err = Open(path); err != nil {
		t.Fatalf("the chain: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Entry{Event: "x"}); err == nil {
		t.Error("SVC-35 an entry that could not be written was acknowledged")
	}
	if err := l.Append(Entry{Event: "x"}); err == nil {
		t.Error("SVC-35 an entry behind one that could not be written was acknowledged")
	}
}
