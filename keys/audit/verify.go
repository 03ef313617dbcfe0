package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
)

// Report is what Verify found.
type Report struct {
	Entries uint64 `json:"entries"`
	Cut     uint64 `json:"cut"`   // lines that a crash cut off in the middle; they are part of the chain
	Heads   uint64 `json:"heads"` // signed heads that hold
	Last    Head   `json:"lastHead"`
}

// Read hands out the entries of a log in order. Lines that a crash cut off are left out. Each entry is given as it was written.
func Read(log io.Reader, each func(Entry) error) error {
	return lines(log, func(_ uint64, line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) != nil {
			return nil
		}
		return each(e)
	})
}

func lines(r io.Reader, each func(n uint64, line []byte) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for n := uint64(1); sc.Scan(); n++ {
		if err := each(n, sc.Bytes()); err != nil {
			return err
		}
	}
	return sc.Err()
}

// Verify checks a log: each line follows the one before, and every signed head is about a line that is still there. Open
// verifies a head's signature and gives its payload. What it can't show: a log that was cut off together with its latest
// heads. Keep a head elsewhere for that.
func Verify(log, signed io.Reader, open func(jws string) ([]byte, error)) (Report, error) {
	var r Report
	digests := []string{Digest("")}
	err := lines(log, func(n uint64, line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) != nil {
			r.Cut++
		} else if e.Previous != digests[n-1] {
			return broken(fmt.Sprintf("entry %d", n), "a digest of another line before it", digests[n-1])
		} else {
			r.Entries++
		}
		digests = append(digests, Digest(string(line)))
		return nil
	})
	if err != nil {
		return r, err
	}
	var last uint64
	err = lines(signed, func(n uint64, line []byte) error {
		field := fmt.Sprintf("head %d", n)
		payload, err := open(string(line))
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		var h Head
		if err := json.Unmarshal(payload, &h); err != nil {
			return broken(field, err.Error(), "a head")
		}
		switch {
		case h.Entries >= uint64(len(digests)):
			return broken("log", fmt.Sprintf("%d lines", len(digests)-1), fmt.Sprintf("at least %d, as %s says", h.Entries, field))
		case digests[h.Entries] != h.SHA256:
			return broken(fmt.Sprintf("entry %d", h.Entries), digests[h.Entries], h.SHA256+", as "+field+" says")
		case h.Entries < last:
			return broken(field, fmt.Sprintf("%d entries", h.Entries), fmt.Sprintf("at least %d, as the head before says", last))
		}
		last, r.Last = h.Entries, h
		r.Heads++
		return nil
	})
	return r, err
}

func broken(field, got, want string) error {
	return evidence.Refuse(evidence.CodeBinding, field, got, want).By("audit log")
}
