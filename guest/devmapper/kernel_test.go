//go:build boot

package devmapper

import (
	"bytes"
	"crypto/aes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"
)

// The test binary is its own init: the same mappings as in a guest, on a real kernel under QEMU.
//
// CLOISTER_TEST_KERNEL names a folder with an unpacked kernel package: boot/vmlinuz-*, lib/modules/VERSION with modules.dep.

const (
	testBlocks  = 64
	cryptOffset = 2048 // sectors
	cryptBlocks = 16
)

var testKey = bytes.Repeat([]byte("0123456789abcdef"), 4)

func TestMain(m *testing.M) {
	if os.Getpid() != 1 {
		os.Exit(m.Run())
	}
	err := inVM()
	fmt.Printf("\nRESULT %v\n", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func inVM() error {
	for _, fs := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(fs[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fs[0], fs[1], fs[0], 0, ""); err != nil {
			return err
		}
	}
	order, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/lib/modules/" + name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) { // polls for the device node
		if _, err := os.Stat("/dev/vdd"); err == nil || time.Now().After(deadline) {
			break
		}
	}
	table, err := os.ReadFile("/table")
	if err != nil {
		return err
	}
	v, err := ParseVerity(string(table))
	if err != nil {
		return err
	}
	node, err := OpenVerity("good", v, "/dev/vda", "/dev/vdb")
	if err != nil {
		return err
	}
	got, err := os.ReadFile(node)
	if err != nil || !bytes.Equal(got, imageData()) {
		return fmt.Errorf("good image: %d bytes, %v", len(got), err)
	}
	if err := Remove("good"); err != nil {
		return err
	}
	if node, err = OpenVerity("bad", v, "/dev/vdc", "/dev/vdb"); err == nil { // one byte of vdc differs
		if _, err := os.ReadFile(node); err == nil {
			return fmt.Errorf("a changed image was read")
		}
	}
	c := Crypt{Name: "c", Device: "/dev/vdd", Cipher: "aes-xts-plain64", Key: testKey, Offset: cryptOffset, Sectors: cryptBlocks * 8, SectorSize: 4096}
	if node, err = OpenCrypt(c); err != nil {
		return err
	}
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(imageData()[:cryptBlocks*BlockSize], 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := Remove("c"); err != nil {
		return err
	}
	c.Key = bytes.Repeat([]byte("another key 16 b"), 4)
	if node, err = OpenCrypt(c); err != nil {
		return err
	}
	other, err := os.ReadFile(node)
	if err == nil && bytes.Equal(other, imageData()[:cryptBlocks*BlockSize]) {
		return fmt.Errorf("another key reads the same")
	}
	return err
}

func imageData() []byte {
	b := make([]byte, testBlocks*BlockSize)
	for i := range b {
		b[i] = byte(i*7 + i>>12)
	}
	return b
}

func TestOnAKernel(t *testing.T) {
	kernel := os.Getenv("CLOISTER_TEST_KERNEL")
	if kernel == "" {
		t.Skip("CLOISTER_TEST_KERNEL is not set: no unpacked kernel package to boot")
	}
	for _, p := range []string{"qemu-system-x86_64", "veritysetup"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is missing: install the packages qemu-system-x86 and cryptsetup-bin", p)
		}
	}
	dir := t.TempDir()
	path := func(n string) string { return filepath.Join(dir, n) }
	write := func(n string, b []byte) {
		if err := os.WriteFile(path(n), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bad := imageData()
	bad[40*BlockSize+5] ^= 1
	write("good", imageData())
	write("bad", bad)
	write("hash", nil)
	write("crypt", make([]byte, (cryptOffset/8+cryptBlocks)*BlockSize))
	out, err := exec.Command("veritysetup", "format", path("good"), path("hash")).CombinedOutput()
	if err != nil {
		t.Fatalf("veritysetup: %v\n%s", err, out)
	}
	field := func(name string) string {
		m := regexp.MustCompile(name + `:\s+(\S+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("no %s in\n%s", name, out)
		}
		return string(m[1])
	}
	write("table", []byte(fmt.Sprintf("1 4096 4096 %d 1 sha256 %s %s", testBlocks, field("Root hash"), field("Salt"))))
	write("initrd", initrd(t, kernel, path("table")))
	images, err := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		t.Fatalf("kernels %v, %v", images, err)
	}
	args := []string{"-nodefaults", "-machine", "q35", "-accel", "tcg", "-cpu", "EPYC", "-m", "256", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", images[0], "-initrd", path("initrd"), "-append", "console=ttyS0 quiet panic=-1"}
	for i, n := range []string{"good", "hash", "bad", "crypt"} {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s", i, path(n)), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	console, err := exec.Command("timeout", append([]string{"60", "qemu-system-x86_64"}, args...)...).CombinedOutput()
	if err != nil || !bytes.Contains(console, []byte("RESULT <nil>")) {
		t.Fatalf("qemu: %v\n%s", err, console)
	}
	// What the kernel wrote is LUKS2's encryption: sectors of 4096 bytes whose number counts 512-byte sectors.
	raw, err := os.ReadFile(path("crypt"))
	if err != nil {
		t.Fatal(err)
	}
	raw = raw[cryptOffset*512:]
	x, err := xts.NewCipher(aes.NewCipher, testKey)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cryptBlocks {
		plain := make([]byte, BlockSize)
		x.Decrypt(plain, raw[i*BlockSize:(i+1)*BlockSize], uint64(i)*8)
		if !bytes.Equal(plain, imageData()[i*BlockSize:(i+1)*BlockSize]) {
			t.Fatalf("block %d is not what LUKS2 would have there", i)
		}
	}
}

// initrd holds this test binary as init, the modules and the table.
func initrd(t *testing.T, kernel, table string) []byte {
	t.Helper()
	deps, err := filepath.Glob(filepath.Join(kernel, "lib/modules/*/modules.dep"))
	if err != nil || len(deps) != 1 {
		t.Fatalf("modules.dep: %v, %v", deps, err)
	}
	text, err := os.ReadFile(deps[0])
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	seen := map[string]bool{}
	for _, want := range []string{"virtio_pci", "virtio_blk", "dm-crypt", "xts", "aesni-intel", "dm-verity"} {
		for _, line := range strings.Split(string(text), "\n") {
			name, needs, _ := strings.Cut(line, ":")
			if filepath.Base(name) != want+".ko" {
				continue
			}
			f := strings.Fields(needs)
			for i := len(f) - 1; i >= -1; i-- {
				m := name
				if i >= 0 {
					m = f[i]
				}
				if !seen[m] {
					seen[m] = true
					order = append(order, m)
				}
			}
		}
	}
	var out bytes.Buffer
	put := func(name string, mode uint32, data []byte, dev [2]uint32) {
		var zero, n uint32 = 0, uint32(len(data))
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", zero, mode, zero, zero, 1, zero, n, zero, zero, dev[0], dev[1], len(name)+1, zero, name)
		for out.Len()%4 != 0 {
			out.WriteByte(0)
		}
		out.Write(data)
		for out.Len()%4 != 0 {
			out.WriteByte(0)
		}
	}
	read := func(p string) []byte {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	put("dev", 0o040755, nil, [2]uint32{})
	put("dev/console", 0o020600, nil, [2]uint32{5, 1})
	put("lib", 0o040755, nil, [2]uint32{})
	put("lib/modules", 0o040755, nil, [2]uint32{})
	put("init", 0o100755, read(self), [2]uint32{})
	put("table", 0o100644, read(table), [2]uint32{})
	var names []string
	for _, m := range order {
		names = append(names, filepath.Base(m))
		put("lib/modules/"+filepath.Base(m), 0o100644, read(filepath.Join(filepath.Dir(deps[0]), m)), [2]uint32{})
	}
	put("lib/modules/order", 0o100644, []byte(strings.Join(names, "\n")), [2]uint32{})
	put("TRAILER!!!", 0, nil, [2]uint32{})
	return out.Bytes()
}
