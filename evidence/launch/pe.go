package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// Section is one section of a PE file: its name and its content as it is in memory, VirtualSize bytes. Where the file
// holds fewer, zeros follow, as a loader puts them there. Source: Microsoft, "PE Format", section table.
type Section struct {
	Name    string
	Content []byte
}

// maxZeros bounds the zeros that all sections together ask for beyond what the file holds, in bytes.
const maxZeros = 64 << 20

type pe struct {
	raw      []byte
	optional int // offset of the optional header
	certOff  uint32
	certSize uint32
	sections []Section
}

func parsePE(raw []byte) (*pe, error) {
	le := binary.LittleEndian
	if len(raw) < 0x40 || string(raw[:2]) != "MZ" {
		return nil, bad("pe.dos", len(raw), "an MZ header")
	}
	at := uint64(le.Uint32(raw[0x3c:]))
	if at+24+152 > uint64(len(raw)) || string(raw[at:at+4]) != "PE\x00\x00" {
		return nil, bad("pe.signature", at, "PE inside the file")
	}
	p := &pe{raw: raw, optional: int(at) + 24}
	count, optSize := int(le.Uint16(raw[at+6:])), int(le.Uint16(raw[at+20:]))
	opt := raw[p.optional:]
	if le.Uint16(opt) != 0x20b || optSize < 152 {
		return nil, bad("pe.optional", optSize, "PE32+ with a certificate directory")
	}
	if n := le.Uint32(opt[108:]); n < 5 || n > 16 {
		return nil, bad("pe.directories", n, "5 to 16")
	}
	p.certOff, p.certSize = le.Uint32(opt[144:]), le.Uint32(opt[148:])
	if p.certSize > 0 && (uint64(p.certOff)+uint64(p.certSize) != uint64(len(raw)) || int(p.certOff) < p.optional+optSize) {
		return nil, bad("pe.certificates", p.certOff, "the end of the file")
	}
	table := p.optional + optSize
	if count > 96 || table+40*count > len(raw) {
		return nil, bad("pe.sections", count, "a table inside the file")
	}
	seen, zeros := map[string]bool{}, uint64(0)
	for i := range count {
		h := raw[table+40*i:]
		name := strings.TrimRight(string(h[:8]), "\x00")
		virtual, size, off := uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[16:])), uint64(le.Uint32(h[20:]))
		if size > 0 && off+size > uint64(len(raw)) || seen[name] {
			return nil, bad("pe.section "+name, off+size, "inside the file, each name once")
		}
		seen[name] = true
		if size == 0 {
			off = 0
		}
		content := raw[off : off+min(virtual, size)]
		if virtual > size {
			if zeros += virtual - size; zeros > maxZeros {
				return nil, bad("pe.section "+name, virtual, "at most 64 MiB of zeros behind what the file holds")
			}
			content = append(bytes.Clone(content), make([]byte, virtual-size)...)
		}
		p.sections = append(p.sections, Section{name, content})
	}
	return p, nil
}

// UKISections reads the sections of a PE file in the file's order.
func UKISections(raw []byte) ([]Section, error) {
	p, err := parsePE(raw)
	if err != nil {
		return nil, err
	}
	return p.sections, nil
}

// Authenticode is the SHA-256 that a signature covers and firmware measures: the file without its
// checksum, its certificate directory entry and its certificates, padded to 8 bytes.
func Authenticode(raw []byte) ([32]byte, error) {
	p, err := parsePE(raw)
	if err != nil {
		return [32]byte{}, err
	}
	end := len(raw)
	if p.certSize > 0 {
		end = int(p.certOff)
	}
	h := sha256.New()
	h.Write(raw[:p.optional+64])
	h.Write(raw[p.optional+68 : p.optional+144])
	h.Write(raw[p.optional+152 : end])
	h.Write(make([]byte, (8-end%8)%8))
	return [32]byte(h.Sum(nil)), nil
}
