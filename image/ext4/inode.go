package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// flags of inodes
const (
	inodeEncrypted = 0x800
	inodeExtents   = 0x80000
	inodeInline    = 0x10000000
	inodeCasefold  = 0x40000000
)

const (
	goodOldSize   = 128 // of inodes; what follows is the extra part and extended attributes
	blockAreaAt   = 0x28
	blockAreaSize = 60
	extentMagic   = 0xf30a
	attrMagic     = 0xea020000
	attrSystem    = 7 // name index of "system."
	maxDepth      = 5 // of extent trees
)

// inode is what the file system says of one file.
type inode struct {
	number   uint32
	raw      []byte
	mode     uint16
	uid, gid uint32
	size     int64
	flags    uint32
	links    uint16
	mtime    time.Time
	seed     uint32 // of its checksums
}

// Owner is what FileInfo.Sys gives.
type Owner struct {
	Inode    uint32
	UID, GID uint32
	Links    uint16
}

// descriptor reads a group's.
func (f *FS) descriptor(group uint32) ([]byte, error) {
	d := make([]byte, f.descriptorSize)
	if err := f.disk.read(d, int64(f.firstBlock+1)*f.BlockSize+int64(group)*f.descriptorSize, "group descriptor"); err != nil {
		return nil, err
	}
	if f.checksums {
		want := binary.LittleEndian.Uint16(d[0x1e:])
		b := append([]byte(nil), d...)
		clear(b[0x1e:0x20])
		if got := uint16(crc(crcNumber(f.seed, group), b)); got != want {
			return nil, malformed(fmt.Sprintf("group %d/checksum", group), fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
		}
	}
	return d, nil
}

func (f *FS) inode(number uint32) (*inode, error) {
	what := fmt.Sprintf("inode %d", number)
	if number == 0 || number > f.inodes {
		return nil, malformed(what, "no such inode", fmt.Sprintf("1 to %d", f.inodes))
	}
	le := binary.LittleEndian
	group := (number - 1) / f.inodesPerGroup
	d, err := f.descriptor(group)
	if err != nil {
		return nil, err
	}
	table := uint64(le.Uint32(d[8:]))
	if f.descriptorSize >= 64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	at := int64((number-1)%f.inodesPerGroup) * f.inodeSize
	if table <= f.firstBlock || table >= f.blocks {
		return nil, malformed(fmt.Sprintf("group %d/inodeTable", group), fmt.Sprintf("block %d", table), fmt.Sprintf("a block of the %d", f.blocks))
	}
	i := &inode{number: number, raw: make([]byte, f.inodeSize)}
	if err := f.disk.read(i.raw, int64(table)*f.BlockSize+at, what); err != nil {
		return nil, err
	}
	r := i.raw
	i.mode, i.flags, i.links = le.Uint16(r), le.Uint32(r[0x20:]), le.Uint16(r[0x1a:])
	i.uid = uint32(le.Uint16(r[2:])) | uint32(le.Uint16(r[0x78:]))<<16
	i.gid = uint32(le.Uint16(r[0x18:])) | uint32(le.Uint16(r[0x7a:]))<<16
	i.mtime = time.Unix(int64(int32(le.Uint32(r[0x10:]))), 0).UTC()
	i.seed = crcNumber(crcNumber(f.seed, number), le.Uint32(r[0x64:]))
	size := uint64(le.Uint32(r[4:])) | uint64(le.Uint32(r[0x6c:]))<<32
	if size>>46 != 0 {
		return nil, malformed(what+"/size", fmt.Sprint(size), "less than 64 TiB")
	}
	i.size = int64(size)
	if f.checksums {
		if err := i.checkSum(what); err != nil {
			return nil, err
		}
	}
	if i.mode == 0 || i.links == 0 {
		return nil, malformed(what, "not in use", "a file")
	}
	if i.flags&(inodeEncrypted|inodeCasefold) != 0 {
		return nil, unsupported(what, fmt.Sprintf("flags %#x", i.flags), "a file that is not encrypted and a folder that knows case")
	}
	return i, nil
}

func (i *inode) checkSum(what string) error {
	le := binary.LittleEndian
	b := append([]byte(nil), i.raw...)
	want, mask := uint32(le.Uint16(b[0x7c:])), uint32(0xffff)
	clear(b[0x7c:0x7e])
	if len(b) > goodOldSize && le.Uint16(b[0x80:]) >= 4 {
		want |= uint32(le.Uint16(b[0x82:])) << 16
		clear(b[0x82:0x84])
		mask = 0xffffffff
	}
	if got := crc(i.seed, b) & mask; got != want {
		return malformed(what+"/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	return nil
}

func (i *inode) fileMode() fs.FileMode {
	m := fs.FileMode(i.mode & 0o777)
	switch i.mode & 0xf000 {
	case 0x4000:
		m |= fs.ModeDir
	case 0xa000:
		m |= fs.ModeSymlink
	case 0x2000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0x6000:
		m |= fs.ModeDevice
	case 0x1000:
		m |= fs.ModeNamedPipe
	case 0xc000:
		m |= fs.ModeSocket
	case 0x8000:
	default:
		m |= fs.ModeIrregular
	}
	for bit, flag := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// read fills b from a file's offset and says how much there was.
func (f *FS) read(i *inode, b []byte, at int64) (int, error) {
	if at >= i.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), i.size-at)]
	what := fmt.Sprintf("inode %d", i.number)
	if i.flags&inodeInline != 0 {
		data, err := f.inline(i)
		if err != nil {
			return 0, err
		}
		if int64(len(data)) < i.size {
			return 0, malformed(what, fmt.Sprintf("%d bytes inside", len(data)), fmt.Sprint(i.size))
		}
		return copy(b, data[at:]), nil
	}
	if i.flags&inodeExtents == 0 {
		return 0, unsupported(what, "a map of blocks", "extents (e2fsck -E bmap2extent makes them)")
	}
	done := 0
	for done < len(b) {
		logical := uint64(at / f.BlockSize)
		e, err := f.extent(i, logical)
		if err != nil {
			return done, err
		}
		within := at - int64(e.logical)*f.BlockSize
		part := b[done:min(int64(len(b)), int64(done)+int64(e.length)*f.BlockSize-within)]
		if e.hole {
			clear(part)
		} else if err := f.disk.read(part, int64(e.physical)*f.BlockSize+within, what); err != nil {
			return done, err
		}
		done += len(part)
		at += int64(len(part))
	}
	return done, nil
}

// extent is a run of blocks; a hole reads as zeros.
type extent struct {
	logical, length, physical uint64
	hole                      bool
}

// extent finds the run that holds a logical block.
func (f *FS) extent(i *inode, logical uint64) (extent, error) {
	what := fmt.Sprintf("inode %d/extents", i.number)
	le := binary.LittleEndian
	node, isRoot := i.raw[blockAreaAt:blockAreaAt+blockAreaSize], true
	first, end := uint64(0), uint64(1)<<32 // logical blocks that the node is about
	for wantDepth := -1; ; wantDepth-- {
		entries, most, depth := int(le.Uint16(node[2:])), int(le.Uint16(node[4:])), int(le.Uint16(node[6:]))
		if le.Uint16(node) != extentMagic || entries > most || 12+12*most > len(node) || depth > maxDepth || !isRoot && depth != wantDepth {
			return extent{}, malformed(what, fmt.Sprintf("a node with magic %#x, %d of %d entries, depth %d", le.Uint16(node), entries, most, depth), "a node of the tree")
		}
		if isRoot {
			wantDepth = depth
		} else if f.checksums {
			tail := 12 + 12*most
			if tail+4 > len(node) {
				return extent{}, malformed(what, "a node without room for its checksum", "room")
			}
			if got, want := le.Uint32(node[tail:]), crc(i.seed, node[:tail]); got != want {
				return extent{}, malformed(what+"/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
			}
		}
		// The last entry that begins at or before the block, and where the next begins.
		at := -1
		next := end
		for n := range entries {
			begin := uint64(le.Uint32(node[12+12*n:]))
			if begin < first || begin >= end || n > 0 && begin <= uint64(le.Uint32(node[12*n:])) {
				return extent{}, malformed(what, fmt.Sprintf("an entry for block %d", begin), "entries in order")
			}
			if begin > logical {
				next = begin
				break
			}
			at = n
		}
		if at < 0 {
			return extent{logical: logical, length: next - logical, hole: true}, nil
		}
		e := node[12+12*at:]
		begin := uint64(le.Uint32(e))
		if depth == 0 {
			length, unwritten := uint64(le.Uint16(e[4:])), false
			if length > 32768 {
				length, unwritten = length-32768, true
			}
			physical := uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32
			if length == 0 || begin+length > next || !unwritten && (physical <= f.firstBlock || physical+length > f.blocks) {
				return extent{}, malformed(what, fmt.Sprintf("%d blocks at %d", length, physical), fmt.Sprintf("some of the %d blocks", f.blocks))
			}
			if logical >= begin+length {
				return extent{logical: logical, length: next - logical, hole: true}, nil
			}
			return extent{begin, length, physical, unwritten}, nil
		}
		child := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
		var err error
		if node, err = f.block(child, what); err != nil {
			return extent{}, err
		}
		first, end, isRoot = begin, next, false
	}
}

// inline is the content of a file that lies in its inode: 60 bytes, and the extended attribute "system.data".
func (f *FS) inline(i *inode) ([]byte, error) {
	what := fmt.Sprintf("inode %d/inlineData", i.number)
	data := append([]byte(nil), i.raw[blockAreaAt:blockAreaAt+blockAreaSize]...)
	if len(i.raw) <= goodOldSize+4 {
		return data, nil
	}
	le := binary.LittleEndian
	start := goodOldSize + int(le.Uint16(i.raw[0x80:]))
	if start+4 > len(i.raw) {
		return nil, malformed(what, fmt.Sprintf("an extra part up to %d", start), "one inside the inode")
	}
	if le.Uint32(i.raw[start:]) != attrMagic {
		return data, nil
	}
	attrs := i.raw[start+4:]
	for at := 0; at+16 <= len(attrs) && le.Uint32(attrs[at:]) != 0; {
		nameLen, index := int(attrs[at]), attrs[at+1]
		offset, inodeOf, size := int(le.Uint16(attrs[at+2:])), le.Uint32(attrs[at+4:]), le.Uint32(attrs[at+8:])
		if at+16+nameLen > len(attrs) {
			return nil, malformed(what, "an attribute's name that leaves the inode", "attributes inside")
		}
		if index == attrSystem && string(attrs[at+16:at+16+nameLen]) == "data" {
			if inodeOf != 0 || offset > len(attrs) || size > uint32(len(attrs)-offset) {
				return nil, malformed(what, fmt.Sprintf("%d bytes at %d", size, offset), "a value inside the inode")
			}
			return append(data, attrs[offset:offset+int(size)]...), nil
		}
		at += 16 + (nameLen+3)/4*4
	}
	return data, nil
}
