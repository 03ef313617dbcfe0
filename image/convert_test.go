package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/image/check"
	"cloister.dev/cloister/image/partition"
	"cloister.dev/cloister/image/rootfs"
	"cloister.dev/cloister/image/uki"
	"cloister.dev/cloister/internal/sbin"
)

const cloudKernel = "6.1.0-1-cloud-amd64"

// cloudTree is the root of a cloud image: a distribution with its own kernel, small enough for a unit test.
func cloudTree() rootfs.Tree {
	vmlinuz := make([]byte, 4096)
	copy(vmlinuz, "MZ")
	copy(vmlinuz[0x202:], "HdrS")
	t := rootfs.Tree{}
	const program = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "etc/shadow": "root:*:19000:0:99999:7:::\n", "etc/machine-id": "",
		"etc/os-release":                          "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n",
		"etc/fstab":                               "PARTUUID=1 / ext4 rw 0 1\nUUID=2 /boot/efi vfat umask=0077 0 1\n",
		"usr/lib/systemd/systemd":                 program,
		"usr/sbin/sshd":                           program,
		"sbin/init":                               program,
		"boot/vmlinuz-" + cloudKernel:             string(vmlinuz),
		"boot/config-" + cloudKernel:              "CONFIG_EFIVAR_FS=m\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_BLK=m\nCONFIG_VIRTIO_NET=m\nCONFIG_DM_CRYPT=m\nCONFIG_DM_VERITY=m\nCONFIG_CRYPTO_XTS=m\nCONFIG_CRYPTO_AES_NI_INTEL=m\nCONFIG_TCG_CRB=y\n",
		"var/lib/dpkg/status":                     "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
		cloudModules + "modules.builtin":          "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/tpm/tpm_crb.ko\nkernel/virtio_rng.ko\n",
		cloudModules + "modules.dep":              "kernel/virtio_blk.ko: kernel/virtio.ko\nkernel/virtio.ko:\nkernel/virtio_pci.ko: kernel/virtio.ko\nkernel/dm-crypt.ko:\nkernel/dm-verity.ko.gz:\nkernel/xts.ko.zst:\nkernel/aesni-intel.ko.xz:\nkernel/efivarfs.ko:\nkernel/virtio_net.ko:\n",
		"var/lib/deleted-later":                   strings.Repeat("what was deleted ", 10000),
		cloudModules + "kernel/dm-verity.ko.gz":   string(gzipped("module dm-verity")),
		cloudModules + "kernel/xts.ko.zst":        string(zstandard("module xts")),
		cloudModules + "kernel/aesni-intel.ko.xz": string(xz("module aesni-intel")),
	} {
		t.File(name, 0o644, text)
	}
	for _, m := range []string{"virtio", "virtio_blk", "virtio_pci", "virtio_net", "dm-crypt", "efivarfs"} {
		t.File(cloudModules+"kernel/"+m+".ko", 0o644, "module "+m)
	}
	return t
}

const cloudModules = "usr/lib/modules/" + cloudKernel + "/"

func gzipped(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(s))
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func zstandard(s string) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll([]byte(s), nil)
}

func xz(s string) []byte {
	cmd := exec.Command("xz", "--stdout")
	cmd.Stdin = strings.NewReader(s)
	out, err := cmd.Output()
	if err != nil {
		panic("xz (package xz-utils): " + err.Error())
	}
	return out
}

// cloudImage writes a tree as a raw disk with a GPT, without a boot loader.
func cloudImage(t testing.TB, tree rootfs.Tree) string {
	t.Helper()
	dir := t.TempDir()
	root, img := filepath.Join(dir, "root"), filepath.Join(dir, "cloud.img")
	fsys := rootfs.FileSystem{UUID: "c1015e12-0000-4000-8000-0000000000aa", HashSeed: rootHashSeed, Label: "cloud", Time: Epoch, SlackMiB: 8}
	if err := rootfs.WriteExt4(context.Background(), root, tree, fsys); err != nil {
		t.Fatal(err)
	}
	// A file that is deleted again leaves its blocks behind.
	if out, err := exec.Command(sbin.Path("debugfs"), "-w", "-R", "rm /var/lib/deleted-later", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("what was deleted")) {
		t.Fatal("the deleted file left nothing behind")
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, int64(len(b))+4<<20); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sbin.Path("sfdisk"), "-q", img)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk (package fdisk): %v\n%s", err, out)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 2048*512); err != nil {
		t.Fatal(err)
	}
	return img
}

func convertOptions(t *testing.T, in string) ConvertOptions {
	t.Helper()
	dir := t.TempDir()
	return ConvertOptions{In: in, Out: filepath.Join(dir, "web"), GuestBinary: compile(t, "./testdata/tinyinit"), SecureBootKeys: filepath.Join(dir, "keys")}
}

