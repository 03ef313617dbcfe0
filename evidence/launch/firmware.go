package launch

import (
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// GUIDs of the firmware's tables, in EFI's mixed-endian form.
var (
	guidFooter   = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
	guidMetadata = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
	guidResetEIP = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	guidHashes   = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
)

const pageSize = 4096

// maxSectionPages bounds the pages that metadata may ask for (256 MiB).
const maxSectionPages = 65536

// SectionType is the type of a SEV metadata section.
type SectionType uint32

// Section types that are known.
const (
	SectionMemory  SectionType = 1
	SectionSecrets SectionType = 2
	SectionCPUID   SectionType = 3
	SectionSVSMCAA SectionType = 4
	SectionHashes  SectionType = 0x10
)

// MemorySection is one range that the firmware asks the launcher to prepare, in bytes.
type MemorySection struct {
	GPA, Size uint32
	Type      SectionType
}

// Firmware is what an OVMF image says about itself.
type Firmware struct {
	HasMetadata bool
	Sections    []MemorySection // in the order listed
	ResetEIP    uint32          // start of the other vCPUs; 0 when not given
	HashesGPA   uint32          // 0: no kernel hashes
	HashesSize  uint32
}

// guid turns the text form into EFI's mixed-endian bytes.
func guid(s string) (out [16]byte) {
	var a uint32
	var b, c, d uint16
	var e uint64
	if _, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		panic("launch: bad GUID constant " + s)
	}
	binary.LittleEndian.PutUint32(out[0:], a)
	binary.LittleEndian.PutUint16(out[4:], b)
	binary.LittleEndian.PutUint16(out[6:], c)
	binary.BigEndian.PutUint16(out[8:], d)
	for i := range 6 {
		out[10+i] = byte(e >> (40 - 8*i))
	}
	return out
}

func bad(field string, got any, want string) error {
	return evidence.Refuse(evidence.CodeParse, field, fmt.Sprint(got), want)
}

// ParseFirmware reads the tables at the end of an OVMF image.
func ParseFirmware(raw []byte) (*Firmware, error) {
	if len(raw) < pageSize || len(raw)%pageSize != 0 || int64(len(raw)) > 64<<20 {
		return nil, bad("firmware.size", len(raw), "a multiple of 4096 up to 64 MiB")
	}
	entries, err := tableEntries(raw)
	if err != nil {
		return nil, err
	}
	f := &Firmware{}
	if d, ok := entries[guidResetEIP]; ok {
		if len(d) != 4 {
			return nil, bad("firmware.resetEIP", len(d), "4 bytes")
		}
		f.ResetEIP = binary.LittleEndian.Uint32(d)
	}
	if d, ok := entries[guidHashes]; ok {
		if len(d) != 8 {
			return nil, bad("firmware.hashes", len(d), "8 bytes")
		}
		f.HashesGPA, f.HashesSize = binary.LittleEndian.Uint32(d), binary.LittleEndian.Uint32(d[4:])
	}
	if d, ok := entries[guidMetadata]; ok {
		if len(d) != 4 {
			return nil, bad("firmware.metadata", len(d), "4 bytes")
		}
		f.HasMetadata = true
		if f.Sections, err = sections(raw, binary.LittleEndian.Uint32(d)); err != nil {
			return nil, err
		}
	}
	return f, f.check(uint64(len(raw)))
}

func tableEntries(raw []byte) (map[[16]byte][]byte, error) {
	end := len(raw) - 32
	if [16]byte(raw[end-16:end]) != guidFooter {
		return nil, bad("firmware.footer", "no footer GUID", "a GUID table")
	}
	size := int(binary.LittleEndian.Uint16(raw[end-18:]))
	if size < 18 || size > end {
		return nil, bad("firmware.table", size, "a size within the file")
	}
	table := raw[end-size : end-18]
	out := map[[16]byte][]byte{}
	for len(table) > 0 {
		if len(table) < 18 {
			return nil, bad("firmware.table", len(table), "whole entries")
		}
		n := int(binary.LittleEndian.Uint16(table[len(table)-18:]))
		if n < 18 || n > len(table) {
			return nil, bad("firmware.entry", n, "a size within the table")
		}
		id := [16]byte(table[len(table)-16:])
		if _, dup := out[id]; dup {
			return nil, bad("firmware.entry", "twice", "each GUID once")
		}
		out[id] = table[len(table)-n : len(table)-18]
		table = table[:len(table)-n]
	}
	return out, nil
}

