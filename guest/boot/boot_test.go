package boot

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/event"
	"cloister.dev/cloister/guest/luks2"
	"cloister.dev/cloister/guest/tpm"
	"cloister.dev/cloister/guest/tpm/tpmtest"
)

func TestParameter(t *testing.T) {
	const root = "3f0a9c1f6c1c9a3f5f6a7d1e2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e"
	line := "console=ttyS0 quiet cloister.verity=1_4096_4096_256_1_sha256_" + root + "_aa"
	v, err := verityOf(line)
	if err != nil || v.DataBlocks != 256 || v.RootHash != root || v.Salt != "aa" {
		t.Fatalf("%+v, %v", v, err)
	}
	for name, bad := range map[string]string{
		"missing":                     "console=ttyS0",
		"twice":                       line + " cloister.verity=x",
		"HD-03 switched off by value": "cloister.verity=off",
		"empty":                       "cloister.verity=",
	} {
		if _, err := verityOf(bad); evidence.CodeOf(err) != evidence.CodeBoot {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sysfs(change func(fstest.MapFS)) fstest.MapFS {
	f := fstest.MapFS{}
	add := func(name, text string) { f[name] = &fstest.MapFile{Data: []byte(text)} }
	add("block/vda/size", "100000\n")
	for i, label := range []string{"esp", labelImage, labelVerity, labelRoot} {
		dir := "block/vda/vda" + string(rune('1'+i)) + "/"
		add(dir+"partition", string(rune('1'+i)))
		add(dir+"uevent", "MAJOR=254\nPARTNAME="+label+"\n")
		add(dir+"size", "2048\n")
	}
	add("block/vda/queue/rotational", "1")
	add("block/vdb/serial", "cloister-init")
	add("block/vdb/size", "8\n")
	add("block/vdc/serial", "data")
	add("block/vdc/size", "4096\n")
	if change != nil {
		change(f)
	}
	return f
}

func TestFindDisks(t *testing.T) {
	d, err := findDisks(sysfs(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := disks{initData: partition{"/dev/vdb", 8}, image: partition{"/dev/vda2", 2048}, verity: partition{"/dev/vda3", 2048}, root: partition{"/dev/vda4", 2048}}
	if d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
	for name, change := range map[string]func(fstest.MapFS){
		"HD-12 second disk with the same partitions": func(f fstest.MapFS) {
			for n, c := range sysfs(nil) {
				f[strings.ReplaceAll(n, "vda", "vdd")] = c
			}
		},
		"HD-12 the same name twice on a disk": func(f fstest.MapFS) { f["block/vda/vda1/uevent"] = f["block/vda/vda4/uevent"] },
		"two init data disks":                 func(f fstest.MapFS) { f["block/vdc/serial"] = f["block/vdb/serial"] },
		"no init data disk":                   func(f fstest.MapFS) { delete(f, "block/vdb/serial") },
		"no hash tree":                        func(f fstest.MapFS) { delete(f, "block/vda/vda3/partition") },
		"partitions on the init data disk":    func(f fstest.MapFS) { f["block/vda/serial"] = f["block/vdb/serial"] },
	} {
		if _, err := findDisks(sysfs(change)); evidence.CodeOf(err) != evidence.CodeBoot {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := findDisks(sysfs(func(f fstest.MapFS) { f["block/vda/vda4/size"] = &fstest.MapFile{Data: []byte("-1")} })); err == nil {
		t.Error("a negative size was read")
	}
}

// image makes an ext4 file system with a file of random bytes and a file of zeros.
func image(t *testing.T) (path string, size uint64) {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Fatal("mke2fs is missing: install the package e2fsprogs")
	}
	dir := t.TempDir()
	content := make([]byte, 3<<20)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	for n, b := range map[string][]byte{"random": content, "zeros": make([]byte, 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path, size = filepath.Join(t.TempDir(), "img"), 160<<20 // two block groups
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-b", "4096", "-d", dir, path, "160M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path, size
}

// noise is a device on which what was not written reads as noise, as under dm-crypt.
func noise(t *testing.T, size uint64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "dst"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(bytes.Repeat([]byte{0xa5}, int(size))); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCopyImage(t *testing.T) {
	path, size := image(t)
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst := noise(t, size)
	last := -1
	if err := copyImage(dst, src, size, dst.Sync, func(p int) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last != 100 {
		t.Errorf("progress ended at %d", last)
	}
	if out, err := exec.Command("e2fsck", "-fn", dst.Name()).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	// Everything in use is equal: debugfs reads both.
	for _, name := range []string{"random", "zeros"} {
		var got [2][]byte
		for i, p := range []string{path, dst.Name()} {
			if got[i], err = exec.Command("debugfs", "-R", "cat "+name, p).Output(); err != nil {
				t.Fatal(err)
			}
		}
		if len(got[0]) == 0 || !bytes.Equal(got[0], got[1]) {
			t.Errorf("%s differs: %d and %d bytes", name, len(got[0]), len(got[1]))
		}
	}
	free := make([]byte, blockSize)
	if _, err := dst.ReadAt(free, int64(size-8*blockSize)); err != nil {
		t.Fatal(err)
	}
	if free[0] != 0xa5 {
		t.Error("free blocks were copied")
	}
}

// failing reads well up to an offset, as dm-verity does at the first changed block.
type failing struct {
	io.ReaderAt
	from int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.from {
		return 0, errors.New("input/output error")
	}
	return f.ReaderAt.ReadAt(b, off)
}

func TestChangedImageLeavesNoSuperblock(t *testing.T) {
	path, size := image(t)
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst := noise(t, size)
	err = copyImage(dst, failing{src, 4 << 20}, size, dst.Sync, func(int) {})
	if err == nil {
		t.Fatal("copied")
	}
	super := make([]byte, superSize)
	if _, err := dst.ReadAt(super, superOffset); err != nil || isExt4(super) {
		t.Errorf("an incomplete copy looks complete (%v)", err)
	}
}

func TestReadAllocationRefuses(t *testing.T) {
	path, size := image(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAllocation(bytes.NewReader(good), size); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(s []byte){
		"not ext4":              func(s []byte) { s[0x38] = 0 },
		"small blocks":          func(s []byte) { s[0x18] = 0 },
		"larger than the image": func(s []byte) { s[7] = 1 },
		"no groups":             func(s []byte) { clear(s[0x20:0x24]) },
		"bigalloc":              func(s []byte) { s[0x65] |= 2 },
	} {
		head := append([]byte(nil), good[:8<<20]...)
		change(head[superOffset:])
		if _, err := readAllocation(bytes.NewReader(head), size); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// machine is a VM without a kernel: a real TPM, a file for the disk, and no encryption behind the header.
type machine struct {
	t      *testing.T
	tpm    *tpmtest.TPM
	keys   tpmtest.Keys
	disk   *os.File
	key    []byte // what was mapped last
	copies int
	fail   error
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	s := tpmtest.Start(t)
	m := &machine{t: t, tpm: s, keys: s.Provision()}
	m.tpm.Boot(goodBoot)
	m.disk = emptyDisk(t)
	return m
}

func emptyDisk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(luks2.DataOffset + 1<<20); err != nil {
		t.Fatal(err)
	}
	return f
}

var goodBoot = map[int]string{4: "uki", 7: "secure boot", 11: "sections"}

func (m *machine) reboot(events map[int]string) {
	m.tpm.Reboot()
	m.tpm.Boot(events)
}

func (m *machine) volumes() (volumes, *tpm.Device) {
	m.t.Helper()
	d, err := tpm.Bind(m.tpm, m.keys.EK, m.keys.AK)
	if err != nil {
		m.t.Fatal(err)
	}
	m.key = nil
	return volumes{tpm: d, random: rand.Reader, device: m.disk,
		mapped: func(key []byte) (string, error) { m.key = append([]byte(nil), key...); return "node", nil },
		copy:   func(string) error { m.copies++; return m.fail },
		report: func(string, string, map[string]string) {},
	}, d
}

func (m *machine) boot() error {
	v, _ := m.volumes()
	_, err := v.encrypted()
	return err
}

func TestEncryptedVolume(t *testing.T) {
	m := newMachine(t)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	key := m.key
	m.reboot(goodBoot)
	if err := m.boot(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.key, key) || m.copies != 1 {
		t.Errorf("second boot: same key %v, %d copies", bytes.Equal(m.key, key), m.copies)
	}
	_, d := m.volumes()
	v, err := d.ReadPCRs(tpm.PCRVolume)
	if err != nil || v[tpm.PCRVolume] == [32]byte{} {
		t.Errorf("PCR 15 does not say what was opened: %v", err)
	}

	good := m.disk
	other := newMachine(t) // another VM with a volume of its own
	if err := other.boot(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name   string
		disk   *os.File
		events map[int]string
	}{
		{"HD-12 mark present and header missing", emptyDisk(t), goodBoot},
		{"HD-12 mark present and foreign header", other.disk, goodBoot},
		{"HD-14 another image", good, map[int]string{4: "uki", 7: "secure boot", 11: "attacker"}},
		{"HD-03 parameters added by the host", good, map[int]string{4: "uki", 7: "secure boot", 11: "sections", 12: "extra"}},
		{"HD-13 Secure Boot state changed", good, map[int]string{4: "uki", 7: "off", 11: "sections"}},
	} {
		t.Run(r.name, func(t *testing.T) {
			m.reboot(r.events)
			m.disk = r.disk
			copies := m.copies
			if err := m.boot(); err == nil {
				t.Error("booted")
			}
			if m.key != nil || m.copies != copies {
				t.Error("something was mapped or copied")
			}
			m.disk = good
		})
	}
	t.Run("HD-11 nothing unseals after leave-initrd", func(t *testing.T) {
		m.reboot(goodBoot)
		if err := m.boot(); err != nil {
			t.Fatal(err)
		}
		_, d := m.volumes()
		if err := d.Measure(tpm.PCRUKI, []byte(tpm.LeaveInitrd)); err != nil {
			t.Fatal(err)
		}
		if err := m.boot(); err == nil {
			t.Error("unlocked again")
		}
	})
	t.Run("the volume of an earlier provisioning of the same vTPM", func(t *testing.T) {
		// A first boot that died before its mark leaves a volume whose secret this TPM unseals: only the digest tells.
		n := newMachine(t)
		n.fail = errors.New("power cut")
		if err := n.boot(); err == nil {
			t.Fatal("copy failed and the boot went on")
		}
		early := n.disk
		n.fail, n.disk = nil, emptyDisk(t)
		n.reboot(goodBoot)
		if err := n.boot(); err != nil {
			t.Fatalf("first boot after a crash: %v", err)
		}
		late := n.disk
		n.disk = early
		n.reboot(goodBoot)
		var ref *evidence.Refusal
		if err := n.boot(); !errors.As(err, &ref) || ref.Field != "volume digest" {
			t.Errorf("got %v, want a refusal of the volume digest", err)
		}
		n.disk = late
		n.reboot(goodBoot)
		if err := n.boot(); err != nil {
			t.Errorf("positive twin: %v", err)
		}
	})
}

func TestPlainVolume(t *testing.T) {
	m := newMachine(t)
	v, _ := m.volumes()
	if node, err := v.plain("/dev/x"); err != nil || node != "/dev/x" || m.copies != 1 {
		t.Fatalf("first boot: %q, %v, %d copies", node, err, m.copies)
	}
	if _, err := m.disk.WriteAt([]byte{0x53, 0xef}, superOffset+0x38); err != nil {
		t.Fatal(err)
	}
	if _, err := v.plain("/dev/x"); err != nil || m.copies != 1 {
		t.Errorf("later boot: %v, %d copies", err, m.copies)
	}
}

func TestFailureIsOneLine(t *testing.T) {
	for want, err := range map[string]error{
		"cloister: fail/boot: luks2 magic: got 00, want 4c":             evidence.Refuse(evidence.CodeBoot, "luks2 magic", "00", "4c"),
		"cloister: fail/boot: refuse/binding: init data: got a, want b": evidence.Refuse(evidence.CodeBinding, "init data", "a", "b"),
		"cloister: fail/boot: two lines":                                errors.New("two\nlines"),
		"cloister: fail/boot: nothing left to do":                       nil,
	} {
		var out bytes.Buffer
		b := &boot{console: &out, step: "unlock"}
		b.explain(err)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], event.Prefix) || !strings.Contains(lines[0], `"failed"`) || lines[1] != want {
			t.Errorf("%q, want an event and %q", lines, want)
		}
	}
}

func TestUUID(t *testing.T) {
	if got, want := uuid(make([]byte, 16)), "00000000-0000-4000-8000-000000000000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
