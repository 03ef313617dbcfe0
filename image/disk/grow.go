package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// Grow makes an image's disk size bytes long and gives the last partition all that is new. Only a table as
// Write makes it is accepted. Contents stay where they are.
func Grow(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	size = size / (partitionAlign * SectorSize) * (partitionAlign * SectorSize)
	if size < info.Size() {
		return fmt.Errorf("growing a disk from %d to %d bytes: it would shrink", info.Size(), size)
	}
	head := make([]byte, firstUsable*SectorSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return fmt.Errorf("reading the partition table: %w", err)
	}
	parts, err := readTable(head)
	if err != nil {
		return err
	}
	old := uint64(info.Size())/SectorSize - 1 - tableSectors
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	// The old copy of the table becomes part of the last partition.
	if _, err := f.WriteAt(make([]byte, (tableSectors+1)*SectorSize), int64(old*SectorSize)); err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	sectors := uint64(size) / SectorSize
	parts[len(parts)-1].Last = (sectors-tableSectors-1)/partitionAlign*partitionAlign - 1
	if err := writeTable(f, sectors, diskGUID, parts); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("growing a disk: %w", err)
	}
	return f.Close()
}

// readTable reads the four partitions from the first sectors of an image's disk.
func readTable(head []byte) ([]Partition, error) {
	refuse := func(field, got, want string) ([]Partition, error) {
		return nil, evidence.Refuse(evidence.CodeParse, "gpt/"+field, got, want)
	}
	if len(head) < firstUsable*SectorSize {
		return refuse("size", fmt.Sprint(len(head)), "a whole table")
	}
	h := append([]byte(nil), head[SectorSize:SectorSize+gptHeaderSize]...)
	table := head[2*SectorSize : firstUsable*SectorSize]
	sum := binary.LittleEndian.Uint32(h[16:])
	binary.LittleEndian.PutUint32(h[16:], 0)
	switch {
	case !bytes.HasPrefix(h, []byte("EFI PART")) || !bytes.Equal(h[56:72], diskGUID[:]):
		return refuse("header", fmt.Sprintf("%x", h[:8]), "the table of an image")
	case sum != crc32.ChecksumIEEE(h) || binary.LittleEndian.Uint32(h[88:]) != crc32.ChecksumIEEE(table):
		return refuse("checksum", fmt.Sprintf("%#x", sum), "the header's and the table's")
	}
	var parts []Partition
	for i, name := range []string{NameESP, NameImage, NameVerity, NameRoot} {
		e := table[i*gptEntrySize:]
		var units []uint16
		for j := 0; j < 36; j++ {
			if u := binary.LittleEndian.Uint16(e[56+2*j:]); u != 0 {
				units = append(units, u)
			}
		}
		if got := string(utf16.Decode(units)); got != name {
			return refuse("partition", got, name)
		}
		parts = append(parts, Partition{Name: name, Type: GUID(e[:16]), Unique: GUID(e[16:32]), First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:])})
	}
	return parts, nil
}
