package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/sbin"
)

// source is a folder with all that a root has, so many files in one of its folders, and the contents by path.
func source(t testing.TB, many int) (dir string, want map[string][]byte) {
	t.Helper()
	dir, want = t.TempDir(), map[string][]byte{}
	put := func(name string, b []byte) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o640); err != nil {
			t.Fatal(err)
		}
		want[name] = b
	}
	put("etc/motd", []byte("hello\n"))
	put("etc/empty", nil)
	put("etc/medium", bytes.Repeat([]byte{'m'}, 130)) // inline data with an attribute
	put("usr/lib/os-release", []byte("ID=debian\n"))
	put("usr/bin/large", bytes.Repeat([]byte("0123456789abcdef"), 100_000))
	for i := range many {
		put(fmt.Sprintf("many/a rather long file name, number %d", i), nil)
	}
	// A hole after each block makes as many extents as blocks: a tree with inner nodes.
	sparse := make([]byte, 16<<20)
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; at < len(sparse); at += 8192 {
		b := []byte(fmt.Sprintf("block %d", at))
		copy(sparse[at:], b)
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	want["sparse"] = sparse[:len(sparse)-8192+len(fmt.Sprintf("block %d", len(sparse)-8192))]
	for link, target := range map[string]string{
		"bin": "usr/bin", "etc/os-release": "../usr/lib/os-release", "absolute": "/etc/motd", "out": "../../../../etc/motd", "chain": "absolute",
		"long": strings.Repeat("./", 60) + "etc/motd", "loop": "loop2", "loop2": "loop", "dangling": "nowhere",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "usr/bin/large"), 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return dir, want
}

func formatted(t testing.TB, dir, size string, args ...string) []byte {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	cmd := exec.Command(sbin.Path("mke2fs"), append(append([]string{"-q", "-t", "ext4", "-L", "root", "-d", dir}, args...), img, size)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs (package e2fsprogs): %v\n%s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(b []byte) (*FS, error) { return Open(bytes.NewReader(b), int64(len(b))) }

func TestReadsWhatMke2fsWrites(t *testing.T) {
	for name, args := range map[string][]string{
		"as Debian makes it": nil,
		"1 KiB blocks":       {"-b", "1024"},
		"inline data":        {"-O", "inline_data"},
		"without checksums":  {"-O", "^metadata_csum,^64bit"},
		"checksum seed":      {"-O", "metadata_csum_seed,large_dir"},
		"small inodes":       {"-I", "128"},
	} {
		t.Run(name, func(t *testing.T) {
			many := 100
			if name == "1 KiB blocks" {
				many = 3000 // a hash tree of two levels
			}
			dir, want := source(t, many)
			f, err := open(formatted(t, dir, "64M", args...))
			if err != nil {
				t.Fatal(err)
			}
			if f.Label != "root" || f.Size() != 64<<20 {
				t.Errorf("label %q, %d bytes", f.Label, f.Size())
			}
			for p, w := range want {
				if p != "etc/motd" && strings.HasPrefix(p, "many/") && !strings.HasSuffix(p, "77") {
					continue
				}
				if got, err := fs.ReadFile(f, p); err != nil || !bytes.Equal(got, w) {
					t.Fatalf("%s: %d bytes, want %d (%v)", p, len(got), len(w), err)
				}
			}
			list, err := f.ReadDir("many")
			if err != nil || len(list) != many {
				t.Errorf("%d files, want %d (%v)", len(list), many, err)
			}
			for link, target := range map[string]string{
				"bin/large": "usr/bin/large", "etc/os-release": "usr/lib/os-release", "absolute": "etc/motd", "out": "etc/motd", "chain": "etc/motd", "long": "etc/motd",
			} {
				if got, err := fs.ReadFile(f, link); err != nil || !bytes.Equal(got, want[target]) {
					t.Errorf("%s: %d bytes (%v)", link, len(got), err)
				}
			}
			if got, err := f.ReadLink("long"); err != nil || len(got) != 128 {
				t.Errorf("long link %q, %v", got, err)
			}
			if _, err := f.Stat("loop"); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a loop of links: %v", err)
			}
			for _, missing := range []string{"dangling", "etc/none", "etc/motd/x"} {
				if _, err := f.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", missing, err)
				}
			}
			i, err := f.Stat("usr/bin/large")
			if err != nil || i.Mode() != 0o755|fs.ModeSetuid || i.Sys().(Owner).UID != uint32(os.Getuid()) {
				t.Errorf("%v, %v", i, err)
			}
		})
	}
}

