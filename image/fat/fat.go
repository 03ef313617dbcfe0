// Package fat reads FAT12, FAT16 and FAT32 file systems, which EFI system partitions are. It only reads, follows no
// chain of clusters for ever, and keeps no more than constants say in memory.
package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// Bounds. The specification limits a folder to 2 MiB; no system partition has as many files or as deep folders.
const (
	maxFolder  = 2 << 20
	maxFiles   = 16384
	maxDepth   = 16
	fatChunk   = 64 << 10
	maxCluster = 128 << 10
)

const (
	entrySize     = 32
	attrVolume    = 0x08
	attrFolder    = 0x10
	attrLongName  = 0x0f
	deleted       = 0xe5
	lastLongEntry = 0x40
)

// File is a file of the system, by its path with slashes, in the case that it was written in. FAT knows no case.
type File struct {
	Path  string
	Size  int64 // bytes
	first uint32
}

// FS is a file system.
type FS struct {
	Bits int // 12, 16 or 32

	r             io.ReaderAt
	sector        int64
	cluster       int64
	fat, fatBytes int64
	root, data    int64 // bytes; root is where FAT12 and FAT16 have theirs
	rootBytes     int64
	rootCluster   uint32
	clusters      uint32 // the highest number

	chunk  []byte
	loaded int64
}

func malformed(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, "fat/"+field, got, want)
}

func (f *FS) readAt(b []byte, at int64, field string) error {
	n, err := f.r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return malformed(field, fmt.Sprintf("ends after %d of %d bytes at %d", n, len(b), at), "the whole of it")
	}
	return fmt.Errorf("reading the system partition: %w", err)
}

// Open reads the boot sector of a file system in size bytes. All numbers are little-endian. Source: Microsoft, FAT32 File
// System Specification, version 1.03.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, loaded: -1}
	b := make([]byte, 512)
	if err := f.readAt(b, 0, "bootSector"); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, malformed("signature", fmt.Sprintf("%x", b[510:]), "55aa")
	}
	f.sector = int64(le.Uint16(b[11:]))
	if s := f.sector; s < 512 || s > 4096 || s&(s-1) != 0 {
		return nil, malformed("bytesPerSector", fmt.Sprint(s), "512 to 4096")
	}
	perCluster := int64(b[13])
	f.cluster = perCluster * f.sector
	if perCluster == 0 || perCluster&(perCluster-1) != 0 || f.cluster > maxCluster {
		return nil, malformed("sectorsPerCluster", fmt.Sprint(perCluster), fmt.Sprintf("a power of two, and clusters of at most %d bytes", maxCluster))
	}
	reserved, fats, rootEntries := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total, perFAT := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	is32 := perFAT == 0
	if is32 {
		perFAT, f.rootCluster = int64(le.Uint32(b[36:])), le.Uint32(b[44:])
	}
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if total*f.sector > size {
		return nil, malformed("totalSectors", fmt.Sprint(total), fmt.Sprintf("no more than the partition's %d bytes", size))
	}
	if reserved == 0 || fats == 0 || perFAT == 0 {
		return nil, malformed("layout", fmt.Sprintf("%d reserved sectors, %d tables of %d sectors", reserved, fats, perFAT), "some of each")
	}
	f.rootBytes = (rootEntries*entrySize + f.sector - 1) / f.sector * f.sector
	f.fat, f.fatBytes = reserved*f.sector, perFAT*f.sector
	f.root = f.fat + fats*f.fatBytes
	f.data = f.root + f.rootBytes
	count := (total*f.sector - f.data) / f.cluster
	if f.data >= total*f.sector || count <= 0 || count > 0x0ffffff4 {
		return nil, malformed("layout", fmt.Sprintf("data at %d of %d bytes", f.data, total*f.sector), "room for clusters")
	}
	switch {
	case is32 && rootEntries == 0:
		f.Bits = 32
	case is32:
		return nil, malformed("rootEntries", fmt.Sprint(rootEntries), "0 in FAT32")
	case count < 4085:
		f.Bits = 12
	case count < 65525:
		f.Bits = 16
	default:
		return nil, malformed("clusters", fmt.Sprint(count), "fewer than 65525 in FAT16")
	}
	f.clusters = uint32(count) + 1
	if need := (count + 2) * int64(f.Bits) / 8; f.fatBytes < need {
		return nil, malformed("sectorsPerFAT", fmt.Sprintf("%d bytes", f.fatBytes), fmt.Sprintf("at least %d for %d clusters", need, count))
	}
	return f, nil
}

// next gives the cluster that follows, and false at the end of the chain.
func (f *FS) next(cluster uint32) (uint32, bool, error) {
	at := int64(cluster) * int64(f.Bits) / 8
	var b [4]byte
	for i := range (f.Bits + 7) / 8 {
		if err := f.fatByte(at+int64(i), &b[i]); err != nil {
			return 0, false, err
		}
	}
	v := binary.LittleEndian.Uint32(b[:])
	switch f.Bits {
	case 12:
		v = v >> (4 * (cluster & 1)) & 0xfff
	case 32:
		v &= 0x0fffffff
	}
	if end := uint32(0x0ffffff8) & (1<<f.Bits - 1); v >= end {
		return 0, false, nil
	}
	return v, true, nil
}

func (f *FS) fatByte(at int64, to *byte) error {
	if f.loaded != at/fatChunk {
		if f.chunk == nil {
			f.chunk = make([]byte, fatChunk)
		}
		f.loaded = -1
		start := at / fatChunk * fatChunk
		if err := f.readAt(f.chunk[:min(fatChunk, f.fatBytes-start)], f.fat+start, "table"); err != nil {
			return err
		}
		f.loaded = at / fatChunk
	}
	*to = f.chunk[at%fatChunk]
	return nil
}

