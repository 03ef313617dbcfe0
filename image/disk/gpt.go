// Package disk lays out an image's disk: a GUID partition table with fixed GUIDs, an EFI system partition with
// the signed kernel image, the read-only root with its hash tree, and room for the VM's own volume.
package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// SectorSize in bytes; all positions here are in sectors.
const SectorSize = 512

const (
	gptEntries    = 128
	gptEntrySize  = 128
	gptHeaderSize = 92
	tableSectors  = gptEntries * gptEntrySize / SectorSize
	firstUsable   = 2 + tableSectors
	// partitions start at multiples of 1 MiB
	partitionAlign = 2048
)

// GUID in the byte order of the table: the first three groups little-endian.
type GUID [16]byte

func parseGUID(s string) (g GUID) {
	var a uint32
	var b, c uint16
	var d uint16
	var e uint64
	if n, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); n != 5 || err != nil {
		panic("bad GUID " + s)
	}
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], e)
	binary.BigEndian.PutUint16(g[8:], d)
	return g
}

// Types: the EFI system partition's, and Linux data for ours. A root type would invite systemd to mount it.
var (
	typeESP   = parseGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	typeLinux = parseGUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
)

// Partition is one entry of the table.
type Partition struct {
	Name         string
	Type, Unique GUID
	First, Last  uint64 // sectors, both inclusive
}

type sectorWriter interface {
	WriteAt([]byte, int64) (int, error)
}

// writeTable writes the protective MBR and both copies of the table of a disk of so many sectors.
func writeTable(w sectorWriter, sectors uint64, disk GUID, parts []Partition) error {
	if len(parts) > gptEntries || sectors < 2*firstUsable {
		return fmt.Errorf("%d partitions on %d sectors do not fit", len(parts), sectors)
	}
	lastUsable := sectors - tableSectors - 2
	table := make([]byte, gptEntries*gptEntrySize)
	next := uint64(firstUsable)
	for i, p := range parts {
		if p.First < next || p.Last < p.First || p.Last > lastUsable {
			return fmt.Errorf("partition %s (sectors %d to %d) overlaps or leaves the disk", p.Name, p.First, p.Last)
		}
		next = p.Last + 1
		e := table[i*gptEntrySize:]
		copy(e[0:], p.Type[:])
		copy(e[16:], p.Unique[:])
		binary.LittleEndian.PutUint64(e[32:], p.First)
		binary.LittleEndian.PutUint64(e[40:], p.Last)
		name := utf16.Encode([]rune(p.Name))
		if len(name) > 36 {
			return fmt.Errorf("partition name %s is longer than 36 characters", p.Name)
		}
		for j, u := range name {
			binary.LittleEndian.PutUint16(e[56+2*j:], u)
		}
	}
	header := func(own, other, tableAt uint64) []byte {
		h := make([]byte, SectorSize)
		copy(h, "EFI PART")
		binary.LittleEndian.PutUint32(h[8:], 0x10000)
		binary.LittleEndian.PutUint32(h[12:], gptHeaderSize)
		binary.LittleEndian.PutUint64(h[24:], own)
		binary.LittleEndian.PutUint64(h[32:], other)
		binary.LittleEndian.PutUint64(h[40:], firstUsable)
		binary.LittleEndian.PutUint64(h[48:], lastUsable)
		copy(h[56:], disk[:])
		binary.LittleEndian.PutUint64(h[72:], tableAt)
		binary.LittleEndian.PutUint32(h[80:], gptEntries)
		binary.LittleEndian.PutUint32(h[84:], gptEntrySize)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
		return h
	}
	mbr := make([]byte, SectorSize)
	e := mbr[446:]
	e[2], e[4], e[5], e[6], e[7] = 2, 0xee, 0xff, 0xff, 0xff
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	for _, part := range []struct {
		at   uint64
		data []byte
	}{
		{0, mbr}, {1, header(1, sectors-1, 2)}, {2, table},
		{sectors - 1 - tableSectors, table}, {sectors - 1, header(sectors-1, 1, sectors-1-tableSectors)},
	} {
		if _, err := w.WriteAt(part.data, int64(part.at*SectorSize)); err != nil {
			return fmt.Errorf("writing the partition table: %w", err)
		}
	}
	return nil
}