func TestIsAFileSystem(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"a", "sub/b", "sub/deeper/c"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte("content of "+p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	f, err := open(formatted(t, dir, "4M"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(f, "a", "sub/b", "sub/deeper/c", "link"); err != nil {
		t.Error(err)
	}
}

// walk reads all there is.
func walk(b []byte) error {
	f, err := open(b)
	if err != nil {
		return err
	}
	return fs.WalkDir(f, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		_, err = fs.ReadFile(f, p)
		return err
	})
}

func TestRefuses(t *testing.T) {
	dir, _ := source(t, 3)
	plain := formatted(t, dir, "64M", "-b", "4096", "-O", "^metadata_csum")
	summed := formatted(t, dir, "64M", "-b", "4096")
	for _, b := range [][]byte{plain, summed} {
		if err := walk(b); err != nil {
			t.Fatalf("positive twin: %v", err)
		}
	}
	le := binary.LittleEndian
	f, err := open(plain)
	if err != nil {
		t.Fatal(err)
	}
	super := func(b []byte) []byte { return b[superOffset:] }
	table := int64(le.Uint32(plain[f.BlockSize+8:])) * f.BlockSize
	inodeAt := func(b []byte, name string) []byte {
		_, i, err := f.lookup(name, false)
		if err != nil {
			t.Fatal(err)
		}
		group := int64(i.number-1) / int64(f.inodesPerGroup)
		at := int64(le.Uint32(plain[f.BlockSize+group*f.descriptorSize+8:])) * f.BlockSize
		return b[at+int64(i.number-1)%int64(f.inodesPerGroup)*f.inodeSize:]
	}
	firstBlock := func(name string) int64 {
		_, i, err := f.lookup(name, false)
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.extent(i, 0)
		if err != nil {
			t.Fatal(err)
		}
		return int64(e.physical) * f.BlockSize
	}
	number := func(name string) uint32 {
		at, _, err := f.lookup(name, false)
		if err != nil {
			t.Fatal(err)
		}
		return at.number
	}
	// entryIn finds an entry in the first block of a folder.
	entryIn := func(b []byte, folder, name string) []byte {
		block := b[firstBlock(folder):][:f.BlockSize]
		at := bytes.Index(block, append([]byte{byte(len(name)), 1}, name...))
		if at < 0 {
			at = bytes.Index(block, append([]byte{byte(len(name)), 2}, name...))
		}
		return block[at-6:]
	}
	for _, c := range []struct {
		name  string
		good  []byte
		spoil func([]byte)
		want  evidence.Code
		field string // how it begins
	}{
		{"no magic", plain, func(b []byte) { super(b)[0x38] = 0 }, evidence.CodeParse, "ext4/magic"},
		{"journal not played back", plain, func(b []byte) { super(b)[0x60] |= 4 }, evidence.CodeUnsupported, "ext4/features"},
		{"encryption", plain, func(b []byte) { super(b)[0x62] |= 1 }, evidence.CodeUnsupported, "ext4/features"},
		{"case folding", plain, func(b []byte) { super(b)[0x62] |= 2 }, evidence.CodeUnsupported, "ext4/features"},
		{"unknown feature", plain, func(b []byte) { super(b)[0x63] |= 0x40 }, evidence.CodeUnsupported, "ext4/features"},
		{"bigalloc", plain, func(b []byte) { super(b)[0x65] |= 2 }, evidence.CodeUnsupported, "ext4/features"},
		{"blocks of 8 KiB", plain, func(b []byte) { super(b)[0x18] = 3 }, evidence.CodeUnsupported, "ext4/blockSize"},
		{"blocks of 2^4000 bytes", plain, func(b []byte) { le.PutUint32(super(b)[0x18:], 4000) }, evidence.CodeUnsupported, "ext4/blockSize"},
		{"larger than the partition", plain, func(b []byte) { le.PutUint32(super(b)[4:], 1<<30) }, evidence.CodeParse, "ext4/blocksCount"},
		{"exabytes", plain, func(b []byte) { le.PutUint32(super(b)[0x150:], 1<<31) }, evidence.CodeParse, "ext4/blocksCount"},
		{"no inodes in a group", plain, func(b []byte) { le.PutUint32(super(b)[0x28:], 0) }, evidence.CodeParse, "ext4/groups"},
		{"no blocks in a group", plain, func(b []byte) { le.PutUint32(super(b)[0x20:], 0) }, evidence.CodeParse, "ext4/groups"},
		{"billions of inodes", plain, func(b []byte) { le.PutUint32(super(b), 0xffffffff) }, evidence.CodeParse, "ext4/inodesCount"},
		{"inodes of 96 bytes", plain, func(b []byte) { le.PutUint16(super(b)[0x58:], 96) }, evidence.CodeParse, "ext4/inodeSize"},
		{"inodes larger than blocks", plain, func(b []byte) { le.PutUint16(super(b)[0x58:], 8192) }, evidence.CodeParse, "ext4/inodeSize"},
		{"descriptors of 3 bytes", plain, func(b []byte) { le.PutUint16(super(b)[0xfe:], 3) }, evidence.CodeParse, "ext4/descriptorSize"},
		{"inode table outside", plain, func(b []byte) { le.PutUint32(b[f.BlockSize+8:], 0x7fffffff) }, evidence.CodeParse, "ext4/group 0/inodeTable"},
		{"no root", plain, func(b []byte) { clear(b[table+f.inodeSize:][:f.inodeSize]) }, evidence.CodeParse, "ext4/inode 2"},
		{"root is a file", plain, func(b []byte) { le.PutUint16(b[table+f.inodeSize:], 0x81a4) }, evidence.CodeParse, "ext4/folder 2"},
		{"exabytes of file", plain, func(b []byte) { le.PutUint32(inodeAt(b, "etc/motd")[0x6c:], 1<<31) }, evidence.CodeParse, "ext4/inode"},
		{"a map of blocks", plain, func(b []byte) { inodeAt(b, "etc/motd")[0x22] &^= 8 }, evidence.CodeUnsupported, "ext4/inode"},
		{"an encrypted file", plain, func(b []byte) { inodeAt(b, "etc/motd")[0x21] |= 8 }, evidence.CodeUnsupported, "ext4/inode"},
		{"a folder of 16 GiB", plain, func(b []byte) { le.PutUint32(inodeAt(b, "etc")[0x6c:], 4) }, evidence.CodeParse, "ext4/folder"},
		{"no extent magic", plain, func(b []byte) { inodeAt(b, "etc/motd")[0x28] = 0 }, evidence.CodeParse, "ext4/inode"},
		{"a tree of extents that is too deep", plain, func(b []byte) { inodeAt(b, "etc/motd")[0x28+6] = 9 }, evidence.CodeParse, "ext4/inode"},
		{"a tree that ends in itself", plain, func(b []byte) {
			i := inodeAt(b, "sparse")
			node := int64(le.Uint32(i[0x28+12+4:])) * f.BlockSize
			copy(b[node+6:], i[0x28+6:0x28+8])            // as deep as the root
			copy(b[node+12:], i[0x28+12:0x28+24])         // and with itself below
			le.PutUint16(b[node+2:], le.Uint16(i[0x2a:])) // as many entries
		}, evidence.CodeParse, "ext4/inode"},
		{"more entries than a node holds", plain, func(b []byte) { le.PutUint16(inodeAt(b, "etc/motd")[0x2a:], 900) }, evidence.CodeParse, "ext4/inode"},
		{"an extent outside", plain, func(b []byte) { le.PutUint32(inodeAt(b, "etc/motd")[0x28+12+8:], 0x7fffffff) }, evidence.CodeParse, "ext4/inode"},
		{"an extent in the superblock", plain, func(b []byte) { le.PutUint32(inodeAt(b, "etc/motd")[0x28+12+8:], 0) }, evidence.CodeParse, "ext4/inode"},
		{"a folder below itself", plain, func(b []byte) { le.PutUint32(entryIn(b, "usr", "bin"), number("usr")) }, evidence.CodeParse, "ext4/folder"},
		{"a folder in two places", plain, func(b []byte) { le.PutUint32(entryIn(b, "usr", "bin"), number("etc")) }, evidence.CodeParse, "ext4/folder"},
		{"an inode that is not there", plain, func(b []byte) { le.PutUint32(entryIn(b, "etc", "motd"), 0x7fffffff) }, evidence.CodeParse, "ext4/inode"},
		{"an inode that is not in use", plain, func(b []byte) { le.PutUint32(entryIn(b, "etc", "motd"), f.inodes) }, evidence.CodeParse, "ext4/inode"},
		{"a path in a name", plain, func(b []byte) { copy(entryIn(b, "etc", "motd")[8:], "../x") }, evidence.CodeParse, "ext4/folder"},
		{"a name twice", plain, func(b []byte) { copy(entryIn(b, "etc", "empty")[6:], "\x04\x01motd") }, evidence.CodeParse, "ext4/folder"},
		{"an entry of no size", plain, func(b []byte) { le.PutUint16(entryIn(b, "etc", "motd")[4:], 0) }, evidence.CodeParse, "ext4/folder"},
		{"an entry over the block's end", plain, func(b []byte) { le.PutUint16(entryIn(b, "etc", "motd")[4:], 0xfff0) }, evidence.CodeParse, "ext4/folder"},
		{"a name over the entry's end", plain, func(b []byte) { entryIn(b, "etc", "motd")[6] = 200 }, evidence.CodeParse, "ext4/folder"},
		{"a link without end", plain, func(b []byte) { le.PutUint32(inodeAt(b, "bin")[4:], 1<<20) }, evidence.CodeParse, ""},
		{"superblock's checksum", summed, func(b []byte) { super(b)[0x78] ^= 1 }, evidence.CodeParse, "ext4/superblock/checksum"},
		{"checksum of another kind", summed, func(b []byte) { super(b)[0x175] = 2 }, evidence.CodeUnsupported, "ext4/checksumType"},
		{"group's checksum", summed, func(b []byte) { b[f.BlockSize+0xc] ^= 1 }, evidence.CodeParse, "ext4/group 0/checksum"},
		{"inode's checksum", summed, func(b []byte) { b[table+f.inodeSize+0x10] ^= 1 }, evidence.CodeParse, "ext4/inode 2/checksum"},
		{"folder's checksum", summed, func(b []byte) {
			at := bytes.Index(b, []byte("\x04\x01motd"))
			b[at+5] = 'X'
		}, evidence.CodeParse, "ext4/folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(c.good)
			c.spoil(b)
			err := walk(b)
			if c.field == "" { // links are not opened by a walk
				g, openErr := open(b)
				if openErr != nil {
					t.Fatal(openErr)
				}
				_, err = g.ReadLink("bin")
			}
			var r *evidence.Refusal
			if !errors.As(err, &r) || r.Code != c.want || !strings.HasPrefix(r.Field, c.field) {
				t.Errorf("%v, want %s of %s", err, c.want, c.field)
			}
		})
	}
	for _, n := range []int{0, 1024, 2047, 4096, 1 << 20, 32 << 20} {
		if err := walk(summed[:n]); err == nil {
			t.Errorf("%d of %d bytes were read", n, len(summed))
		}
	}
}

func TestAllocation(t *testing.T) {
	dir, want := source(t, 3)
	b := formatted(t, dir, "160M", "-b", "4096") // two groups
	f, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	a := f.Allocation()
	free := 0
	for n := range f.blocks {
		is, err := a.Free(n)
		if err != nil {
			t.Fatal(err)
		}
		if is {
			free++
			copy(b[int64(n)*f.BlockSize:], bytes.Repeat([]byte{0xa5}, int(f.BlockSize)))
		}
	}
	said := binary.LittleEndian.Uint32(b[superOffset+0xc:])
	if free == 0 || uint32(free) > said {
		t.Errorf("%d blocks are free; the superblock says %d", free, said)
	}
	// Whatever free blocks hold, the file system is the same.
	if err := walk(b); err != nil {
		t.Error(err)
	}
	if f, err = open(b); err != nil {
		t.Fatal(err)
	}
	if got, err := fs.ReadFile(f, "usr/bin/large"); err != nil || !bytes.Equal(got, want["usr/bin/large"]) {
		t.Errorf("%v", err)
	}
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(sbin.Path("e2fsck"), "-fn", img).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	bitmap := int64(binary.LittleEndian.Uint32(b[f.BlockSize:])) * f.BlockSize
	b[bitmap+100] ^= 1
	if f, err = open(b); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Allocation().Free(800); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("a changed bitmap: %v", err)
	}
}

