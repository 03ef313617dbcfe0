package vtpm

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // banks of real logs
	_ "crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

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

// LogEvent is one record. The type is covered by no digest, and for many types the data are not either.
type LogEvent struct {
	PCR     int // 0 to 23; NoPCR only for EV_NO_ACTION
	Type    uint32
	Digests map[Bank][]byte
	Data    []byte
}

// Log is a TCG event log, little-endian: crypto-agile, or of the old form, which has the SHA-1 bank alone.
type Log struct {
	Banks  []Bank
	Events []LogEvent
}

// NoPCR stands for the PCR number 0xffffffff, under which Windows notes its trust points.
const NoPCR = -1

// number is the PCR of a record, and whether such a record may be.
func number(pcr, typ uint32) (int, bool) {
	if pcr == 0xffffffff {
		return NoPCR, typ == evNoAction
	}
	return int(pcr), pcr <= lastPCR
}

// Bounds of a log.
const (
	maxEvents  = 10_000
	lastPCR    = 23
	specHeader = "Spec ID Event03\x00"
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

func malformed(field string, got any, want string) error {
	return evidence.Refuse(evidence.CodeParse, "eventLog."+field, fmt.Sprint(got), want)
}

func badLog(field string, got any, want string) error {
	return evidence.Refuse(evidence.CodeMeasurement, "eventLog."+field, fmt.Sprint(got), want)
}

// ParseEventLog reads a whole log; nothing may follow the last record, padding neither. No log at all is refused as a
// measurement that is missing: it never stands for a log in which nothing is wrong.
func ParseEventLog(raw []byte) (*Log, error) {
	if len(raw) == 0 {
		return nil, badLog("size", 0, "the firmware's event log")
	}
	c := &cursor{b: raw}
	pcr, typ := c.u32(), c.u32()
	c.take(20)
	data := c.take(uint64(c.u32()))
	if c.bad {
		return nil, malformed("header", fmt.Sprintf("%d bytes", len(raw)), "a whole first record")
	}
	if pcr != 0 || typ != evNoAction || !bytes.HasPrefix(data, []byte(specHeader)) {
		return parseOld(raw)
	}
	l := &Log{}
	if err := l.header(c, data); err != nil {
		return nil, err
	}
	for len(c.b) > 0 {
		if len(l.Events) == maxEvents {
			return nil, malformed("events", "more", fmt.Sprintf("at most %d", maxEvents))
		}
		pcr, typ, n := c.u32(), c.u32(), c.u32()
		e := LogEvent{Type: typ, Digests: map[Bank][]byte{}}
		var ok bool
		if e.PCR, ok = number(pcr, typ); !ok || c.bad || int64(n) != int64(len(l.Banks)) {
			return nil, malformed(fmt.Sprintf("event %d", len(l.Events)+1), fmt.Sprintf("%d digests for PCR %d", n, pcr), "one digest per bank, PCR 0 to 23")
		}
		for range l.Banks {
			b := Bank(c.u16())
			if !slices.Contains(l.Banks, b) || e.Digests[b] != nil {
				return nil, malformed("digest", uint16(b), "an algorithm of the header, once")
			}
			e.Digests[b] = c.take(uint64(bankHash[b].Size()))
		}
		e.Data = c.take(uint64(c.u32()))
		if c.bad {
			return nil, malformed(fmt.Sprintf("event %d", len(l.Events)+1), "cut short", "a whole record")
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// header reads TCG_EfiSpecIDEvent: signature 16, class 4, version 3, size of UINTN 1, algorithms (number u32, then id and
// size, u16 each), vendor data behind their size (u8). Some writers leave vendor data out of the record's size.
func (l *Log) header(c *cursor, data []byte) error {
	spec := &cursor{b: data[len(specHeader):]}
	spec.take(8)
	n := spec.u32()
	if spec.bad || n == 0 || n > 8 {
		return malformed("algorithms", n, "1 to 8")
	}
	for range n {
		b, size := Bank(spec.u16()), spec.u16()
		if h, ok := bankHash[b]; spec.bad || !ok || h.Size() != int(size) || slices.Contains(l.Banks, b) {
			return malformed("algorithm", fmt.Sprintf("%#x, %d bytes", uint16(b), size), "SHA-1 or SHA-2 with its size, once")
		}
		l.Banks = append(l.Banks, b)
	}
	vendor := uint64(spec.take(1)[0])
	if !spec.bad && len(spec.b) == 0 {
		c.take(vendor)
	} else if uint64(len(spec.b)) != vendor {
		spec.bad = true
	}
	if spec.bad || c.bad {
		return malformed("vendor", len(spec.b), "the size stated")
	}
	return nil
}

// parseOld reads a log of TCG_PCR_EVENT records: PCR, type, SHA-1 digest, size, data. Firmware for TPM 1.2 wrote such.
func parseOld(raw []byte) (*Log, error) {
	l := &Log{Banks: []Bank{SHA1}}
	for c := (&cursor{b: raw}); len(c.b) > 0; {
		pcr, typ := c.u32(), c.u32()
		e := LogEvent{Type: typ, Digests: map[Bank][]byte{SHA1: c.take(20)}, Data: c.take(uint64(c.u32()))}
		var ok bool
		if e.PCR, ok = number(pcr, typ); !ok || c.bad || len(l.Events) == maxEvents {
			return nil, malformed(fmt.Sprintf("event %d", len(l.Events)+1), "cut short, or not a record", "whole records for PCR 0 to 23")
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// Replay computes the PCRs of a bank; EV_NO_ACTION is not extended, but may set PCR 0's start locality.
func (l *Log) Replay(b Bank) (map[int][]byte, error) {
	h, ok := bankHash[b]
	if !ok || !slices.Contains(l.Banks, b) {
		return nil, badLog("bank", fmt.Sprintf("%#x of %#x", uint16(b), l.Banks), "a bank of the log")
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

// Firmware are the PCRs that a log must explain from start to end; others go on after the firmware hands over.
var Firmware = [8]int{0, 1, 2, 3, 4, 5, 6, 7}

// Explains refuses a log whose replay in the SHA-256 bank gives other values for PCR 0 to 7 than those quoted, or that
// leaves one of them as it was at reset.
func (l *Log) Explains(quoted PCRs) error {
	replayed, err := l.Replay(SHA256)
	if err != nil {
		return err
	}
	for _, n := range Firmware {
		want, ok := quoted[n]
		if !ok || !bytes.Equal(replayed[n], want[:]) {
			return evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("eventLog PCR %d", n), hex.EncodeToString(replayed[n]), hex.EncodeToString(want[:])+", as quoted").By("the log replays to the quoted PCR")
		}
		if want == ([32]byte{}) {
			return evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("eventLog PCR %d", n), "zero: nothing was measured", "a measured value")
		}
	}
	return nil
}
