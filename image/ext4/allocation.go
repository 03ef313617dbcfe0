package ext4

import (
	"encoding/binary"
	"fmt"
)

// groupNoBitmap marks a group whose bitmap was never written: nothing but its own tables is in use there.
const groupNoBitmap = 2

// Allocation tells which blocks are in use.
type Allocation struct {
	fs      *FS
	group   uint64
	bitmap  []byte // of the group; nil where it has none
	present bool
}

// Allocation reads the block bitmaps as they are asked for, one group at a time.
func (f *FS) Allocation() *Allocation { return &Allocation{fs: f} }

// Free tells of a block that no file and no table has. What was deleted may still be in it. Blocks of a group without a
// bitmap count as in use.
func (a *Allocation) Free(block uint64) (bool, error) {
	f := a.fs
	if block < f.firstBlock || block >= f.blocks {
		return false, nil
	}
	group := (block - f.firstBlock) / f.blocksPerGroup
	if !a.present || a.group != group {
		if err := a.load(group); err != nil {
			return false, err
		}
	}
	i := (block - f.firstBlock) % f.blocksPerGroup
	return a.bitmap != nil && a.bitmap[i/8]>>(i%8)&1 == 0, nil
}

func (a *Allocation) load(group uint64) error {
	f := a.fs
	a.present, a.bitmap = false, nil
	d, err := f.descriptor(uint32(group))
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(d[0x12:])&groupNoBitmap == 0 {
		at := uint64(le.Uint32(d))
		sum, mask := uint32(le.Uint16(d[0x18:])), uint32(0xffff)
		if f.descriptorSize >= 64 {
			at |= uint64(le.Uint32(d[0x20:])) << 32
			sum, mask = sum|uint32(le.Uint16(d[0x38:]))<<16, 0xffffffff
		}
		what := fmt.Sprintf("group %d/bitmap", group)
		if a.bitmap, err = f.block(at, what); err != nil {
			return err
		}
		if f.checksums {
			if got := crc(f.seed, a.bitmap[:f.blocksPerGroup/8]) & mask; got != sum {
				return malformed(what+"/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", sum))
			}
		}
	}
	a.group, a.present = group, true
	return nil
}