func TestIs(t *testing.T) {
	b := formatted(t, t.TempDir(), "2M")
	if !Is(bytes.NewReader(b)) || Is(bytes.NewReader(make([]byte, 4096))) || Is(bytes.NewReader(nil)) {
		t.Error("a file system was not told from nothing")
	}
}

func FuzzWalk(f *testing.F) {
	dir := f.TempDir()
	for name, text := range map[string]string{"a": "text", "d/b": strings.Repeat("x", 5000)} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("/d/b", filepath.Join(dir, "l")); err != nil {
		f.Fatal(err)
	}
	for _, features := range []string{"^metadata_csum,^has_journal,^resize_inode", "^metadata_csum,^has_journal,^resize_inode,inline_data"} {
		f.Add(formatted(f, dir, "256K", "-b", "1024", "-N", "32", "-O", features))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys, err := open(b)
		if err != nil {
			return
		}
		seen := 0
		_ = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
			if seen++; seen > 500 || err != nil {
				return fs.SkipAll
			}
			if d.Type()&fs.ModeSymlink != 0 {
				_, _ = fsys.Stat(p)
			}
			if o, err := fsys.Open(p); err == nil && d.Type().IsRegular() {
				_, _ = o.Read(make([]byte, 10000))
			}
			return nil
		})
	})
}
