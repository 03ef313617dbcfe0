package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	open := func() *Log {
		l, err := Open(path, func() time.Time { return time.Unix(1_800_000_000, 0) })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	write := func(l *Log, event string) {
		if err := l.Write(Entry{Event: event, Outcome: "granted"}); err != nil {
			t.Fatal(err)
		}
	}
	l := open()
	write(l, "one")
	write(l, "two")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash in the middle of a line.
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(raw, []byte(`{"event":"to`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open()
	write(l, "three")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n"))
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4:\n%s", len(lines), raw)
	}
	previous := Digest("")
	for i, line := range lines {
		if i != 2 {
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			if e.Previous != previous {
				t.Errorf("line %d does not follow the line before", i+1)
			}
		}
		previous = Digest(string(line))
	}
}

func TestSVC35AFailedWriteIsUnavailable(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "audit.jsonl"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(Entry{Event: "one"}); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.f.Close(); err != nil {
		t.Fatal(err)
	}
	l.f = full
	for range 2 {
		if err := l.Write(Entry{Event: "two"}); evidence.CodeOf(err) != evidence.CodeUnavailable {
			t.Errorf("%v", err)
		}
	}
}
