package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/sbin"
)

var big = bytes.Repeat([]byte("0123456789abcdef"), 20000)

// formatted has mkfs.vfat and mtools make a file system.
func formatted(t testing.TB, bits, sizeMiB int) []byte {
	t.Helper()
	dir := t.TempDir()
	img, src := filepath.Join(dir, "img"), filepath.Join(dir, "src")
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(sbin.Path(name), args...)
		cmd.Env = append(os.Environ(), "MTOOLSRC=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s (packages dosfstools, mtools): %v\n%s", name, err, out)
		}
	}
	run("mkfs.vfat", "-C", "-n", "ESP", "-F", fmt.Sprint(bits), img, fmt.Sprint(sizeMiB<<10))
	if err := os.WriteFile(src, big, 0o600); err != nil {
		t.Fatal(err)
	}
	run("mmd", "-i", img, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
	run("mcopy", "-i", img, src, "::/EFI/BOOT/BOOTX64.EFI")
	run("mcopy", "-i", img, src, "::/EFI/debian/a rather long name ä.efi")
	if err := os.WriteFile(src, []byte("small"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("mcopy", "-i", img, src, "::/EFI/debian/grub.cfg")
	run("mcopy", "-i", img, src, "::/gone")
	run("mdel", "-i", img, "::/gone")
	if err := os.WriteFile(src, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run("mcopy", "-i", img, src, "::/empty")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func all(b []byte) (map[string][]byte, error) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	files, err := f.Files()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, x := range files {
		if out[x.Path], err = f.Read(x, 1<<20); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func TestReadsWhatOthersWrite(t *testing.T) {
	for bits, size := range map[int]int{12: 2, 16: 16, 32: 40} {
		b := formatted(t, bits, size)
		f, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil || f.Bits != bits {
			t.Fatalf("FAT%d: %+v, %v", bits, f, err)
		}
		got, err := all(b)
		if err != nil {
			t.Fatalf("FAT%d: %v", bits, err)
		}
		want := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": big, "EFI/debian/a rather long name ä.efi": big, "EFI/debian/grub.cfg": []byte("small"), "empty": nil}
		if len(got) != len(want) {
			t.Errorf("FAT%d: %d files, want %d", bits, len(got), len(want))
		}
		for p, w := range want {
			if g, ok := got[p]; !ok || !bytes.Equal(g, w) {
				t.Errorf("FAT%d: %s has %d bytes (there: %v), want %d", bits, p, len(g), ok, len(w))
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := formatted(t, 16, 16)
	if _, err := all(good); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	le := binary.LittleEndian
	f, err := Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	root := good[f.root:][:f.rootBytes]
	efi := int(f.root) + bytes.Index(root, []byte("EFI        "))
	empty := int(f.root) + bytes.Index(root, []byte("EMPTY      "))
	first := le.Uint16(good[efi+26:])
	for _, c := range []struct {
		name  string
		spoil func([]byte)
		field string
	}{
		{"no signature", func(b []byte) { b[510] = 0 }, "fat/signature"},
		{"sectors of no size", func(b []byte) { le.PutUint16(b[11:], 0) }, "fat/bytesPerSector"},
		{"odd sectors", func(b []byte) { le.PutUint16(b[11:], 513) }, "fat/bytesPerSector"},
		{"clusters of no size", func(b []byte) { b[13] = 0 }, "fat/sectorsPerCluster"},
		{"odd clusters", func(b []byte) { b[13] = 3 }, "fat/sectorsPerCluster"},
		{"larger than the partition", func(b []byte) { le.PutUint16(b[19:], 0); le.PutUint32(b[32:], 1<<31) }, "fat/totalSectors"},
		{"no table", func(b []byte) { b[16] = 0 }, "fat/layout"},
		{"nothing but tables", func(b []byte) { le.PutUint16(b[22:], 0xffff) }, "fat/layout"},
		{"table too small", func(b []byte) { le.PutUint16(b[22:], 1) }, "fat/sectorsPerFAT"},
		{"FAT32 with a root of FAT16", func(b []byte) { le.PutUint16(b[22:], 0); le.PutUint32(b[36:], 100) }, "fat/rootEntries"},
		{"a chain that ends in itself", func(b []byte) { le.PutUint16(b[f.fat+2*int64(first):], first) }, "fat/EFI"},
		{"a chain that leaves the disk", func(b []byte) { le.PutUint16(b[f.fat+2*int64(first):], 0xfff0) }, "fat/EFI"},
		{"a folder in cluster 1", func(b []byte) { le.PutUint16(b[efi+26:], 1) }, "fat/EFI"},
		{"a folder that is its own child", func(b []byte) {
			child := b[f.data+int64(first-2)*f.cluster:]
			copy(child[64:], b[efi:efi+32]) // after "." and ".."
		}, "fat/EFI/EFI"},
		{"a file longer than its chain", func(b []byte) { le.PutUint32(b[empty+28:], 5000); le.PutUint16(b[empty+26:], first) }, "fat/empty"},
		{"a path in a name", func(b []byte) { copy(b[empty:], "../../X    ") }, "fat/entry"},
		{"an escape in a name", func(b []byte) { b[empty] = 0x1b }, "fat/entry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			c.spoil(b)
			_, err := all(b)
			var r *evidence.Refusal
			if !errors.As(err, &r) || r.Code != evidence.CodeParse || r.Field != c.field {
				t.Errorf("%v, want a refusal of %s", err, c.field)
			}
		})
	}
	for _, n := range []int{0, 100, 511, 512, 4096, len(good) / 2} {
		if _, err := all(good[:n]); err == nil {
			t.Errorf("%d of %d bytes were read", n, len(good))
		}
	}
	files, err := f.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range files {
		if _, err := f.Read(x, 100); (err != nil) != (x.Size > 100) {
			t.Errorf("%s of %d bytes with a bound of 100: %v", x.Path, x.Size, err)
		}
	}
}

// padded reads zeros after its bytes, so that a small input is a large disk.
type padded []byte

const paddedSize = 40 << 20

func (p padded) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(p)) {
		copy(b, p[at:])
	}
	return len(b), nil
}

func FuzzFiles(f *testing.F) {
	for bits, size := range map[int]int{12: 2, 16: 16, 32: 40} {
		b := formatted(f, bits, size)
		f.Add(b[:128<<10])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := Open(padded(b), paddedSize)
		if err != nil {
			return
		}
		files, err := fs.Files()
		if err != nil {
			return
		}
		for _, x := range files {
			if !filepath.IsLocal(x.Path) {
				t.Fatalf("path %q", x.Path)
			}
			if got, err := fs.Read(x, 64<<10); err == nil && int64(len(got)) != x.Size {
				t.Fatalf("%d bytes of %d", len(got), x.Size)
			}
		}
	})
}
