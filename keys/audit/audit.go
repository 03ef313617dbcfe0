// Package audit keeps the record of what the key keeper gave and refused.
//
// An entry is one line of JSON, flushed to disk before the answer it is about goes out: where it cannot be
// written, nothing is released. Callers that write at the same time share a flush. Each line holds the SHA-256 of the
// line before, so that a line that was changed or taken out later shows; signed heads, in a file beside it, show
// a log that was cut off at its end.
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
	ApprovedBy  string            `json:"approvedBy,omitempty"` // object id of the owner who approved this restore
	StoreEpoch  *uint64           `json:"storeEpoch,omitempty"` // of a store that was restored: the new one
	Backup      string            `json:"backupSha256,omitempty"`
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
	now func() time.Time

	mu       sync.Mutex // of what follows
	f        *os.File
	lines    uint64 // written, not all of them flushed
	previous string // digest of the last line
	broken   error
	heads    *heads

	flushing sync.Mutex // held by who flushes; the others find their line flushed when they get it
	flushed  uint64     // lines that are on disk
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
		l.lines++
	}
	l.flushed = l.lines
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
	n, err := l.append(e)
	if err != nil {
		return err
	}
	if err := l.flush(n); err != nil {
		return err
	}
	afterEntry.Hit()
	if n%headEvery == 0 {
		return l.Head()
	}
	return nil
}

// append adds a line and gives its number, from 1. It is not on disk yet.
func (l *Log) append(e Entry) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return 0, unavailable(l.broken)
	}
	e.Time, e.Previous = l.now().UTC().Format(time.RFC3339Nano), l.previous
	line, err := json.Marshal(e)
	if err != nil {
		return 0, unavailable(err)
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		l.broken = err
		return 0, unavailable(err)
	}
	l.previous = Digest(string(line))
	l.lines++
	return l.lines, nil
}

// flush returns when line n is on disk. One flush serves all the lines that were written before it began.
func (l *Log) flush(n uint64) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	if l.flushed >= n {
		return nil
	}
	l.mu.Lock()
	f, upTo, broken := l.f, l.lines, l.broken
	l.mu.Unlock()
	if broken != nil {
		return unavailable(broken)
	}
	if err := f.Sync(); err != nil {
		l.mu.Lock()
		l.broken = err
		l.mu.Unlock()
		return unavailable(err)
	}
	l.flushed = upTo
	return nil
}

func unavailable(err error) error {
	return evidence.Refuse(evidence.CodeUnavailable, "audit log", err.Error(), "an entry on disk before any answer")
}

// Close signs a last head and closes the files.
func (l *Log) Close() error {
	err := l.Head()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heads != nil {
		err = errors.Join(err, l.heads.f.Close())
	}
	return errors.Join(err, l.f.Close())
}