// content reads a chain: of a file exactly size bytes, of a folder (size < 0) all, up to maxFolder.
func (f *FS) content(what string, cluster uint32, size int64) ([]byte, error) {
	most := size
	if size < 0 {
		most = maxFolder
	}
	var out []byte
	for more := size != 0; more; {
		if cluster < 2 || cluster > f.clusters {
			return nil, malformed(what, fmt.Sprintf("cluster %d", cluster), fmt.Sprintf("2 to %d", f.clusters))
		}
		if int64(len(out)) >= most {
			if size >= 0 {
				return out[:size], nil
			}
			return nil, malformed(what, "a longer chain of clusters, or one that ends in itself", fmt.Sprintf("at most %d bytes", most))
		}
		part := make([]byte, f.cluster)
		if err := f.readAt(part, f.data+int64(cluster-2)*f.cluster, what); err != nil {
			return nil, err
		}
		out = append(out, part...)
		var err error
		if cluster, more, err = f.next(cluster); err != nil {
			return nil, err
		}
	}
	if size > int64(len(out)) {
		return nil, malformed(what, fmt.Sprintf("a chain of %d bytes", len(out)), fmt.Sprint(size))
	}
	if size >= 0 {
		out = out[:size]
	}
	return out, nil
}

// Read reads a file of at most so many bytes.
func (f *FS) Read(file File, most int64) ([]byte, error) {
	if file.Size > most {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "fat/"+file.Path, fmt.Sprintf("%d bytes", file.Size), fmt.Sprintf("at most %d", most))
	}
	return f.content(file.Path, file.first, file.Size)
}

// Files lists all files, folder by folder.
func (f *FS) Files() ([]File, error) {
	var out []File
	visited := map[uint32]bool{0: true}
	seen := 0
	var walk func(dir string, raw []byte, depth int) error
	walk = func(dir string, raw []byte, depth int) error {
		if depth > maxDepth {
			return malformed(dir, "deeper folders", fmt.Sprintf("at most %d", maxDepth))
		}
		entries, err := parseFolder(dir, raw)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if seen++; seen > maxFiles {
				return malformed(dir, "more files", fmt.Sprintf("at most %d in all", maxFiles))
			}
			p := path.Join(dir, e.name)
			if !e.folder {
				out = append(out, File{p, e.size, e.cluster})
				continue
			}
			if visited[e.cluster] {
				return malformed(p, "a folder that is another one too", "a tree")
			}
			visited[e.cluster] = true
			raw, err := f.content(p, e.cluster, -1)
			if err != nil {
				return err
			}
			if err := walk(p, raw, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	root := make([]byte, f.rootBytes)
	var err error
	if f.Bits == 32 {
		visited[f.rootCluster] = true
		root, err = f.content("root", f.rootCluster, -1)
	} else {
		err = f.readAt(root, f.root, "root")
	}
	if err != nil {
		return nil, err
	}
	return out, walk("", root, 0)
}

type entry struct {
	name    string
	folder  bool
	cluster uint32
	size    int64
}

func parseFolder(dir string, raw []byte) ([]entry, error) {
	le := binary.LittleEndian
	var out []entry
	var long [20][]uint16 // parts of a long name, by their number
	var sum byte
	want := 0 // parts that are still to come; the last part of the name comes first
	for ; len(raw) >= entrySize; raw = raw[entrySize:] {
		b := raw[:entrySize]
		if b[0] == 0 {
			break
		}
		if b[0] == deleted {
			want = 0
			continue
		}
		if b[11]&0x3f == attrLongName {
			n := int(b[0] &^ lastLongEntry)
			if b[0]&lastLongEntry != 0 {
				long, want, sum = [20][]uint16{}, n, b[13]
			}
			if n == 0 || n > len(long) || n != want || b[13] != sum {
				want = 0
				continue
			}
			long[n-1] = units(b)
			want--
			if want == 0 {
				want = -1 // complete: the short entry is next
			}
			continue
		}
		e := entry{name: shortName(b), folder: b[11]&attrFolder != 0, cluster: uint32(le.Uint16(b[20:]))<<16 | uint32(le.Uint16(b[26:])), size: int64(le.Uint32(b[28:]))}
		if want == -1 && sum == checksum(b[:11]) {
			e.name = longName(long[:])
		}
		want = 0
		if b[11]&attrVolume != 0 || e.name == "." || e.name == ".." {
			continue
		}
		if e.name == "" || strings.ContainsAny(e.name, "/\\\x00") || strings.ContainsFunc(e.name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, malformed(path.Join(dir, "entry"), fmt.Sprintf("the name %q", e.name), "a name without slashes and control characters")
		}
		out = append(out, e)
	}
	return out, nil
}

// checksum of a short name, which ties a long one to it.
func checksum(short []byte) (sum byte) {
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

func shortName(b []byte) string {
	base, ext := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	// Bits 3 and 4 of this byte say that base and extension were written in small letters.
	if b[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if b[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return strings.ToValidUTF8(base, "?")
}

func units(b []byte) (out []uint16) {
	for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			out = append(out, binary.LittleEndian.Uint16(b[i:]))
		}
	}
	return out
}

func longName(parts [][]uint16) string {
	var all []uint16
	for _, p := range parts {
		all = append(all, p...)
	}
	for i, u := range all {
		if u == 0 {
			all = all[:i]
			break
		}
	}
	return string(utf16.Decode(all))
}
