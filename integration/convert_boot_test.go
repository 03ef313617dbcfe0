//go:build boot

package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/image/rootfs"
	"cloister.dev/cloister/internal/sbin"
)

// cloudImage makes a cloud image as a distribution's publisher would: Debian 13 with its own kernel package, systemd-networkd,
// an fstab with a system partition, no boot loader. It is a VHD. CLOISTER_CLOUD_IMAGE keeps it between runs.
func cloudImage(t *testing.T) string {
	t.Helper()
	out := os.Getenv("CLOISTER_CLOUD_IMAGE")
	if out == "" {
		out = filepath.Join(t.TempDir(), "debian-13-cloud.vhd")
	} else if _, err := os.Stat(out); err == nil {
		return out
	}
	ctx, dir := context.Background(), t.TempDir()
	sources, err := rootfs.HostSources("/etc/apt", "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	// The machine's own mirror has the next release too.
	sources = strings.ReplaceAll(sources, "bookworm", "trixie")
	const kernel = "linux-image-cloud-amd64"
	epoch := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	archive := filepath.Join(dir, "root.tar")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	recipe := rootfs.Recipe{Suite: "trixie", Sources: sources, Kernel: kernel, Epoch: epoch, Packages: append([]string{kernel, "systemd-timesyncd"}, rootfs.Packages...)}
	if err := rootfs.Debootstrap(ctx, recipe, archive, os.TempDir()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree, err := rootfs.ReadTar(f)
	if err != nil {
		t.Fatal(err)
	}
	tree.Remove(rootfs.KernelDir)
	tree.Remove("var/lib/dbus/machine-id")
	tree.Remove("var/log/journal") // it has attributes, which our writer does not write
	for _, p := range tree.Paths() {
		if strings.HasPrefix(p, "etc/ssh/ssh_host_") {
			tree.Remove(p)
		}
	}
	for _, d := range []string{"var/cache/apt", "var/lib/apt/lists", "dev"} {
		tree.Empty(d)
	}
	tree.File("etc/machine-id", 0o444, "uninitialized\n")
	tree.File("etc/fstab", 0o644, "LABEL=cloud / ext4 rw,discard,errors=remount-ro 0 1\nUUID=C101-5E12 /boot/efi vfat umask=0077 0 1\n")
	tree.File("etc/systemd/network/10-dhcp.network", 0o644, "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n")
	tree.Symlink("etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service")

	root, disk := filepath.Join(dir, "root"), filepath.Join(dir, "disk")
	fsys := rootfs.FileSystem{UUID: "c1015e12-0000-4000-8000-0000000000aa", HashSeed: "c1015e12-0000-4000-8000-0000000000ab", Label: "cloud", Time: epoch, SlackMiB: 64}
	if err := rootfs.WriteExt4(ctx, root, tree, fsys); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, info.Size()+2<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		input string
		args  []string
	}{
		{"label: gpt\nstart=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n", []string{sbin.Path("sfdisk"), "-q", disk}},
		{"", []string{"dd", "if=" + root, "of=" + disk, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"}},
		{"", []string{"qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", disk, out}},
	} {
		cmd := exec.Command(c.args[0], c.args[1:]...)
		cmd.Stdin = strings.NewReader(c.input)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c.args, err, text)
		}
	}
	return out
}

// TestConvertedImage brings a cloud image: it is checked, converted, started, and proves itself; inside, its own kernel and
// its own files run, and nothing of its fstab was waited for.
func TestConvertedImage(t *testing.T) {
	cloud := cloudImage(t)
	s := newSystem(t)
	t.Log("\n" + s.run("image", "check", cloud))
	s.run("image", "check", cloud, "--tee", "sevsnp,tdx")
	t.Log("\n" + s.run("image", "convert", cloud, "--name", "web"))
	t.Log("\n" + s.run("image", "check", filepath.Join(s.state, "images", "web"), "--tee", "software"))
	s.run("up")
	key := filepath.Join(s.state, "key")
	if err := sshKey(key); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + s.run("vm", "create", "web", "--image", "web", "--ssh-key", key+".pub"))
	t.Log("\n" + s.run("vm", "attest", "web"))
	out := s.run("vm", "ssh", "web", "--identity", key, "--", "uname -r; . /etc/os-release; echo $PRETTY_NAME; findmnt -no SOURCE,FSTYPE /; systemctl --failed --no-legend; cat /proc/swaps; ls /boot")
	t.Log("\n" + out)
	for _, want := range []string{"cloud-amd64", "Debian GNU/Linux 13", "ext4", "vmlinuz-"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside there is no %q", want)
		}
	}
	if strings.Contains(out, "failed") {
		t.Error("a unit failed")
	}
}