func sections(raw []byte, fromEnd uint32) ([]MemorySection, error) {
	if uint64(fromEnd) > uint64(len(raw)) || fromEnd < 16 {
		return nil, bad("firmware.metadata.offset", fromEnd, "inside the file")
	}
	m := raw[len(raw)-int(fromEnd):]
	size, version, count := binary.LittleEndian.Uint32(m[4:]), binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[12:])
	if string(m[:4]) != "ASEV" || version != 1 {
		return nil, bad("firmware.metadata", fmt.Sprintf("%q version %d", m[:4], version), `"ASEV" version 1`)
	}
	if uint64(size) != 16+12*uint64(count) || uint64(size) > uint64(len(m)) {
		return nil, bad("firmware.metadata.count", count, "sections within the stated size and the file")
	}
	var out []MemorySection
	for i := range int(count) {
		e := m[16+12*i:]
		out = append(out, MemorySection{binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), SectionType(binary.LittleEndian.Uint32(e[8:]))})
	}
	return out, nil
}

func (f *Firmware) check(size uint64) error {
	pages, seen, table := uint64(0), map[SectionType]int{}, f.HashesGPA == 0
	for i, s := range f.Sections {
		if s.GPA%pageSize != 0 || s.Size%pageSize != 0 {
			return bad("firmware.section", fmt.Sprintf("%#x+%#x", s.GPA, s.Size), "page aligned")
		}
		end := uint64(s.GPA) + uint64(s.Size)
		if end > 1<<32-size && s.Size > 0 {
			return bad("firmware.section", fmt.Sprintf("%#x+%#x", s.GPA, s.Size), "below the firmware")
		}
		if pages += uint64(s.Size / pageSize); pages > maxSectionPages {
			return bad("firmware.sections", pages, "at most 65536 pages")
		}
		for _, o := range f.Sections[:i] {
			if uint64(s.GPA) < uint64(o.GPA)+uint64(o.Size) && uint64(o.GPA) < end {
				return bad("firmware.section", fmt.Sprintf("%#x overlaps %#x", s.GPA, o.GPA), "no overlap")
			}
		}
		seen[s.Type]++
		switch s.Type {
		case SectionMemory, SectionSVSMCAA:
		case SectionSecrets, SectionCPUID, SectionHashes:
			if s.Size != 0 && s.Size != pageSize || seen[s.Type] > 1 {
				return bad("firmware.section", fmt.Sprintf("type %d, %d bytes", s.Type, s.Size), "one page, once")
			}
			if s.Type == SectionHashes && uint64(f.HashesGPA) >= uint64(s.GPA) && uint64(f.HashesGPA)+hashTableSize <= end {
				table = true
			}
		default:
			return bad("firmware.section.type", s.Type, "1, 2, 3, 4 or 16")
		}
	}
	if seen[SectionHashes] > 0 && !table {
		return bad("firmware.hashes", fmt.Sprintf("%#x", f.HashesGPA), "inside the kernel hash section")
	}
	return nil
}

// KernelHashes tells whether the launcher can measure a kernel with this firmware: a non-zero table
// address and a section for it. The table entry alone means nothing.
func (f *Firmware) KernelHashes() bool {
	for _, s := range f.Sections {
		if s.Type == SectionHashes && s.Size != 0 {
			return f.HashesGPA != 0
		}
	}
	return false
}
