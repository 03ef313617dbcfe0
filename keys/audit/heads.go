package audit

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// headEvery is after how many entries a head is signed, besides at start, at the end and when Head is called.
const headEvery = 256

// Head says how long the log is and what its last line is. Whoever keeps one elsewhere sees when the log is shortened.
type Head struct {
	Entries uint64 `json:"entries"`
	SHA256  string `json:"sha256"` // of the last line, without its newline
	Time    string `json:"time"`   // RFC 3339, UTC
}

type heads struct {
	f    *os.File
	sign func(any) (string, error)
	last uint64 // entries that the last head is about
	some bool   // a head was signed since the log was opened
}

// SignHeads has heads signed from now on and kept in a file, a compact JWS on each line. One is signed at once.
func (l *Log) SignHeads(path string, sign func(any) (string, error)) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("opening the audit log's heads: %w", err)
	}
	l.mu.Lock()
	if l.heads != nil {
		l.mu.Unlock()
		return errors.Join(errors.New("the audit log's heads are signed already"), f.Close())
	}
	l.heads = &heads{f: f, sign: sign}
	l.mu.Unlock()
	return l.Head()
}

// Head signs a head of all entries that are on disk, unless the last one says the same.
func (l *Log) Head() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.heads
	if h == nil || l.broken != nil || h.some && h.last == l.lines {
		return nil
	}
	if err := l.f.Sync(); err != nil {
		l.broken = err
		return unavailable(err)
	}
	jws, err := h.sign(Head{Entries: l.lines, SHA256: l.previous, Time: l.now().UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return unavailable(err)
	}
	if _, err := h.f.WriteString(jws + "\n"); err != nil {
		return unavailable(err)
	}
	if err := h.f.Sync(); err != nil {
		return unavailable(err)
	}
	h.last, h.some = l.lines, true
	return nil
}
