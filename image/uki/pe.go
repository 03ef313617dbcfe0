// Package uki writes, signs and checks unified kernel images: systemd's EFI stub with the command line,
// the initrd and the kernel as further PE sections.
//
// Offsets are those of the PE32+ format; all numbers in the file are little-endian.
package uki

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Section is one named part of a PE file. Data has exactly VirtualSize bytes, which is what the stub measures.
type Section struct {
	Name string
	Data []byte
}

const (
	sectionHeaderSize = 40
	fileAlignment     = 0x200
	// The stub of systemd 252 declares a section alignment of 0x200; the firmware's loader wants pages.
	pageAlignment = 0x1000

	optMagicPE32Plus    = 0x20b
	optSizeOfImage      = 56
	optSizeOfHeaders    = 60
	optCheckSum         = 64
	optSecurityEntry    = 144 // data directory 4: file offset and length of the signatures
	optionalHeaderFloor = 152

	flagsData = 0x40000040 // initialised data, readable
	flagsCode = 0x60000020 // code, readable, executable
)

// layout holds the offsets of a checked PE32+ file.
type layout struct {
	coff, opt, table int // offsets of the COFF header, the optional header, the section table
	sections         int
	sizeOfHeaders    int
}

func malformed(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, "pe/"+field, got, want)
}

func parseLayout(pe []byte) (layout, error) {
	var l layout
	if len(pe) < 0x40 || pe[0] != 'M' || pe[1] != 'Z' {
		return l, malformed("dosHeader", fmt.Sprintf("%d bytes without MZ", len(pe)), "MZ")
	}
	lfanew := int64(binary.LittleEndian.Uint32(pe[0x3c:]))
	if lfanew+24+optionalHeaderFloor > int64(len(pe)) {
		return l, malformed("e_lfanew", fmt.Sprint(lfanew), "a header inside the file")
	}
	if string(pe[lfanew:lfanew+4]) != "PE\x00\x00" {
		return l, malformed("signature", fmt.Sprintf("%x", pe[lfanew:lfanew+4]), "PE\\0\\0")
	}
	l.coff = int(lfanew) + 4
	l.opt = l.coff + 20
	if m := binary.LittleEndian.Uint16(pe[l.opt:]); m != optMagicPE32Plus {
		return l, malformed("magic", fmt.Sprintf("%#x", m), "0x20b (PE32+)")
	}
	optSize := int(binary.LittleEndian.Uint16(pe[l.coff+16:]))
	if optSize < optionalHeaderFloor {
		return l, malformed("sizeOfOptionalHeader", fmt.Sprint(optSize), fmt.Sprintf("at least %d", optionalHeaderFloor))
	}
	l.table = l.opt + optSize
	l.sections = int(binary.LittleEndian.Uint16(pe[l.coff+2:]))
	headers := int64(binary.LittleEndian.Uint32(pe[l.opt+optSizeOfHeaders:]))
	if end := int64(l.table + l.sections*sectionHeaderSize); end > headers || headers > int64(len(pe)) {
		return l, malformed("sizeOfHeaders", fmt.Sprint(headers), fmt.Sprintf("between %d and the file's %d bytes", end, len(pe)))
	}
	l.sizeOfHeaders = int(headers)
	return l, nil
}

type sectionHeader struct {
	name                            string
	virtualSize, virtualAddress     uint32
	sizeOfRawData, pointerToRawData uint32
}

func (l layout) header(pe []byte, i int) sectionHeader {
	h := pe[l.table+i*sectionHeaderSize:]
	return sectionHeader{
		name:             strings.TrimRight(string(h[:8]), "\x00"),
		virtualSize:      binary.LittleEndian.Uint32(h[8:]),
		virtualAddress:   binary.LittleEndian.Uint32(h[12:]),
		sizeOfRawData:    binary.LittleEndian.Uint32(h[16:]),
		pointerToRawData: binary.LittleEndian.Uint32(h[20:]),
	}
}

