package vtpm

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // banks of real logs
	_ "crypto/sha512"
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Bank is a TPM hash algorithm number.
type Bank uint16

// The banks.
const (
	SHA1   Bank = 4
	SHA256 Bank = 0xb
	SHA384 Bank = 0xc
	SHA512 Bank = 0xd
)

var bankHash = map[Bank]crypto.Hash{SHA1: crypto.SHA1, SHA256: crypto.SHA256, SHA384: crypto.SHA384, SHA512: crypto.SHA512}

// LogEvent is one record. The type is covered by no digest.
type LogEvent struct {
	PCR     int
	Type    uint32
	Digests map[Bank][]byte
	Data    []byte
}

// Log is a crypto-agile TCG event log, little-endian.
type Log struct {
	Banks  []Bank
	Events []LogEvent
}

const (
	evNoAction  = 3
	evSeparator = 4
	evVariable  = 0x80000001
	evGPT       = 0x80000006
	evAction    = 0x80000007
	evAuthority = 0x800000e0
)

type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)) {
		c.bad = true
		return make([]byte, min(n, 8))
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}
func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }

func badLog(field string, got any, want string) error {
	return evidence.Refuse(evidence.CodeMeasurement, "eventLog."+field, fmt.Sprint(got), want)
}

// ParseEventLog reads a whole log; nothing may follow the last record.
func ParseEventLog(raw []byte) (*Log, error) {
	c := &cursor{b: raw}
	pcr, typ := c.u32(), c.u32()
	c.take(20)
	spec := &cursor{b: c.take(uint64(c.u32()))}
	if sig := spec.take(16); c.bad || spec.bad || pcr != 0 || typ != evNoAction || string(sig) != "Spec ID Event03\x00" {
		return nil, badLog("header", len(raw), "a crypto-agile log")
	}
	spec.take(8)
	l, n := &Log{}, spec.u32()
	if n == 0 || n > 8 {
		return nil, badLog("algorithms", n, "1 to 8")
	}
	for range n {
		b, size := Bank(spec.u16()), spec.u16()
		if h, ok := bankHash[b]; spec.bad || !ok || h.Size() != int(size) {
			return nil, badLog("algorithm", fmt.Sprintf("%#x, %d bytes", uint16(b), size), "SHA-1 or SHA-2 with its size")
		}
		l.Banks = append(l.Banks, b)
	}
	if v := spec.take(1); spec.bad || int(v[0]) != len(spec.b) {
		return nil, badLog("vendor", len(spec.b), "the size stated")
	}
	for len(c.b) > 0 {
		e := LogEvent{PCR: int(c.u32()), Type: c.u32(), Digests: map[Bank][]byte{}}
		if n := c.u32(); c.bad || int64(n) != int64(len(l.Banks)) || e.PCR > 23 {
			return nil, badLog("event", n, "one digest per bank, PCR 0 to 23")
		}
		for range l.Banks {
			b := Bank(c.u16())
			h, ok := bankHash[b]
			if !ok || e.Digests[b] != nil {
				return nil, badLog("digest", uint16(b), "an algorithm of the header, once")
			}
			e.Digests[b] = c.take(uint64(h.Size()))
		}
		e.Data = c.take(uint64(c.u32()))
		for _, b := range l.Banks {
			if c.bad || e.Digests[b] == nil {
				return nil, badLog("event", len(l.Events), "a whole record with each bank")
			}
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// Replay computes the PCRs of a bank; EV_NO_ACTION is not extended, but may set PCR 0's start locality.
func (l *Log) Replay(b Bank) (map[int][]byte, error) {
	h, ok := bankHash[b]
	if !ok {
		return nil, badLog("bank", uint16(b), "a bank of the log")
	}
	out := map[int][]byte{}
	for _, e := range l.Events {
		v := out[e.PCR]
		if e.Type == evNoAction {
			if len(e.Data) == 17 && string(e.Data[:16]) == "StartupLocality\x00" {
				if e.PCR != 0 || v != nil || e.Data[16] != 0 && e.Data[16] != 3 && e.Data[16] != 4 {
					return nil, badLog("locality", e.Data[16], "0, 3 or 4, first in PCR 0")
				}
				out[0] = make([]byte, h.Size())
				out[0][h.Size()-1] = e.Data[16]
			}
			continue
		}
		if e.Digests[b] == nil {
			return nil, badLog("bank", uint16(b), "a bank of the log")
		}
		if v == nil {
			v = make([]byte, h.Size())
		}
		x := h.New()
		x.Write(v)
		x.Write(e.Digests[b])
		out[e.PCR] = x.Sum(nil)
	}
	return out, nil
}

// Check applies the rules for PCR 0 to 7 that a replay cannot: known types, data that hash to their
// digest where the type says so, one separator each, only authorities after PCR 7's, and a complete exit
// from boot services.
func (l *Log) Check() error {
	separators, exits := map[int]int{}, []string(nil)
	for i, e := range l.Events {
		if e.PCR > 7 || e.Type == evNoAction {
			continue
		}
		if !allowed(e.PCR, e.Type) {
			return badLog("type", fmt.Sprintf("%#x in PCR %d, event %d", e.Type, e.PCR, i), "a type known there")
		}
		switch e.Type {
		case evSeparator, evVariable, evGPT, evAction:
			for _, b := range l.Banks {
				h := bankHash[b].New()
				h.Write(e.Data)
				if !bytes.Equal(h.Sum(nil), e.Digests[b]) {
					return badLog("data", fmt.Sprintf("event %d, PCR %d", i, e.PCR), "data that hash to the digest")
				}
			}
		}
		if e.PCR == 7 && separators[7] > 0 && e.Type != evAuthority && e.Type != evSeparator {
			return badLog("order", fmt.Sprintf("%#x", e.Type), "authorities only after PCR 7's separator")
		}
		if e.Type == evSeparator {
			if !bytes.Equal(e.Data, make([]byte, 4)) {
				return badLog("separator", fmt.Sprintf("%x", e.Data), "00000000")
			}
			separators[e.PCR]++
		}
		if what, ok := bytes.CutPrefix(e.Data, []byte("Exit Boot Services ")); ok && e.PCR == 5 && e.Type == evAction {
			exits = append(exits, string(what))
		}
	}
	for p := range 8 {
		if separators[p] != 1 {
			return badLog("separator", fmt.Sprintf("%d in PCR %d", separators[p], p), "exactly one")
		}
	}
	return checkExit(exits)
}

// checkExit wants boot services to have been left, once: an operating system may fail to at first, and try again.
func checkExit(exits []string) error {
	const call, success, failure = "Invocation", "Returned with Success", "Returned with Failure"
	n := len(exits)
	if n < 2 || exits[n-2] != call || exits[n-1] != success {
		return badLog("exitBootServices", fmt.Sprintf("%.200q", exits), "a call that succeeded, last")
	}
	for _, what := range exits[:n-2] {
		if what != call && what != failure {
			return badLog("exitBootServices", fmt.Sprintf("%.40q", what), "only failed calls before the one that succeeded")
		}
	}
	return nil
}

func allowed(pcr int, t uint32) bool {
	switch t {
	case evSeparator, evAction:
		return true
	case evVariable, evAuthority:
		return pcr == 7 || pcr == 1 && t == evVariable
	case 0x80000003, 0x80000004, 0x80000005: // images
		return pcr == 4 && t == 0x80000003 || pcr == 0 || pcr == 2
	case evGPT:
		return pcr == 5
	case 1, 8, 7, 0x80000008, 0x8000000a, 0x11: // firmware code, versions
		return pcr == 0 || pcr == 2 && t != 8
	case 0xa, 9, 0x80000002, 0x80000009, 0x8000000b, 0x80000010: // platform configuration
		return pcr == 1 || pcr == 3
	case 5, 0xd:
		return pcr == 4 || pcr == 5
	}
	return false
}
