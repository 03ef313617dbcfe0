// Package audit keeps the record of what the key keeper gave and refused.
//
// An entry is one line of JSON, flushed to disk before the answer it is about goes out: where it cannot be
// written, nothing is released. Each line holds the SHA-256 of the line before, so that a line that was
// changed or taken out later shows.
package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var afterEntry = failpoint.New("keys/audit-entry")

// Entry is what happened. It holds no key, no session and no token, only their names or digests.
type Entry struct {
	Time        string            `json:"time"` // RFC 3339, UTC
	Event       string            `json:"event"`
	Outcome     string            `json:"outcome"` // granted, refused or failed
	RequestID   string            `json:"requestId"`
	Vault       string            `json:"vault"`
	Key         string            `json:"key"`
	Version     string            `json:"version,omitempty"`
	Caller      string            `json:"caller"` // object id
	VMID        string            `json:"vmId,omitempty"`
	TokenIssuer string            `json:"tokenIssuer,omitempty"`
	TokenID     string            `json:"tokenId,omitempty"`
	TokenSHA256 string            `json:"tokenSha256,omitempty"`
	Generation  *uint64           `json:"generation,omitempty"`
	Session     string            `json:"sessionSha256,omitempty"`
	Assignment  string            `json:"assignment,omitempty"` // of a role: its name, whose it is, and which role
	Principal   string            `json:"principal,omitempty"`
	Role        string            `json:"role,omitempty"`
	Refusal     *evidence.Refusal `json:"refusal,omitempty"`
	Error       string            `json:"error,omitempty"`
	Previous    string            `json:"previous"` // SHA-256 of the line before, without its newline
}

// Digest is how an entry names something that must not be in it.
func Digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Log is an audit log in a file.
type Log struct {
	mu       sync.Mutex
	f        *os.File
	now      func() time.Time
	previous string
	broken   error
}

// maxLine bounds a line when the log is read again, in bytes.
const maxLine = 1 << 20

// Open opens a log, or begins one. A line that was cut by a crash is ended, and stays.
func Open(path string, now func() time.Time) (*Log, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l := &Log{f: f, now: now}
	if err := l.readOn(path); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the audit log: %w", err), f.Close())
	}
	return l, nil
}

func (l *Log) readOn(path string) error {
	var last []byte
	sc := bufio.NewScanner(l.f)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		last = append(last[:0], sc.Bytes()...)
	}
	if err := sc.Err(); err != nil {
		return err
	}
	l.previous = Digest(string(last))
	size, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size > 0 {
		end := make([]byte, 1)
		if _, err := l.f.ReadAt(end, size-1); err != nil {
			return err
		}
		if end[0] != '\n' {
			if _, err := l.f.Write([]byte{'\n'}); err != nil {
				return err
			}
		}
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Write adds an entry and returns nil when it is on disk. Time and Previous are filled in here. After a write
// that failed the log takes no more: part of a line may be there, and the process must begin again.
func (l *Log) Write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return unavailable(l.broken)
	}
	e.Time, e.Previous = l.now().UTC().Format(time.RFC3339Nano), l.previous
	line, err := json.Marshal(e)
	if err != nil {
		return unavailable(err)
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		l.broken = err
		return unavailable(err)
	}
	if err := l.f.Sync(); err != nil {
		l.broken = err
		return unavailable(err)
	}
	afterEntry.Hit()
	l.previous = Digest(string(line))
	return nil
}

func unavailable(err error) error {
	return evidence.Refuse(evidence.CodeUnavailable, "audit log", err.Error(), "an entry on disk before any answer")
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }
