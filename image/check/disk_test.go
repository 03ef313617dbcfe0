package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/sbin"
)

func run(t testing.TB, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(sbin.Path(name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "MTOOLSRC=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// rootSystem has mke2fs make a file system of files.
func rootSystem(t testing.TB, files map[string]string) []byte {
	t.Helper()
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "root")
	for name, s := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, img, "16M")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// system is a FAT file system with a boot loader in it.
func system(t testing.TB) []byte {
	t.Helper()
	img, file := filepath.Join(t.TempDir(), "esp"), filepath.Join(t.TempDir(), "grub")
	run(t, "", "mkfs.vfat", "-C", img, "4096")
	if err := os.WriteFile(file, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mmd", "-i", img, "::/EFI", "::/EFI/debian")
	run(t, "", "mcopy", "-i", img, file, "::/EFI/debian/grubx64.efi")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const espScript = "label: gpt\nstart=2048, size=8192, type=U\nstart=10240, size=32768, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n"

// tables are empty disks by sfdisk's scripts, which takes its time.
var tables = map[string][]byte{}

// disk puts partitions' contents behind a table that sfdisk writes.
func disk(t testing.TB, script string, parts map[int64][]byte) []byte {
	t.Helper()
	if tables[script] == nil {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 24<<20); err != nil {
			t.Fatal(err)
		}
		run(t, script, "sfdisk", "-q", path)
		var err error
		if tables[script], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	b := bytes.Clone(tables[script])
	for sector, content := range parts {
		copy(b[sector*512:], content)
	}
	return b
}

func checkBytes(b []byte) (*Report, error) {
	return Run(context.Background(), bytes.NewReader(b), int64(len(b)), func(string) {})
}

func verdictOf(r *Report, id string) Finding {
	for _, f := range r.Findings {
		if f.ID == id {
			return f
		}
	}
	return Finding{}
}

// TestWholeDisks checks images as files, in each container.
func TestWholeDisks(t *testing.T) {
	good := disk(t, espScript, map[int64][]byte{2048: system(t), 10240: rootSystem(t, sound())})
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"raw": nil, "qcow2": {"-c", "-O", "qcow2"}, "VHD": {"-O", "vpc", "-o", "force_size=on"}, "fixed VHD": {"-O", "vpc", "-o", "subformat=fixed,force_size=on"},
	} {
		t.Run(name, func(t *testing.T) {
			b := good
			if args != nil {
				out := filepath.Join(t.TempDir(), "out")
				run(t, "", "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), raw, out)...)
				var err error
				if b, err = os.ReadFile(out); err != nil {
					t.Fatal(err)
				}
			}
			r, err := checkBytes(b)
			if err != nil {
				t.Fatal(err)
			}
			if r.Kernel != version || r.Err(TEEs...) != nil {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestBootPartition(t *testing.T) {
	files, kernels := sound(), map[string]string{}
	for name, s := range files {
		if rest, ok := strings.CutPrefix(name, "boot/"); ok {
			kernels[rest] = s
			delete(files, name)
		}
	}
	files["boot/.keep"] = ""
	b := disk(t, "label: gpt\nstart=2048, size=8192, type=L\nstart=10240, size=32768, type=L\n", map[int64][]byte{10240: rootSystem(t, files)})
	small := filepath.Join(t.TempDir(), "boot")
	dir := t.TempDir()
	for name, s := range kernels {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "", "mke2fs", "-q", "-t", "ext4", "-d", dir, small, "4M")
	content, err := os.ReadFile(small)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[2048*512:], content)
	r, err := checkBytes(b)
	if err != nil || r.Kernel != version || r.Err() != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDisksThatDoNotFit(t *testing.T) {
	root, esp := rootSystem(t, sound()), system(t)
	for _, c := range []struct {
		name   string
		b      func() []byte
		id     string
		reason string
	}{
		{"MBR alone", func() []byte { return disk(t, "label: dos\nstart=2048, type=83\n", map[int64][]byte{2048: root}) }, "IMG-GPT", "MBR"},
		{"no partitions", func() []byte { return make([]byte, 1<<20) }, "IMG-GPT", "no partition table"},
		{"a file system and no table", func() []byte { return root }, "IMG-GPT", "no partition table"},
		{"no root", func() []byte { return disk(t, espScript, map[int64][]byte{2048: esp}) }, "IMG-ROOT", "partition 2: nothing known"},
		{"XFS", func() []byte { return disk(t, espScript, map[int64][]byte{2048: esp, 10240: []byte("XFSB")}) }, "IMG-ROOT", "partition 2: XFS"},
		{"LUKS", func() []byte { return disk(t, espScript, map[int64][]byte{2048: esp, 10240: []byte("LUKS\xba\xbe")}) }, "IMG-ROOT", "partition 2: LUKS"},
		{"two roots", func() []byte {
			return disk(t, "label: gpt\nstart=2048, size=8192, type=L\nstart=10240, size=32768, type=L\n", map[int64][]byte{2048: shrunk(t), 10240: root})
		}, "IMG-ROOT", "partitions 1 and 2"},
		{"a journal to be played back", func() []byte {
			b := bytes.Clone(root)
			b[1024+0x60] |= 4
			mendSuper(b)
			return disk(t, espScript, map[int64][]byte{2048: esp, 10240: b})
		}, "IMG-ROOT", "needs_recovery"},
		{"HD-10 a swap partition", func() []byte {
			swap := make([]byte, 4096)
			copy(swap[4086:], "SWAPSPACE2")
			return disk(t, "label: gpt\nstart=2048, size=8192, type=S, name=swap\nstart=10240, size=32768, type=L\n", map[int64][]byte{2048: swap, 10240: root})
		}, "IMG-SWAP", "partition swap"},
		{"a qcow2 with a backing file", func() []byte {
			dir := t.TempDir()
			run(t, "", "qemu-img", "create", "-q", "-f", "raw", dir+"/base", "1M")
			run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", dir+"/base", dir+"/top")
			b, err := os.ReadFile(dir + "/top")
			if err != nil {
				t.Fatal(err)
			}
			return b
		}, "IMG-FORMAT", "qcow2/backingFile"},
		{"VHDX", func() []byte { return append([]byte("vhdxfile"), make([]byte, 4096)...) }, "IMG-FORMAT", "VHDX"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := checkBytes(c.b())
			if err != nil {
				t.Fatal(err)
			}
			f := verdictOf(r, c.id)
			if f.Verdict != Fail || !strings.Contains(f.Reason, c.reason) || f.Remedy == "" {
				t.Errorf("%+v", f)
			}
			if err := r.Err(); evidence.CodeOf(err) != evidence.CodeConfig {
				t.Errorf("%v", err)
			}
		})
	}
}

// shrunk is a small root.
func shrunk(t *testing.T) []byte {
	dir, img := t.TempDir(), filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mke2fs", "-q", "-t", "ext4", "-d", dir, img, "4M")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mendSuper writes the superblock's checksum anew.
func mendSuper(b []byte) {
	s := b[1024:2048]
	sum := ^uint32(0)
	for _, c := range s[:0x3fc] {
		sum ^= uint32(c)
		for range 8 {
			sum = sum>>1 ^ 0x82f63b78*(sum&1)
		}
	}
	binary.LittleEndian.PutUint32(s[0x3fc:], sum)
}

// TestDamagedDisksAreNoVerdict: what cannot be read neither fits nor does not fit.
func TestDamagedDisksAreNoVerdict(t *testing.T) {
	good := disk(t, espScript, map[int64][]byte{2048: system(t), 10240: rootSystem(t, sound())})
	if _, err := checkBytes(good); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	at := func(n int) func([]byte) []byte { return func(b []byte) []byte { b[n] ^= 0xff; return b } }
	for name, spoil := range map[string]func([]byte) []byte{
		"cut":                      func(b []byte) []byte { return b[:len(b)/2] },
		"table's checksum":         at(512 + 60),
		"backup table's checksum":  at(24<<20 - 512 + 60),
		"FAT's signature":          at(2048*512 + 510),
		"superblock":               at(10240*512 + 1024 + 0x78),
		"group descriptors":        at(10240*512 + 4096 + 0xc),
		"the root folder's inode":  func(b []byte) []byte { return spoilInode(b, 10240*512, 2) },
		"overlapping partitions":   overlap,
		"a qcow2 that is cut":      func([]byte) []byte { return append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 504)...) },
		"a VHD with a bad footer":  func(b []byte) []byte { return append(b, append([]byte("conectix"), make([]byte, 504)...)...) },
		"nothing":                  func([]byte) []byte { return nil },
		"an odd number of bytes":   func(b []byte) []byte { return b[:len(b)-1] },
		"no backup of the table":   func(b []byte) []byte { clear(b[24<<20-512:]); return b },
		"a table that is moved up": func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
	} {
		t.Run(name, func(t *testing.T) {
			r, err := checkBytes(spoil(bytes.Clone(good)))
			if evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("%v, %+v", err, r)
			}
		})
	}
}

func spoilInode(b []byte, start int64, number int64) []byte {
	table := int64(binary.LittleEndian.Uint32(b[start+4096+8:])) * 4096
	size := int64(binary.LittleEndian.Uint16(b[start+1024+0x58:]))
	b[start+table+(number-1)*size+4] ^= 0xff
	return b
}

// overlap lets the second partition begin in the first, with checksums that are right.
func overlap(b []byte) []byte {
	le := binary.LittleEndian
	size := len(b)
	entries := b[1024 : 1024+128*128]
	le.PutUint64(entries[128+32:], 8192)
	copy(b[size-512-128*128:], entries)
	crc := func(p []byte) uint32 {
		sum := ^uint32(0)
		for _, c := range p {
			sum ^= uint32(c)
			for range 8 {
				sum = sum>>1 ^ 0xedb88320*(sum&1)
			}
		}
		return ^sum
	}
	for _, at := range []int{512, size - 512} {
		h := b[at : at+512]
		le.PutUint32(h[88:], crc(entries))
		clear(h[16:20])
		le.PutUint32(h[16:], crc(h[:92]))
	}
	return b
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := disk(t, espScript, map[int64][]byte{2048: system(t), 10240: rootSystem(t, sound())})
	if _, err := Run(ctx, bytes.NewReader(b), int64(len(b)), func(string) {}); err == nil {
		t.Error("it went on")
	}
}
