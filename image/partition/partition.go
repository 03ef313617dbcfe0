// Package partition reads the GUID partition table of a stranger's disk: both copies, their checksums, and no partition
// that overlaps another or leaves the disk.
package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// SectorSize in bytes; positions are in sectors.
const SectorSize = 512

// Bounds of what is read. The specification asks for at least 128 entries; nobody writes more than these.
const (
	maxEntries   = 1024
	maxEntrySize = 1024
	minEntrySize = 128
	minHeader    = 92
)

// GUID in the usual text form, in small letters.
type GUID string

// Types of partitions.
const (
	TypeESP       GUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeLinux     GUID = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	TypeRootAMD64 GUID = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	TypeXBootLdr  GUID = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
	TypeSwap      GUID = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
	TypeBIOSBoot  GUID = "21686148-6449-6e6f-744e-656564454649"
)

// Partition is one entry.
type Partition struct {
	Number       int // from 1, as Linux counts
	Type, Unique GUID
	Name         string
	First, Last  uint64 // sectors, both inclusive
}

// Size in bytes.
func (p Partition) Size() int64 { return int64(p.Last-p.First+1) * SectorSize }

// Content reads the partition's bytes.
func (p Partition) Content(disk io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(disk, int64(p.First)*SectorSize, p.Size())
}

// Table is what both copies say.
type Table struct {
	Disk       GUID
	Partitions []Partition // by number
}

// Of gives the partitions of a type.
func (t *Table) Of(kind GUID) (out []Partition) {
	for _, p := range t.Partitions {
		if p.Type == kind {
			out = append(out, p)
		}
	}
	return out
}

// guid reads 16 bytes, of which the first three groups are little-endian.
func guid(b []byte) GUID {
	le := binary.LittleEndian
	return GUID(fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16]))
}

func malformed(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, "gpt/"+field, got, want)
}

// Read reads the table of a disk of size bytes. A disk with an MBR alone, or with none, is refused by CodeUnsupported;
// a table whose copies are damaged or differ, by CodeParse: two firmwares could see two different disks. Source: UEFI
// Specification, section 5.3.
func Read(disk io.ReaderAt, size int64) (*Table, error) {
	sectors := uint64(size) / SectorSize
	if sectors < 6 {
		return nil, malformed("disk", fmt.Sprintf("%d bytes", size), "room for a partition table")
	}
	head := make([]byte, 2*SectorSize)
	if _, err := disk.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("reading the partition table: %w", err)
	}
	mbr, first := head[:SectorSize], head[SectorSize:]
	if !bytes.HasPrefix(first, []byte("EFI PART")) {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "gpt", without(mbr), "a GUID partition table (sgdisk --mbrtogpt converts one)")
	}
	if err := protective(mbr); err != nil {
		return nil, err
	}
	primary, entries, err := readCopy(disk, sectors, 1, first)
	if err != nil {
		return nil, err
	}
	last := make([]byte, SectorSize)
	if primary.other != sectors-1 {
		return nil, malformed("primary/alternateLBA", fmt.Sprint(primary.other), fmt.Sprintf("%d, the disk's last sector (sgdisk --move-second-header puts it there)", sectors-1))
	}
	if _, err := disk.ReadAt(last, int64(sectors-1)*SectorSize); err != nil {
		return nil, fmt.Errorf("reading the backup partition table: %w", err)
	}
	backup, backupEntries, err := readCopy(disk, sectors, sectors-1, last)
	if err != nil {
		return nil, err
	}
	if backup.other != 1 || backup.disk != primary.disk || backup.firstUsable != primary.firstUsable || backup.lastUsable != primary.lastUsable || !bytes.Equal(entries, backupEntries) {
		return nil, malformed("backup", "says otherwise than the primary table", "the same")
	}
	t := &Table{Disk: primary.disk}
	if t.Partitions, err = primary.partitions(entries); err != nil {
		return nil, err
	}
	return t, nil
}

// without says what a disk without the table has instead.
func without(mbr []byte) string {
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return "no partition table"
	}
	if bytes.HasPrefix(mbr[54:], []byte("FAT")) || bytes.HasPrefix(mbr[82:], []byte("FAT32")) {
		return "a file system without a partition table"
	}
	return "an MBR partition table alone"
}

// protective wants the one entry of a protective MBR. Others beside it (a hybrid MBR) would show older tools another disk.
func protective(mbr []byte) error {
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return malformed("mbr", fmt.Sprintf("signature %x", mbr[510:]), "55aa")
	}
	protecting := 0
	for i := range 4 {
		switch kind := mbr[446+16*i+4]; kind {
		case 0:
		case 0xee:
			protecting++
		default:
			return malformed("mbr", fmt.Sprintf("a partition of type %#02x beside the table", kind), "none but the protective one")
		}
	}
	if protecting != 1 {
		return malformed("mbr", fmt.Sprintf("%d protective partitions", protecting), "one")
	}
	return nil
}