func TestConvert(t *testing.T) {
	in := cloudImage(t, cloudTree())
	o := convertOptions(t, in)
	m, err := Convert(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Check(o.Out); err != nil {
		t.Fatal(err)
	}
	if loaded.Digest != m.Digest || m.Name != "web" || m.Kernel != cloudKernel || m.Distribution != "Debian GNU/Linux 12 (bookworm)" {
		t.Errorf("%+v", m)
	}
	if want := []Package{{"bash", "5.2"}}; !slices.Equal(m.Packages, want) {
		t.Errorf("packages %v, want %v", m.Packages, want)
	}
	for tee, want := range map[string]evidence.Code{"software": "", "sevsnp": evidence.CodeUnsupported, "tdx": evidence.CodeUnsupported} {
		if err := m.Supports(tee); evidence.CodeOf(err) != want {
			t.Errorf("%s: %v", tee, err)
		}
	}
	pe, err := os.ReadFile(m.Path(KindUKI))
	if err != nil {
		t.Fatal(err)
	}
	sections, err := uki.Sections(pe)
	if err != nil {
		t.Fatal(err)
	}
	line, _ := uki.Find(sections, ".cmdline")
	for _, word := range []string{"fstab=no", "systemd.gpt_auto=no", "systemd.mask=systemd-pcrphase.service", noCredentials} {
		if !slices.Contains(strings.Fields(string(line)), word) {
			t.Errorf("the command line %q has no %s", line, word)
		}
	}
	archive, _ := uki.Find(sections, ".initrd")
	for _, module := range []string{"module virtio", "module dm-verity", "module xts", "module aesni-intel", "virtio.ko\nvirtio_pci.ko\nvirtio_blk.ko", "dm_verity.ko"} {
		if !bytes.Contains(archive, []byte(module)) {
			t.Errorf("the initrd has no %q", module)
		}
	}
	if _, _, err := launch.PCR4(pe); err != nil {
		t.Error(err)
	}
	if _, _, err := launch.PCR11(pe, 252); err != nil {
		t.Error(err)
	}

	// The root is the cloud image's own, without what was deleted.
	disk, err := os.ReadFile(m.Path(KindDisk))
	if err != nil {
		t.Fatal(err)
	}
	table, err := partition.Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	root := disk[table.Partitions[1].First*512:][:table.Partitions[1].Size()]
	if bytes.Contains(root, []byte("what was deleted")) {
		t.Error("HD-18 blocks of a deleted file came along")
	}
	img := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(img, root, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(sbin.Path("e2fsck"), "-fn", img).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if out, err := exec.Command(sbin.Path("debugfs"), "-R", "cat /etc/fstab", img).Output(); err != nil || !strings.Contains(string(out), "/boot/efi") {
		t.Errorf("/etc/fstab changed: %q, %v", out, err)
	}

	// What was made passes the check that it came through.
	f, err := os.Open(m.Path(KindDisk))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	report, err := check.Run(context.Background(), f, m.Disk.Size, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(check.Software); err != nil {
		t.Error(err)
	}
	if report.Fit(check.SEVSNP) != check.Fail || report.Fit(check.TDX) != check.Fail {
		t.Errorf("%+v", report.Fits)
	}

	// The same image in another container, at another place, gives the same bytes but for the name of what it came from.
	second := o
	second.Out = filepath.Join(t.TempDir(), "elsewhere", "web")
	again, err := Convert(context.Background(), second)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != m.Digest {
		t.Errorf("digest %s, and then %s", m.Digest, again.Digest)
	}
	for _, name := range []string{m.Disk.Name, m.UKI.Name, m.Vars.Name, ManifestFile} {
		a, errA := os.ReadFile(filepath.Join(o.Out, name))
		b, errB := os.ReadFile(filepath.Join(second.Out, name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs between two conversions (%v, %v)", name, errA, errB)
		}
	}
	packed := o
	packed.In = filepath.Join(t.TempDir(), "cloud.qcow2")
	packed.Out = filepath.Join(t.TempDir(), "web")
	if out, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", in, packed.In).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (package qemu-utils): %v\n%s", err, out)
	}
	other, err := Convert(context.Background(), packed)
	if err != nil {
		t.Fatal(err)
	}
	if other.Disk != m.Disk || other.UKI != m.UKI {
		t.Errorf("from qcow2: %+v, %+v", other.Disk, other.UKI)
	}
	left, err := os.ReadDir(filepath.Dir(second.Out))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestConvertRefuses(t *testing.T) {
	base, shared := cloudTree(), convertOptions(t, "")
	for _, c := range []struct {
		name   string
		change func(rootfs.Tree)
		ids    []string // of an unfit image; none for an error of another kind
		want   evidence.Code
	}{
		{"HD-18 an image with keys and a password", func(t rootfs.Tree) {
			t.File("etc/ssh/ssh_host_rsa_key", 0o600, "x")
			t.File("etc/shadow", 0o600, "root:$6$x:1::::::\n")
		}, []string{"IMG-HOST-KEYS", "IMG-PASSWORDS"}, evidence.CodeConfig},
		{"HD-10 an image that swaps to a partition", func(t rootfs.Tree) { t.File("etc/fstab", 0o644, "/dev/sda5 none swap sw 0 0\n") }, []string{"IMG-SWAP"}, evidence.CodeConfig},
		{"no kernel", func(t rootfs.Tree) { t.Remove("boot/vmlinuz-" + cloudKernel) }, []string{"IMG-KERNEL"}, evidence.CodeConfig},
		{"a module without its file", func(t rootfs.Tree) { t.Remove(cloudModules + "kernel/dm-crypt.ko") }, []string{"IMG-KERNEL-DM"}, evidence.CodeConfig},
		{"a damaged module", func(t rootfs.Tree) { t.File(cloudModules+"kernel/xts.ko.zst", 0o644, "x") }, nil, evidence.CodeParse},
		{"SVC-12 a module elsewhere", func(t rootfs.Tree) {
			t.File(cloudModules+"modules.dep", 0o644, strings.Replace(string(t[cloudModules+"modules.dep"].Data), "kernel/efivarfs.ko", "../../../../etc/efivarfs.ko", 1))
		}, nil, evidence.CodeParse},
		{"no list of modules", func(t rootfs.Tree) { t.Remove(cloudModules + "modules.dep") }, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := rootfs.Tree{}
			for p, n := range base {
				tree[p] = n
			}
			c.change(tree)
			o := shared
			o.In, o.Out = cloudImage(t, tree), filepath.Join(t.TempDir(), "web")
			_, err := Convert(context.Background(), o)
			if err == nil || evidence.CodeOf(err) != c.want {
				t.Fatalf("%v, want %q", err, c.want)
			}
			var unfit *Unfit
			if errors.As(err, &unfit) != (len(c.ids) > 0) {
				t.Fatalf("%v", err)
			}
			for _, id := range c.ids {
				if !slices.Contains(unfit.Report.Fits[0].Because, id) || !strings.Contains(err.Error(), id) {
					t.Errorf("%v does not name %s", err, id)
				}
			}
			if left, err := os.ReadDir(filepath.Dir(o.Out)); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	for name, o := range map[string]ConvertOptions{
		"nothing":  {},
		"no guest": {In: "x", Out: "y", SecureBootKeys: "z"},
		"bad name": {In: "x", Out: "y", SecureBootKeys: "z", GuestBinary: "g", Name: "../x"},
		"no file":  {In: filepath.Join(t.TempDir(), "none"), Out: filepath.Join(t.TempDir(), "out"), SecureBootKeys: "z", GuestBinary: "g"},
	} {
		if _, err := Convert(context.Background(), o); err == nil {
			t.Errorf("%s: converted", name)
		}
	}
}

func TestReadModule(t *testing.T) {
	root := fstest.MapFS{}
	for name, b := range map[string][]byte{
		"a.ko": []byte("text"), "b.ko.gz": gzipped("text"), "c.ko.zst": zstandard("text"), "d.ko.xz": xz("text"),
		"bad.ko.gz": []byte("no"), "bad.ko.zst": []byte("no"), "bad.ko.xz": []byte("no"), "cut.ko.xz": xz(strings.Repeat("text", 1000))[:60],
		"bomb.ko.gz": gzipped(strings.Repeat("\x00", maxModule+1)), "bomb.ko.zst": zstandard(strings.Repeat("\x00", maxModule+1)), "bomb.ko.xz": xz(strings.Repeat("\x00", maxModule+1)),
	} {
		root[name] = &fstest.MapFile{Data: b}
	}
	for _, name := range []string{"a.ko", "b.ko.gz", "c.ko.zst", "d.ko.xz"} {
		if b, err := readModule(context.Background(), root, name); err != nil || string(b) != "text" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"bad.ko.gz", "bad.ko.zst", "bad.ko.xz", "cut.ko.xz", "bomb.ko.gz", "bomb.ko.zst", "bomb.ko.xz"} {
		if b, err := readModule(context.Background(), root, name); evidence.CodeOf(err) == "" {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if _, err := readModule(context.Background(), root, "none.ko"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
