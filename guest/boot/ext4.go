package boot

import (
	"encoding/binary"
	"fmt"
	"io"
)

// blockSize is that of images, in bytes: of the hash tree, of the file system and of encryption.
const blockSize = 4096

const (
	superOffset   = 1024
	superSize     = 1024
	ext4Magic     = 0xef53
	flag64bit     = 0x80
	flagMetaBG    = 0x10
	flagBigalloc  = 0x200
	groupNoBitmap = 2 // EXT4_BG_BLOCK_UNINIT
)

// allocation says which blocks of a file system must be copied.
type allocation struct {
	blocks   uint64
	perGroup uint64
	bitmaps  map[uint64][]byte // by group; nil for a group that holds no bitmap yet
}

// mustCopy is true for blocks in use, whatever they hold. In a group without a bitmap only non-zero blocks matter.
func (a *allocation) mustCopy(block uint64, zero bool) bool {
	if block >= a.blocks {
		return !zero
	}
	b, ok := a.bitmaps[block/a.perGroup]
	if !ok {
		return !zero
	}
	i := block % a.perGroup
	return b[i/8]>>(i%8)&1 == 1
}

// free tells without reading that a block is not in use.
func (a *allocation) free(block uint64) bool { return !a.mustCopy(block, false) }

func isExt4(super []byte) bool { return binary.LittleEndian.Uint16(super[0x38:]) == ext4Magic }

// readAllocation reads the block bitmaps of an ext4 file system with 4 KiB blocks; all numbers are little-endian. The
// image is behind its hash tree, so the bitmaps are the image maker's. Leaving free blocks out matters: on a fresh
// encrypted volume a block that was not written reads as noise, so blocks in use are written even where they are zero.
func readAllocation(r io.ReaderAt, size uint64) (*allocation, error) {
	super := make([]byte, superSize)
	if _, err := r.ReadAt(super, superOffset); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	incompat, roCompat := le.Uint32(super[0x60:]), le.Uint32(super[0x64:])
	switch {
	case !isExt4(super):
		return nil, fmt.Errorf("the image is not ext4")
	case le.Uint32(super[0x18:]) != 2:
		return nil, fmt.Errorf("the image has ext4 blocks of %d bytes, want %d", uint64(1024)<<min(le.Uint32(super[0x18:]), 20), blockSize)
	case incompat&flagMetaBG != 0 || roCompat&flagBigalloc != 0:
		return nil, fmt.Errorf("the image uses meta_bg or bigalloc")
	}
	a := &allocation{blocks: uint64(le.Uint32(super[4:])), perGroup: uint64(le.Uint32(super[0x20:])), bitmaps: map[uint64][]byte{}}
	descSize := uint64(32)
	if incompat&flag64bit != 0 {
		a.blocks |= uint64(le.Uint32(super[0x150:])) << 32
		descSize = uint64(le.Uint16(super[0xfe:]))
	}
	if a.blocks*blockSize > size || a.blocks>>40 != 0 || a.perGroup == 0 || a.perGroup > blockSize*8 || (descSize != 32 && descSize != 64) {
		return nil, fmt.Errorf("the image's ext4 superblock is out of range")
	}
	groups := (a.blocks + a.perGroup - 1) / a.perGroup
	table := make([]byte, groups*descSize)
	if _, err := r.ReadAt(table, blockSize); err != nil { // descriptors follow the superblock's block
		return nil, err
	}
	for g := range groups {
		d := table[g*descSize:][:descSize]
		if le.Uint16(d[0x12:])&groupNoBitmap != 0 {
			continue
		}
		at := uint64(le.Uint32(d))
		if descSize == 64 {
			at |= uint64(le.Uint32(d[0x20:])) << 32
		}
		if at >= a.blocks {
			return nil, fmt.Errorf("ext4 bitmap of group %d is outside of the image", g)
		}
		b := make([]byte, blockSize)
		if _, err := r.ReadAt(b, int64(at*blockSize)); err != nil {
			return nil, err
		}
		a.bitmaps[g] = b
	}
	return a, nil
}
