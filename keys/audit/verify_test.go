package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

// plainly stands for a signer: what counts here is which head is about which line.
func plainly(v any) (string, error) {
	raw, err := json.Marshal(v)
	return "signed " + string(raw), err
}

func open(line string) ([]byte, error) {
	payload, ok := strings.CutPrefix(line, "signed ")
	if !ok {
		return nil, evidence.Refuse(evidence.CodeChain, "head", "no signature", "one by the key keeper")
	}
	return []byte(payload), nil
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	path, headPath := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "audit.heads")
	l, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SignHeads(headPath, plainly); err != nil {
		t.Fatal(err)
	}
	const callers, each = 20, 30 // more than one head's worth, in parallel
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				if err := l.Write(Entry{Event: fmt.Sprint(c, "-", n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	heads, err := os.ReadFile(headPath)
	if err != nil {
		t.Fatal(err)
	}
	check := func(log, heads []byte) (Report, error) {
		return Verify(bytes.NewReader(log), bytes.NewReader(heads), open)
	}
	r, err := check(log, heads)
	if err != nil || r.Entries != callers*each || r.Heads < 4 || r.Last.Entries != callers*each {
		t.Fatalf("%+v %v", r, err)
	}
	seen := map[string]bool{}
	if err := Read(bytes.NewReader(log), func(e Entry) error { seen[e.Event] = true; return nil }); err != nil || len(seen) != callers*each {
		t.Errorf("%d different entries, %v", len(seen), err)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	join := func(l [][]byte) []byte { return bytes.Join(l, nil) }
	for name, bad := range map[string][2][]byte{
		"a changed entry":           {bytes.Replace(log, []byte(`"event":"3-4"`), []byte(`"event":"3-5"`), 1), heads},
		"an entry taken out":        {join(append(append([][]byte{}, lines[:10]...), lines[11:]...)), heads},
		"two entries swapped":       {join(append(append([][]byte{}, lines[:10]...), append([][]byte{lines[11], lines[10]}, lines[12:]...)...)), heads},
		"the end cut off":           {join(lines[:len(lines)-3]), heads},
		"everything gone":           {nil, heads},
		"the log of another time":   {join(lines[1:]), heads},
		"a head that nobody signed": {log, append([]byte(`{"entries":1}`+"\n"), heads...)},
		"heads out of order":        {log, append(append([]byte{}, heads...), bytes.SplitAfter(heads, []byte("\n"))[0]...)},
	} {
		if r, err := check(bad[0], bad[1]); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// A crash cuts a line; the next one follows it, and both heads and chain hold.
	if err := os.WriteFile(path, append(log, []byte(`{"event":"cu`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(path, time.Now); err != nil {
		t.Fatal(err)
	}
	if err := l.SignHeads(headPath, plainly); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(Entry{Event: "after"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log, _ = os.ReadFile(path)
	heads, _ = os.ReadFile(headPath)
	if r, err := check(log, heads); err != nil || r.Cut != 1 || r.Entries != callers*each+1 {
		t.Errorf("after a crash: %+v %v", r, err)
	}
}
