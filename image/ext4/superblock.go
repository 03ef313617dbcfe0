// Package ext4 reads ext4 file systems without mounting them. It is an io/fs file system whose symbolic links stay inside
// of it. The file system is a stranger's: every number is checked before it is used, checksums are verified where the file
// system has them, a directory has one place only, and memory is bounded by constants.
//
// All numbers on disk are little-endian. Source: the Linux kernel's Documentation/filesystems/ext4.
package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"cloister.dev/cloister/evidence"
)

const (
	superOffset  = 1024
	superSize    = 1024
	magic        = 0xef53
	rootInode    = 2
	maxBlockSize = 4096 // Linux on x86-64 mounts no larger one
	maxInodeSize = 4096

	// incompatible: a reader must know each
	needsRecovery = 0x4
	metaBG        = 0x10
	bits64        = 0x80
	checksumSeed  = 0x2000
	inlineData    = 0x8000
	// compatible for readers
	bigalloc     = 0x200
	metaChecksum = 0x400
)

// incompatible features, those that are read and those that are refused by name.
var incompatible = map[uint32]struct {
	name string
	read bool
}{
	0x1: {"compression", false}, 0x2: {"filetype", true}, needsRecovery: {"needs_recovery", false}, 0x8: {"journal_dev", false}, metaBG: {"meta_bg", false},
	0x40: {"extent", true}, bits64: {"64bit", true}, 0x100: {"mmp", true}, 0x200: {"flex_bg", true}, 0x400: {"ea_inode", true}, 0x1000: {"dirdata", false},
	checksumSeed: {"metadata_csum_seed", true}, 0x4000: {"large_dir", true}, inlineData: {"inline_data", true}, 0x10000: {"encrypt", false}, 0x20000: {"casefold", false},
}

// remedies for features that images in the wild have.
var remedies = map[uint32]string{
	needsRecovery: "a clean file system: what its journal still holds would replace what was checked (e2fsck -p plays it back)",
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is ext4's CRC-32C: without the inversions before and after.
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

func crcNumber(seed, n uint32) uint32 { return crc(seed, binary.LittleEndian.AppendUint32(nil, n)) }

func malformed(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, "ext4/"+field, got, want)
}

func unsupported(field, got, want string) error {
	return evidence.Refuse(evidence.CodeUnsupported, "ext4/"+field, got, want)
}

// FS is a file system. It keeps what it read last, so it serves one goroutine at a time.
type FS struct {
	UUID      [16]byte
	Label     string
	BlockSize int64 // bytes

	disk           cache
	blocks         uint64
	inodes         uint32
	inodesPerGroup uint32
	blocksPerGroup uint64
	inodeSize      int64
	firstBlock     uint64
	descriptorSize int64
	checksums      bool // of all metadata
	seed           uint32
	folders        map[[2]uint32][]entry // that were read last, by their number and their parent's
}

// Size of the file system in bytes, which may be less than its partition's.
func (f *FS) Size() int64 { return int64(f.blocks) * f.BlockSize }

// Is tells whether a partition holds ext2, ext3 or ext4.
func Is(r io.ReaderAt) bool {
	var b [2]byte
	_, err := r.ReadAt(b[:], superOffset+0x38)
	return err == nil && binary.LittleEndian.Uint16(b[:]) == magic
}

