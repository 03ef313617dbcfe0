package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// Event is one extend: where, what, and the digest extended.
type Event struct {
	PCR    int
	Name   string
	Digest [32]byte
}

// Extend is SHA-256(old ‖ digest).
func Extend(old, digest [32]byte) [32]byte { return sha256.Sum256(append(old[:], digest[:]...)) }

func replay(events []Event) (v [32]byte) {
	for _, e := range events {
		v = Extend(v, e.Digest)
	}
	return v
}

func separator(pcr int) Event { return Event{pcr, "separator", sha256.Sum256(make([]byte, 4))} }

// PCR4 predicts the value after a UKI booted directly by UEFI.
func PCR4(uki []byte) ([32]byte, []Event, error) {
	h, err := Authenticode(uki)
	if err != nil {
		return [32]byte{}, nil, err
	}
	action := "Calling EFI Application from Boot Option"
	events := []Event{{4, action, sha256.Sum256([]byte(action))}, separator(4), {4, "UKI", h}}
	return replay(events), events, nil
}

// Stub is the version of systemd-stub in a UKI: it decides which sections are measured, in which order.
type Stub int

// The stubs whose orders were seen in real boots.
const (
	Stub252 Stub = 252
	Stub257 Stub = 257
)

var stubOrder = map[Stub][]string{
	Stub252: {".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"},
	Stub257: {".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"},
}

// PCR11 predicts the value after the stub measured the sections, before any phase.
func PCR11(uki []byte, stub Stub) ([32]byte, []Event, error) {
	order, ok := stubOrder[stub]
	if !ok {
		return [32]byte{}, nil, evidence.Refuse(evidence.CodeUnsupported, "stub", fmt.Sprint(int(stub)), "252 or 257")
	}
	all, err := UKISections(uki)
	if err != nil {
		return [32]byte{}, nil, err
	}
	var events []Event
	for _, name := range order {
		for _, s := range all {
			if s.Name == name {
				events = append(events, Event{11, name, sha256.Sum256(append([]byte(name), 0))}, Event{11, name + " content", sha256.Sum256(s.Content)})
			}
		}
	}
	if len(events) == 0 || events[0].Name != ".linux" {
		return [32]byte{}, nil, bad("uki", "no .linux section", "a unified kernel image")
	}
	return replay(events), events, nil
}

var (
	guidGlobal   = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	guidSecurity = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	guidStore    = guid("aaf32c78-947b-439a-a180-2e144ec37792")
	guidX509     = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
)

// Variable names a UEFI variable.
type Variable struct {
	Vendor [16]byte
	Name   string
}

// ReadVariables reads the live variables of an OVMF authenticated variable store.
func ReadVariables(raw []byte) (map[Variable][]byte, error) {
	le := binary.LittleEndian
	if len(raw) < 0x64 {
		return nil, bad("vars.size", len(raw), "a variable store")
	}
	start := int(le.Uint16(raw[48:]))
	if start+28 > len(raw) || [16]byte(raw[start:start+16]) != guidStore || raw[start+20] != 0x5a || raw[start+21] != 0xfe {
		return nil, bad("vars.header", start, "a formatted, healthy authenticated store")
	}
	size := uint64(le.Uint32(raw[start+16:]))
	if size < 28 || uint64(start)+size > uint64(len(raw)) {
		return nil, bad("vars.store", size, "inside the file")
	}
	store, out := raw[start+28:start+int(size)], map[Variable][]byte{}
	for len(store) >= 60 && le.Uint16(store) == 0x55aa {
		n, d := uint64(le.Uint32(store[36:])), uint64(le.Uint32(store[40:]))
		end := 60 + n + d
		if n < 2 || n%2 != 0 || end > uint64(len(store)) {
			return nil, bad("vars.variable", end, "inside the store")
		}
		units := make([]uint16, n/2-1)
		for i := range units {
			units[i] = le.Uint16(store[60+2*i:])
		}
		// 0x3f: added and live. 0x3e: being replaced, still live until the new one is there.
		if state := store[2]; state == 0x3f || state == 0x3e {
			key := Variable{[16]byte(store[44:60]), string(utf16.Decode(units))}
			if _, dup := out[key]; !dup || state == 0x3f {
				out[key] = store[60+n : end]
			}
		}
		store = store[min(uint64(len(store)), (end+3)&^3):]
	}
	return out, nil
}

func variableDigest(vendor [16]byte, name string, data []byte) [32]byte {
	units := utf16.Encode([]rune(name))
	b := append([]byte(nil), vendor[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return sha256.Sum256(append(b, data...))
}

// PCR7 predicts the value under Secure Boot, for the variables in an OVMF store and the db certificate
// (DER) that verified the one image booted.
func PCR7(vars, dbCertUsed []byte) ([32]byte, []Event, error) {
	all, err := ReadVariables(vars)
	if err != nil {
		return [32]byte{}, nil, err
	}
	events := []Event{{7, "SecureBoot", variableDigest(guidGlobal, "SecureBoot", []byte{1})}}
	for _, v := range []Variable{{guidGlobal, "PK"}, {guidGlobal, "KEK"}, {guidSecurity, "db"}, {guidSecurity, "dbx"}} {
		if v.Name != "dbx" && len(all[v]) == 0 {
			return [32]byte{}, nil, evidence.Refuse(evidence.CodePolicy, "vars."+v.Name, "absent", "enrolled keys")
		}
		events = append(events, Event{7, v.Name, variableDigest(v.Vendor, v.Name, all[v])})
	}
	entry, err := findCertificate(all[Variable{guidSecurity, "db"}], dbCertUsed)
	if err != nil {
		return [32]byte{}, nil, err
	}
	events = append(events, separator(7), Event{7, "authority db", variableDigest(guidSecurity, "db", entry)})
	return replay(events), events, nil
}

// findCertificate finds the EFI_SIGNATURE_DATA (owner ‖ DER) of a certificate.
func findCertificate(lists, der []byte) ([]byte, error) {
	le := binary.LittleEndian
	for len(lists) > 0 {
		if len(lists) < 28 {
			return nil, bad("db", len(lists), "whole signature lists")
		}
		size, header, each := uint64(le.Uint32(lists[16:])), uint64(le.Uint32(lists[20:])), uint64(le.Uint32(lists[24:]))
		if each < 17 || size > uint64(len(lists)) || 28+header > size || (size-28-header)%each != 0 {
			return nil, bad("db.list", size, "consistent sizes")
		}
		for at := 28 + header; at < size; at += each {
			if e := lists[at : at+each]; [16]byte(lists[:16]) == guidX509 && bytes.Equal(e[16:], der) {
				return e, nil
			}
		}
		lists = lists[size:]
	}
	return nil, evidence.Refuse(evidence.CodePolicy, "db", "certificate absent", "the certificate that signed the image")
}