// Sections lists the sections of a PE file in file order. Two sections of one name are refused: a reader
// that takes the first and a loader that takes the last would see different command lines.
func Sections(pe []byte) ([]Section, error) {
	l, err := parseLayout(pe)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []Section
	var total uint64
	for i := range l.sections {
		h := l.header(pe, i)
		if seen[h.name] {
			return nil, malformed("section", "a second "+h.name, "each name once")
		}
		seen[h.name] = true
		n := min(h.virtualSize, h.sizeOfRawData)
		end := uint64(h.pointerToRawData) + uint64(n)
		if n > 0 && (end > uint64(len(pe)) || h.pointerToRawData < uint32(l.sizeOfHeaders)) {
			return nil, malformed("section "+h.name, fmt.Sprintf("%d bytes at %#x", n, h.pointerToRawData), "data inside the file, after the headers")
		}
		// Sections may share bytes of the file: together they may have more than it, but not many times as many.
		if total += uint64(h.virtualSize); total > 2*uint64(len(pe))+16<<20 {
			return nil, malformed("sections", fmt.Sprintf("%d bytes in memory", total), fmt.Sprintf("no more than twice the file's %d", len(pe)))
		}
		if uint64(h.virtualSize) > uint64(len(pe))+pageAlignment {
			return nil, malformed("section "+h.name, fmt.Sprintf("virtual size %d", h.virtualSize), "no more than the file holds")
		}
		data := make([]byte, h.virtualSize)
		if n > 0 {
			copy(data, pe[h.pointerToRawData:end])
		}
		out = append(out, Section{h.name, data})
	}
	return out, nil
}

// Find gives the content of one section.
func Find(sections []Section, name string) ([]byte, bool) {
	for _, s := range sections {
		if s.Name == name {
			return s.Data, true
		}
	}
	return nil, false
}

// Assemble appends sections to a stub, in the given order. The result is not signed.
// For systemd 252 the kernel (.linux) must come last: it is decompressed in place, over what follows.
func Assemble(stub []byte, sections []Section) ([]byte, error) {
	l, err := parseLayout(stub)
	if err != nil {
		return nil, fmt.Errorf("reading the stub: %w", err)
	}
	have := map[string]bool{}
	var fileEnd, imageEnd uint64
	for i := range l.sections {
		h := l.header(stub, i)
		have[h.name] = true
		fileEnd = max(fileEnd, uint64(h.pointerToRawData)+uint64(h.sizeOfRawData))
		imageEnd = max(imageEnd, uint64(h.virtualAddress)+uint64(h.virtualSize))
	}
	if fileEnd > uint64(len(stub)) || l.sections == 0 {
		return nil, malformed("sections", fmt.Sprintf("%d sections that end at %#x", l.sections, fileEnd), "sections inside the stub")
	}
	total := l.sections + len(sections)
	if need := l.table + total*sectionHeaderSize; need > l.sizeOfHeaders {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "pe/sizeOfHeaders", fmt.Sprintf("room for %d section headers", (l.sizeOfHeaders-l.table)/sectionHeaderSize), fmt.Sprintf("room for %d", total))
	}
	// COFF symbols after the last section would shift everything; nothing at run time reads them.
	out := append([]byte(nil), stub[:fileEnd]...)
	out = pad(out, fileAlignment)
	binary.LittleEndian.PutUint32(out[l.coff+8:], 0)
	binary.LittleEndian.PutUint32(out[l.coff+12:], 0)
	for i, s := range sections {
		switch {
		case len(s.Name) == 0 || len(s.Name) > 8:
			return nil, malformed("section", s.Name, "a name of 1 to 8 bytes")
		case have[s.Name]:
			return nil, malformed("section", "a second "+s.Name, "each name once")
		case len(s.Data) == 0:
			return nil, malformed("section "+s.Name, "no data", "data")
		case s.Name == ".linux" && i != len(sections)-1:
			return nil, malformed("section .linux", "not last", "last: it is decompressed in place")
		}
		have[s.Name] = true
		imageEnd = align(imageEnd, pageAlignment)
		h := out[l.table+(l.sections+i)*sectionHeaderSize:][:sectionHeaderSize]
		copy(h, make([]byte, sectionHeaderSize))
		copy(h, s.Name)
		flags := uint32(flagsData)
		if s.Name == ".linux" {
			flags = flagsCode
		}
		binary.LittleEndian.PutUint32(h[8:], uint32(len(s.Data)))
		binary.LittleEndian.PutUint32(h[12:], uint32(imageEnd))
		binary.LittleEndian.PutUint32(h[16:], uint32(align(uint64(len(s.Data)), fileAlignment)))
		binary.LittleEndian.PutUint32(h[20:], uint32(len(out)))
		binary.LittleEndian.PutUint32(h[36:], flags)
		imageEnd += uint64(len(s.Data))
		out = pad(append(out, s.Data...), fileAlignment)
		if imageEnd > 1<<31 {
			return nil, malformed("sizeOfImage", fmt.Sprint(imageEnd), "less than 2 GiB")
		}
	}
	binary.LittleEndian.PutUint16(out[l.coff+2:], uint16(total))
	binary.LittleEndian.PutUint32(out[l.opt+optSizeOfImage:], uint32(align(imageEnd, pageAlignment)))
	binary.LittleEndian.PutUint32(out[l.opt+optCheckSum:], 0)
	return out, nil
}