type header struct {
	name                    string
	own, other              uint64
	firstUsable, lastUsable uint64
	disk                    GUID
	entriesAt               uint64
	entries, entrySize      uint32
}

func readCopy(disk io.ReaderAt, sectors, at uint64, h []byte) (*header, []byte, error) {
	le := binary.LittleEndian
	x := &header{name: "primary"}
	if at != 1 {
		x.name = "backup"
	}
	refuse := func(field, got, want string) (*header, []byte, error) {
		return nil, nil, malformed(x.name+"/"+field, got, want)
	}
	if !bytes.HasPrefix(h, []byte("EFI PART")) {
		return refuse("signature", fmt.Sprintf("%q", h[:8]), `"EFI PART"`)
	}
	if v := le.Uint32(h[8:]); v != 0x10000 {
		return refuse("revision", fmt.Sprintf("%#x", v), "0x10000")
	}
	size := le.Uint32(h[12:])
	if size < minHeader || size > SectorSize {
		return refuse("headerSize", fmt.Sprint(size), fmt.Sprintf("%d to %d", minHeader, SectorSize))
	}
	sum := bytes.Clone(h[:size])
	clear(sum[16:20])
	if got, want := le.Uint32(h[16:]), crc32.ChecksumIEEE(sum); got != want {
		return refuse("headerCRC32", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	x.own, x.other, x.firstUsable, x.lastUsable = le.Uint64(h[24:]), le.Uint64(h[32:]), le.Uint64(h[40:]), le.Uint64(h[48:])
	x.disk, x.entriesAt, x.entries, x.entrySize = guid(h[56:]), le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if x.own != at {
		return refuse("myLBA", fmt.Sprint(x.own), fmt.Sprint(at))
	}
	if x.entries == 0 || x.entries > maxEntries {
		return refuse("numberOfPartitionEntries", fmt.Sprint(x.entries), fmt.Sprintf("1 to %d", maxEntries))
	}
	if n := x.entrySize; n < minEntrySize || n > maxEntrySize || n&(n-1) != 0 {
		return refuse("sizeOfPartitionEntry", fmt.Sprint(n), fmt.Sprintf("a power of two from %d to %d", minEntrySize, maxEntrySize))
	}
	length := uint64(x.entries) * uint64(x.entrySize)
	tableSectors := (length + SectorSize - 1) / SectorSize
	if x.entriesAt < 2 || x.entriesAt >= sectors-1 || tableSectors > sectors-1-x.entriesAt {
		return refuse("partitionEntryLBA", fmt.Sprint(x.entriesAt), "a table between the two headers")
	}
	if x.firstUsable < 2 || x.lastUsable >= sectors-1 || x.firstUsable > x.lastUsable || x.firstUsable <= x.entriesAt+tableSectors-1 && x.entriesAt <= x.lastUsable {
		return refuse("usableLBA", fmt.Sprintf("%d to %d", x.firstUsable, x.lastUsable), "sectors of the disk outside of its tables")
	}
	table := make([]byte, length)
	if _, err := disk.ReadAt(table, int64(x.entriesAt)*SectorSize); err != nil {
		return nil, nil, fmt.Errorf("reading the partition table: %w", err)
	}
	if got, want := le.Uint32(h[88:]), crc32.ChecksumIEEE(table); got != want {
		return refuse("partitionEntryArrayCRC32", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	return x, table, nil
}

func (x *header) partitions(table []byte) ([]Partition, error) {
	le := binary.LittleEndian
	var out []Partition
	for i := range int(x.entries) {
		e := table[i*int(x.entrySize):][:minEntrySize]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		p := Partition{Number: i + 1, Type: guid(e), Unique: guid(e[16:]), First: le.Uint64(e[32:]), Last: le.Uint64(e[40:])}
		if p.First < x.firstUsable || p.Last < p.First || p.Last > x.lastUsable {
			return nil, malformed(fmt.Sprintf("partition %d", p.Number), fmt.Sprintf("sectors %d to %d", p.First, p.Last), fmt.Sprintf("some of %d to %d", x.firstUsable, x.lastUsable))
		}
		p.Name = name(e[56:128])
		out = append(out, p)
	}
	byPlace := slices.Clone(out)
	slices.SortFunc(byPlace, func(a, b Partition) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	for i := 1; i < len(byPlace); i++ {
		if a, b := byPlace[i-1], byPlace[i]; b.First <= a.Last {
			return nil, malformed(fmt.Sprintf("partition %d", b.Number), fmt.Sprintf("begins at sector %d, in partition %d", b.First, a.Number), "partitions that do not overlap")
		}
	}
	return out, nil
}

// name reads UTF-16LE up to a NUL, without what a terminal would act on.
func name(b []byte) string {
	var units []uint16
	for i := 0; i < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, string(utf16.Decode(units)))
}