// Open reads the superblock of a file system in size bytes.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	s := make([]byte, superSize)
	f := &FS{disk: cache{r: r, size: size}, folders: map[[2]uint32][]entry{}}
	if err := f.disk.read(s, superOffset, "superblock"); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if m := le.Uint16(s[0x38:]); m != magic {
		return nil, malformed("magic", fmt.Sprintf("%#x", m), fmt.Sprintf("%#x", magic))
	}
	if rev := le.Uint32(s[0x4c:]); rev != 1 {
		return nil, unsupported("revision", fmt.Sprint(rev), "1")
	}
	features, readOnly := le.Uint32(s[0x60:]), le.Uint32(s[0x64:])
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if known := incompatible[bit]; features&bit != 0 && !known.read {
			name, want := known.name, remedies[bit]
			if name == "" {
				name = fmt.Sprintf("%#x", bit)
			}
			if want == "" {
				want = "a file system without it"
			}
			return nil, unsupported("features", name, want)
		}
	}
	if readOnly&bigalloc != 0 {
		return nil, unsupported("features", "bigalloc", "a file system without it")
	}
	if readOnly&metaChecksum != 0 {
		if kind := s[0x175]; kind != 1 {
			return nil, unsupported("checksumType", fmt.Sprint(kind), "1 (CRC-32C)")
		}
		if got, want := le.Uint32(s[0x3fc:]), crc(^uint32(0), s[:0x3fc]); got != want {
			return nil, malformed("superblock/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
		}
		f.checksums = true
	}
	copy(f.UUID[:], s[0x68:])
	f.Label, _, _ = strings.Cut(string(s[0x78:0x88]), "\x00")
	f.seed = crc(^uint32(0), f.UUID[:])
	if features&checksumSeed != 0 {
		f.seed = le.Uint32(s[0x270:])
	}
	logBlock := le.Uint32(s[0x18:])
	if logBlock > 2 {
		return nil, unsupported("blockSize", fmt.Sprintf("2^%d KiB", logBlock), fmt.Sprintf("1024 to %d bytes", maxBlockSize))
	}
	f.BlockSize = 1024 << logBlock
	f.blocks, f.descriptorSize = uint64(le.Uint32(s[4:])), 32
	if features&bits64 != 0 {
		f.blocks |= uint64(le.Uint32(s[0x150:])) << 32
		f.descriptorSize = int64(le.Uint16(s[0xfe:]))
		if f.descriptorSize < 64 || f.descriptorSize > 1024 || f.descriptorSize&(f.descriptorSize-1) != 0 {
			return nil, malformed("descriptorSize", fmt.Sprint(f.descriptorSize), "64 to 1024")
		}
	}
	if f.blocks == 0 || f.blocks > uint64(size/f.BlockSize) {
		return nil, malformed("blocksCount", fmt.Sprint(f.blocks), fmt.Sprintf("1 to %d: the partition has %d bytes", size/f.BlockSize, size))
	}
	f.firstBlock = uint64(le.Uint32(s[0x14:]))
	if want := uint64(1024 / f.BlockSize); f.firstBlock != want {
		return nil, malformed("firstDataBlock", fmt.Sprint(f.firstBlock), fmt.Sprint(want))
	}
	f.inodeSize = int64(le.Uint16(s[0x58:]))
	if f.inodeSize < 128 || f.inodeSize > maxInodeSize || f.inodeSize > f.BlockSize || f.inodeSize&(f.inodeSize-1) != 0 {
		return nil, malformed("inodeSize", fmt.Sprint(f.inodeSize), "a power of two from 128 to the block's size")
	}
	f.inodes, f.inodesPerGroup = le.Uint32(s), le.Uint32(s[0x28:])
	perGroup := le.Uint32(s[0x20:])
	if perGroup == 0 || int64(perGroup) > f.BlockSize*8 || perGroup%8 != 0 || f.inodesPerGroup == 0 || int64(f.inodesPerGroup) > f.BlockSize*8 {
		return nil, malformed("groups", fmt.Sprintf("%d blocks and %d inodes each", perGroup, f.inodesPerGroup), fmt.Sprintf("1 to %d", f.BlockSize*8))
	}
	f.blocksPerGroup = uint64(perGroup)
	groups := (f.blocks - f.firstBlock + uint64(perGroup) - 1) / uint64(perGroup)
	if uint64(f.inodes) != groups*uint64(f.inodesPerGroup) {
		return nil, malformed("inodesCount", fmt.Sprint(f.inodes), fmt.Sprintf("%d in %d groups", groups*uint64(f.inodesPerGroup), groups))
	}
	if _, err := f.directory(rootInode, rootInode); err != nil {
		return nil, fmt.Errorf("the root folder: %w", err)
	}
	return f, nil
}

// block reads a whole block.
func (f *FS) block(n uint64, what string) ([]byte, error) {
	if n <= f.firstBlock || n >= f.blocks {
		return nil, malformed(what, fmt.Sprintf("block %d", n), fmt.Sprintf("a block of the %d", f.blocks))
	}
	b := make([]byte, f.BlockSize)
	return b, f.disk.read(b, int64(n)*f.BlockSize, what)
}

// cache keeps the chunks of the disk that were read last.
type cache struct {
	r      io.ReaderAt
	size   int64
	chunks map[int64][]byte
	order  []int64
}

const (
	chunkSize  = 64 << 10
	chunksKept = 128
)

func (c *cache) read(b []byte, at int64, what string) error {
	if at < 0 || at > c.size-int64(len(b)) {
		return malformed(what, fmt.Sprintf("%d bytes at %d", len(b), at), fmt.Sprintf("some of the partition's %d", c.size))
	}
	for len(b) > 0 {
		chunk, err := c.chunk(at/chunkSize, what)
		if err != nil {
			return err
		}
		n := copy(b, chunk[at%chunkSize:])
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func (c *cache) chunk(i int64, what string) ([]byte, error) {
	if b, ok := c.chunks[i]; ok {
		return b, nil
	}
	if c.chunks == nil {
		c.chunks = map[int64][]byte{}
	}
	var b []byte
	if len(c.order) == chunksKept {
		b = c.chunks[c.order[0]][:0:chunkSize]
		delete(c.chunks, c.order[0])
		c.order = c.order[1:]
	} else {
		b = make([]byte, 0, chunkSize)
	}
	b = b[:min(chunkSize, c.size-i*chunkSize)]
	if n, err := c.r.ReadAt(b, i*chunkSize); n < len(b) {
		return nil, fmt.Errorf("reading ext4's %s: %w", what, err)
	}
	c.chunks[i] = b
	c.order = append(c.order, i)
	return b, nil
}
