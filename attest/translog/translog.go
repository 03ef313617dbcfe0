// Package translog is the transparency log: one JSON line for each token issued or refused and for each
// change of a policy.
//
// Lines are only ever appended. Each carries the SHA-256 of the line before it, so that a line changed
// or taken out later shows (lines cut off the end do not: keep a copy of the last hash elsewhere). It
// holds no secrets: neither evidence nor tokens, only their digests.
package translog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var afterLine = failpoint.New("attest/transparency-line")

// maxLine bounds one line, in bytes. The longest carries the text of a policy.
const maxLine = 1 << 20

// Entry is what happened. Fields that do not apply are empty.
type Entry struct {
	Time    time.Time         `json:"time"`
	Event   string            `json:"event"` // token-issued, token-refused, ak-certificate-issued, ak-certificate-refused, policy-set, policy-reset, policy-refused
	Issuer  string            `json:"issuer"`
	Kind    string            `json:"kind,omitempty"` // attestation type
	Root    evidence.RootKind `json:"root,omitempty"`
	TokenID string            `json:"jti,omitempty"`
	Request string            `json:"requestSHA256,omitempty"` // hex, of the request body
	Policy  string            `json:"policyHash,omitempty"`
	Text    string            `json:"policyText,omitempty"` // policy-set only: policies are no secrets
	Caller  string            `json:"caller,omitempty"`     // object id, policy changes only
	Refused *evidence.Refusal `json:"refusal,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
}

type line struct {
	Seq  uint64 `json:"seq"`
	Prev string `json:"prev"` // hex SHA-256 of the line before without its newline; 64 zeros on the first
	Entry
}

// Log appends to one file.
type Log struct {
	mu   sync.Mutex
	f    *os.File
	seq  uint64
	prev [32]byte
	bad  error // a write that failed half-way: nothing more is written

	next    *batch // what the next write takes; nil: nothing
	writing bool   // a goroutine is in write
}

// Open reads a log through, checks its chain, and readies it for appending. A last line without its
// newline is what a crash left: it was never acknowledged, and is cut off.
func Open(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &Log{f: f}
	var end int64
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("another process has it open: %w", err)
	} else {
		end, err = l.read()
	}
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("transparency log %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) read() (end int64, err error) {
	r := bufio.NewReaderSize(l.f, maxLine+1)
	for {
		raw, err := r.ReadSlice('\n')
		if err == io.EOF {
			return end, nil
		}
		if err != nil {
			return 0, err
		}
		if err := l.check(bytes.TrimSuffix(raw, []byte("\n"))); err != nil {
			return 0, err
		}
		end += int64(len(raw))
	}
}

func (l *Log) check(raw []byte) error {
	var got line
	if err := json.Unmarshal(raw, &got); err != nil {
		return fmt.Errorf("line %d: %w", l.seq+1, err)
	}
	if got.Seq != l.seq+1 || got.Prev != hex.EncodeToString(l.prev[:]) {
		return fmt.Errorf("line %d does not follow the line before it: the log was changed", l.seq+1)
	}
	l.seq, l.prev = got.Seq, sha256.Sum256(raw)
	return nil
}

// batch is lines that are written and synced together.
type batch struct {
	lines []byte
	done  chan struct{}
	err   error // set before done is closed
}

// Append writes an entry and syncs it. Callers answer only after it: what is not in the log did not happen. Entries
// of callers that come while the disk is busy are written together.
func (l *Log) Append(e Entry) error {
	b, err := l.enqueue(e)
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	<-b.done
	if b.err != nil {
		return fmt.Errorf("transparency log: %w", b.err)
	}
	return nil
}

func (l *Log) enqueue(e Entry) (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return nil, fmt.Errorf("an earlier write failed: %w", l.bad)
	}
	raw, err := json.Marshal(line{Seq: l.seq + 1, Prev: hex.EncodeToString(l.prev[:]), Entry: e})
	if err != nil {
		return nil, err
	}
	if len(raw) >= maxLine {
		return nil, fmt.Errorf("a line of %d bytes", len(raw))
	}
	l.seq, l.prev = l.seq+1, sha256.Sum256(raw)
	if l.next == nil {
		l.next = &batch{done: make(chan struct{})}
	}
	b := l.next
	b.lines = append(append(b.lines, raw...), '\n')
	if !l.writing {
		l.writing = true
		go l.write()
	}
	return b, nil
}

// write writes batches until there are none.
func (l *Log) write() {
	for {
		l.mu.Lock()
		b, bad := l.next, l.bad
		l.next = nil
		l.writing = b != nil
		l.mu.Unlock()
		if b == nil {
			return
		}
		if b.err = bad; bad == nil { // lines behind one that failed would not follow from the file
			_, err := l.f.Write(b.lines)
			b.err = errors.Join(err, l.f.Sync())
		}
		if b.err != nil {
			l.mu.Lock()
			l.bad = b.err
			l.mu.Unlock()
		} else {
			afterLine.Hit()
		}
		close(b.done)
	}
}

// Close ends the log.
func (l *Log) Close() error { return l.f.Close() }
