package container

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Numbers in VHD are big-endian. Source: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0.
const (
	vhdCookie       = "conectix"
	vhdHeaderCookie = "cxsparse"
	vhdFooterSize   = 512
	vhdHeaderSize   = 1024
	vhdVersion      = 0x00010000
	vhdFixed        = 2
	vhdDynamic      = 3
	vhdDifferencing = 4
	vhdUnused       = 0xffffffff
	vhdMinBlock     = 4096
	vhdMaxBlock     = 256 << 20
)

// footer offsets
const (
	vhdFormatAt     = 12
	vhdDataOffsetAt = 16
	vhdCurrentSize  = 48
	vhdTypeAt       = 60
	vhdChecksumAt   = 64
)

// vhdChecksum is the ones' complement of the sum of all bytes but the checksum's own four.
func vhdChecksum(b []byte, at int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// openVHD gives no disk where the file is no VHD: neither its beginning nor its end says so.
func openVHD(f io.ReaderAt, size int64, head []byte) (*Disk, error) {
	foot := make([]byte, vhdFooterSize)
	if err := readAt(f, foot, size-vhdFooterSize, "vhd/footer"); err != nil {
		return nil, err
	}
	atHead, atFoot := bytes.HasPrefix(head, []byte(vhdCookie)), bytes.HasPrefix(foot, []byte(vhdCookie))
	if !atHead && !atFoot {
		return nil, nil
	}
	if !atFoot {
		return nil, malformed("vhd/footer", "absent at the file's end", "the footer whose copy the file begins with")
	}
	be := binary.BigEndian
	if got, want := be.Uint32(foot[vhdChecksumAt:]), vhdChecksum(foot, vhdChecksumAt); got != want {
		return nil, malformed("vhd/footer/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	if v := be.Uint32(foot[vhdFormatAt:]); v != vhdVersion {
		return nil, unsupported("vhd/version", fmt.Sprintf("%#x", v), fmt.Sprintf("%#x", vhdVersion))
	}
	current := be.Uint64(foot[vhdCurrentSize:])
	if err := checkSize("vhd/size", current); err != nil {
		return nil, err
	}
	if current%512 != 0 {
		return nil, malformed("vhd/size", fmt.Sprint(current), "a multiple of 512 bytes")
	}
	switch kind := be.Uint32(foot[vhdTypeAt:]); kind {
	case vhdFixed:
		if int64(current) != size-vhdFooterSize {
			return nil, malformed("vhd/size", fmt.Sprint(current), fmt.Sprintf("%d, the file without its footer", size-vhdFooterSize))
		}
		return &Disk{Format: VHD, Variant: "fixed", size: int64(current), ReaderAt: io.NewSectionReader(f, 0, int64(current))}, nil
	case vhdDynamic:
		if !bytes.Equal(head, foot) {
			return nil, malformed("vhd/footer", "differs from its copy at the file's beginning", "the same bytes")
		}
		return openDynamic(f, size, int64(current), be.Uint64(foot[vhdDataOffsetAt:]))
	case vhdDifferencing:
		return nil, unsupported("vhd/type", "differencing", "fixed or dynamic: an image that stands alone")
	default:
		return nil, unsupported("vhd/type", fmt.Sprint(kind), "2 (fixed) or 3 (dynamic)")
	}
}

type dynamicVHD struct {
	f              io.ReaderAt
	fileSize, size int64
	table          int64
	block, bitmap  int64 // bytes

	mu     sync.Mutex
	chunk  []byte // of the table
	loaded int64  // index of the chunk, -1 for none
}

// tableChunk is how many bytes of the block table are kept in memory.
const tableChunk = 64 << 10

func openDynamic(f io.ReaderAt, fileSize, size int64, at uint64) (*Disk, error) {
	if at > uint64(fileSize) || at%512 != 0 {
		return nil, malformed("vhd/dataOffset", fmt.Sprint(at), "a sector inside the file")
	}
	h := make([]byte, vhdHeaderSize)
	if err := readAt(f, h, int64(at), "vhd/header"); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	if !bytes.HasPrefix(h, []byte(vhdHeaderCookie)) {
		return nil, malformed("vhd/header/cookie", fmt.Sprintf("%q", h[:8]), vhdHeaderCookie)
	}
	const checksumAt = 36
	if got, want := be.Uint32(h[checksumAt:]), vhdChecksum(h, checksumAt); got != want {
		return nil, malformed("vhd/header/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	if v := be.Uint32(h[24:]); v != vhdVersion {
		return nil, unsupported("vhd/header/version", fmt.Sprintf("%#x", v), fmt.Sprintf("%#x", vhdVersion))
	}
	block := int64(be.Uint32(h[32:]))
	if block < vhdMinBlock || block > vhdMaxBlock || block&(block-1) != 0 {
		return nil, malformed("vhd/header/blockSize", fmt.Sprint(block), fmt.Sprintf("a power of two from %d to %d bytes", vhdMinBlock, vhdMaxBlock))
	}
	table, entries := be.Uint64(h[16:]), int64(be.Uint32(h[28:]))
	if need := (size + block - 1) / block; entries < need {
		return nil, malformed("vhd/header/maxTableEntries", fmt.Sprint(entries), fmt.Sprintf("at least %d for a disk of %d bytes", need, size))
	}
	if table%512 != 0 || table > uint64(fileSize) || int64(table) > fileSize-entries*4 {
		return nil, malformed("vhd/header/tableOffset", fmt.Sprint(table), "a table inside the file")
	}
	d := &dynamicVHD{f: f, fileSize: fileSize, size: size, table: int64(table), block: block, bitmap: (block/512/8 + 511) / 512 * 512, loaded: -1}
	return &Disk{Format: VHD, Variant: "dynamic", size: size, ReaderAt: d}, nil
}

// ReadAt reads the disk. Blocks that are not there read as zeros. The bitmap before each block is not looked at, as in
// QEMU and Hyper-V: in a disk without a parent it can only say what is zero.
func (d *dynamicVHD) ReadAt(b []byte, at int64) (int, error) {
	b, end := inside(b, at, d.size)
	if b == nil && end != nil {
		return 0, end
	}
	for done := 0; done < len(b); {
		within := at % d.block
		part := b[done:min(len(b), done+int(d.block-within))]
		sector, err := d.entry(at / d.block)
		if err != nil {
			return done, err
		}
		if sector == vhdUnused {
			clear(part)
		} else {
			host := int64(sector)*512 + d.bitmap + within
			if host+int64(len(part)) > d.fileSize-vhdFooterSize {
				return done, malformed("vhd/table", fmt.Sprintf("sector %d", sector), "a block inside the file")
			}
			if err := readAt(d.f, part, host, "vhd/block"); err != nil {
				return done, err
			}
		}
		done += len(part)
		at += int64(len(part))
	}
	return len(b), end
}

// entry reads the block table.
func (d *dynamicVHD) entry(block int64) (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := block * 4
	if d.loaded != at/tableChunk {
		start := d.table + at/tableChunk*tableChunk
		if d.chunk == nil {
			d.chunk = make([]byte, tableChunk)
		}
		d.loaded = -1
		part := d.chunk[:min(tableChunk, d.fileSize-start)]
		if err := readAt(d.f, part, start, "vhd/table"); err != nil {
			return 0, err
		}
		d.loaded = at / tableChunk
	}
	return binary.BigEndian.Uint32(d.chunk[at%tableChunk:]), nil
}
