package tdx

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/vtpm"
)

// MaxLog bounds a CCEL log, in bytes. Firmware reserves up to 256 KiB.
const MaxLog = 1 << 20

// separator is the event type EV_SEPARATOR.
const separator = 4

// Event is one record of a CCEL log. Types are covered by no digest.
type Event struct {
	Register int // 0 to 3: the RTMR that was extended; -1 for MRTD, which nothing extends
	Type     uint32
	Digest   [48]byte // SHA-384
	Data     []byte
}

// ParseCCEL reads the log that the ACPI table CCEL names: a crypto-agile TCG log whose register numbers count MRTD as 0 and RTMR 0
// as 1. Firmware fills what is reserved behind its end with zeros or 0xff; anything else there is refused.
// Source: UEFI Specification, "Confidential Computing", mapping of measurement registers.
func ParseCCEL(raw []byte) ([]Event, error) {
	if len(raw) > MaxLog {
		return nil, evidence.Refuse(evidence.CodeParse, "CCEL log", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d", MaxLog))
	}
	end, err := ccelEnd(raw)
	if err != nil {
		return nil, err
	}
	for _, fill := range []byte{0, 0xff} {
		if rest := raw[end:]; len(bytes.Trim(rest, string([]byte{fill}))) == 0 {
			return readCCEL(raw[:end])
		}
	}
	return nil, evidence.Refuse(evidence.CodeParse, "CCEL log", "other bytes after its end", "zeros, or 0xff")
}

func readCCEL(raw []byte) ([]Event, error) {
	// The first record, which is of the old form and extends nothing, names register 1 here and register 0 in a TPM's log.
	raw = bytes.Clone(raw)
	if first := binary.LittleEndian.Uint32(raw); first > 1 {
		return nil, evidence.Refuse(evidence.CodeParse, "header of the CCEL log", fmt.Sprintf("register %d", first), "0 or 1")
	}
	raw[0] = 0
	log, err := vtpm.ParseEventLog(raw)
	if err != nil {
		return nil, err
	}
	var out []Event
	for i, e := range log.Events {
		if e.PCR == vtpm.NoPCR {
			continue
		}
		if e.PCR > 4 {
			return nil, evidence.Refuse(evidence.CodeParse, fmt.Sprintf("event %d of the CCEL log", i), fmt.Sprintf("register %d", e.PCR), "0 to 4")
		}
		d, ok := e.Digests[vtpm.SHA384]
		if !ok || len(d) != 48 {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("event %d of the CCEL log", i), "no SHA-384 digest", "one, which the register was extended by")
		}
		out = append(out, Event{Register: e.PCR - 1, Type: e.Type, Digest: [48]byte(d), Data: e.Data})
	}
	return out, nil
}

// ccelEnd finds the end of the last record: where a record begins with zeros or 0xff, the filling begins.
func ccelEnd(raw []byte) (int, error) {
	cut := func(at int) (int, error) {
		return 0, evidence.Refuse(evidence.CodeParse, "CCEL log", fmt.Sprintf("a record that is cut off at byte %d", at), "whole records")
	}
	le := binary.LittleEndian
	sizes := map[uint16]int{uint16(vtpm.SHA1): 20, uint16(vtpm.SHA256): 32, uint16(vtpm.SHA384): 48, uint16(vtpm.SHA512): 64}
	if len(raw) < 32 {
		return cut(0)
	}
	// The header is a record of the old form: register, type, SHA-1, size, data.
	at := 32 + int(min(uint64(le.Uint32(raw[28:])), uint64(len(raw))))
	for at+12 <= len(raw) {
		register, kind, n := le.Uint32(raw[at:]), le.Uint32(raw[at+4:]), le.Uint32(raw[at+8:])
		if register == 0xffffffff && kind == 0xffffffff || register == 0 && kind == 0 && n == 0 {
			break
		}
		next := at + 12
		for range min(n, 16) {
			if next+2 > len(raw) {
				return cut(at)
			}
			size, ok := sizes[le.Uint16(raw[next:])]
			if !ok {
				return 0, evidence.Refuse(evidence.CodeParse, "CCEL log", fmt.Sprintf("digest algorithm %#x", le.Uint16(raw[next:])), "SHA-1, SHA-256, SHA-384 or SHA-512")
			}
			next += 2 + size
		}
		if next+4 > len(raw) {
			return cut(at)
		}
		size := uint64(le.Uint32(raw[next:]))
		if next += 4; size > uint64(len(raw)-next) {
			return cut(at)
		}
		at = next + int(size)
	}
	return min(at, len(raw)), nil
}

// ReplayCCEL computes RTMR 0 to 3 from a log. A register that nothing extended is zero.
func ReplayCCEL(raw []byte) ([4][48]byte, []Event, error) {
	var out [4][48]byte
	events, err := ParseCCEL(raw)
	if err != nil {
		return out, nil, err
	}
	for _, e := range events {
		if e.Register < 0 || e.Type == noAction {
			continue
		}
		out[e.Register] = sha512.Sum384(append(bytes.Clone(out[e.Register][:]), e.Digest[:]...))
	}
	return out, events, nil
}

// noAction is EV_NO_ACTION, which is never extended.
const noAction = 3

// CheckCCEL judges a log beside a quote's registers: it explains RTMR 0 to 2, which the firmware and the boot chain extend; each
// of them has at most one separator, whose data are what its digest is of, so that nobody can move the line between
// firmware and what it started. RTMR 3 belongs to the running system, which keeps no log here: a log that names it all the same
// must explain it, or its events would be believed unproven. What is returned of MRTD, and every event's type and data
// where its digest is not of them, is covered by no register.
func CheckCCEL(raw []byte, quoted [4][48]byte) ([]Event, error) {
	got, events, err := ReplayCCEL(raw)
	if err != nil {
		return nil, err
	}
	named := slices.ContainsFunc(events, func(e Event) bool { return e.Register == 3 })
	for i := range got {
		if got[i] != quoted[i] && (i < 3 || named) {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("RTMR %d", i), hex.EncodeToString(got[i][:])+", by the log", hex.EncodeToString(quoted[i][:])+", as quoted")
		}
	}
	if quoted[0] == ([48]byte{}) {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "RTMR 0", "zeros: nothing was measured", "what the firmware measured")
	}
	separators := map[int]int{}
	for _, e := range events {
		if e.Type != separator || e.Register < 0 {
			continue
		}
		if separators[e.Register]++; separators[e.Register] > 1 {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("RTMR %d", e.Register), "a second separator", "at most one")
		}
		if want := sha512.Sum384(e.Data); e.Digest != want {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("separator of RTMR %d", e.Register), hex.EncodeToString(e.Digest[:]), hex.EncodeToString(want[:])+", of its data")
		}
	}
	return events, nil
}