// StubVersion reads the version that systemd's stub carries in its .sdmagic section, such as "252.39-1~deb12u2".
func StubVersion(stub []byte) (string, error) {
	sections, err := Sections(stub)
	if err != nil {
		return "", fmt.Errorf("reading the stub: %w", err)
	}
	magic, _ := Find(sections, ".sdmagic")
	const before, after = "#### LoaderInfo: systemd-stub ", " ####"
	text := strings.TrimRight(string(magic), "\x00")
	if !strings.HasPrefix(text, before) || !strings.HasSuffix(text, after) || len(text) <= len(before)+len(after) {
		return "", evidence.Refuse(evidence.CodeUnsupported, "pe/.sdmagic", fmt.Sprintf("%q", text), "systemd-stub's mark")
	}
	return text[len(before) : len(text)-len(after)], nil
}

// Digest is the Authenticode hash (SHA-256): the file without its checksum, the directory entry of its
// signatures and the signatures. A file in which something lies between or after the sections has another
// hash for the firmware, and so matches no signature here.
func Digest(pe []byte) ([32]byte, error) {
	l, err := parseLayout(pe)
	if err != nil {
		return [32]byte{}, err
	}
	end, _, err := l.signatures(pe)
	if err != nil {
		return [32]byte{}, err
	}
	h := sha256.New()
	h.Write(pe[:l.opt+optCheckSum])
	h.Write(pe[l.opt+optCheckSum+4 : l.opt+optSecurityEntry])
	h.Write(pe[l.opt+optSecurityEntry+8 : end])
	h.Write(make([]byte, (8-end%8)%8))
	return [32]byte(h.Sum(nil)), nil
}

// Signatures counts a program's signatures, which nobody judged.
func Signatures(pe []byte) (int, error) {
	l, err := parseLayout(pe)
	if err != nil {
		return 0, err
	}
	_, table, err := l.signatures(pe)
	if err != nil {
		return 0, err
	}
	n := 0
	for ; len(table) >= 8; n++ {
		length := align(uint64(binary.LittleEndian.Uint32(table)), 8)
		if length < 8 || length > uint64(len(table)) {
			return 0, malformed("signatures", fmt.Sprintf("an entry of %d bytes", length), fmt.Sprintf("8 to %d", len(table)))
		}
		table = table[length:]
	}
	return n, nil
}

// signatures gives the end of the hashed part and the signature table, which is empty or ends the file.
func (l layout) signatures(pe []byte) (end int, table []byte, err error) {
	off := uint64(binary.LittleEndian.Uint32(pe[l.opt+optSecurityEntry:]))
	n := uint64(binary.LittleEndian.Uint32(pe[l.opt+optSecurityEntry+4:]))
	if off == 0 && n == 0 {
		return len(pe), nil, nil
	}
	if off%8 != 0 || off < uint64(l.sizeOfHeaders) || n == 0 || off+n != uint64(len(pe)) {
		return 0, nil, malformed("signatures", fmt.Sprintf("%d bytes at %#x", n, off), "a table that ends the file")
	}
	return int(off), pe[off:], nil
}

func align(n, to uint64) uint64 { return (n + to - 1) / to * to }

func pad(b []byte, to int) []byte {
	return append(b, make([]byte, int(align(uint64(len(b)), uint64(to)))-len(b))...)
}
