package rootfs

import (
	"archive/tar"
	"fmt"
	"strings"
)

// masked units: measuring phases without a TPM library, waiting for a network that the metadata do not need,
// and timers that would run apt in a fresh VM.
var masked = []string{
	"systemd-pcrphase.service", "systemd-pcrphase-initrd.service", "systemd-pcrphase-sysinit.service", "systemd-pcrmachine.service",
	"systemd-networkd-wait-online.service", "systemd-hwdb-update.service", "systemd-firstboot.service",
	"apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "dpkg-db-backup.timer", "fstrim.timer",
	"debug-shell.service", "getty@tty1.service", "systemd-boot-update.service",
}

// removed differ from build to build, or would be shared by all VMs made from the image.
var removed = []string{
	"var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "var/cache/ldconfig/aux-cache",
	"etc/.pwd.lock", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
	"var/cache/debconf/templates.dat-old", "var/cache/debconf/config.dat-old", "var/lib/dpkg/status-old", "var/lib/dpkg/available-old",
	"var/lib/dpkg/diversions-old", "var/lib/dpkg/statoverride-old", "var/lib/apt/extended_states~",
	"usr/lib/udev/hwdb.bin", "etc/udev/hwdb.bin", "boot/lost+found", "lost+found", ".dockerenv", KernelDir,
}

var emptied = []string{"var/lib/apt/lists", "var/cache/apt", "var/log", "var/tmp", "tmp", "run", "dev", "proc", "sys", "boot"}

// Settle makes a freshly installed root the same for every build and fit for a confidential VM:
// no machine id, host keys or host's names, no swap, no way in but SSH keys.
func Settle(t Tree) error {
	for _, p := range removed {
		t.Remove(p)
	}
	for p := range t {
		if strings.HasPrefix(p, "etc/ssh/ssh_host_") || strings.HasPrefix(p, "usr/share/doc/") || strings.HasSuffix(p, ".dpkg-old") {
			t.Remove(p)
		}
	}
	for _, p := range emptied {
		t.Empty(p)
	}
	for _, need := range []string{"usr/lib/systemd/systemd", "usr/sbin/sshd", "etc/passwd", "usr/lib/systemd/system/systemd-networkd.service"} {
		if n, ok := t[need]; !ok || n.Kind != tar.TypeReg {
			return fmt.Errorf("the root has no %s", need)
		}
	}
	for p, n := range t {
		if _, ok := t[n.Link]; n.Kind == tar.TypeLink && !ok {
			return fmt.Errorf("%s lost %s, which it was a hard link to", p, n.Link)
		}
	}
	t.File("etc/machine-id", 0o444, "")
	t.File("etc/hostname", 0o644, "cloister\n")
	t.File("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	t.File("etc/resolv.conf", 0o644, "")
	// The root is mounted by the initrd; nothing else is mounted, and no swap.
	t.File("etc/fstab", 0o644, "")
	t.File("etc/systemd/network/80-dhcp.network", 0o644, `[Match]
Type=ether

[Link]
RequiredForOnline=no

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
RapidCommit=yes
SendHostname=no
UseHostname=no
`)
	t.Symlink("etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service")
	t.Symlink("etc/systemd/system/sockets.target.wants/systemd-networkd.socket", "/lib/systemd/system/systemd-networkd.socket")
	t.Symlink("etc/systemd/system/dbus-org.freedesktop.network1.service", "/lib/systemd/system/systemd-networkd.service")
	t.File("etc/ssh/sshd_config.d/10-keys-only.conf", 0o644, `PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
`)
	// The host key is made in the VM. Only Ed25519: making an RSA key takes long under emulation.
	t.File("etc/systemd/system/ssh.service.d/10-host-key.conf", 0o644, `[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -s /etc/ssh/ssh_host_ed25519_key || ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key'
ExecStartPre=/usr/sbin/sshd -t
`)
	for _, u := range masked {
		t.Symlink("etc/systemd/system/"+u, "/dev/null")
	}
	// It would mount and swap on whatever partitions the host put on the disk.
	t.Symlink("etc/systemd/system-generators/systemd-gpt-auto-generator", "/dev/null")
	t.File("etc/systemd/system.conf.d/10-vm.conf", 0o644, "[Manager]\nDefaultTimeoutStartSec=60s\nDefaultTimeoutStopSec=15s\n")
	// The disk may be larger than the image was.
	t.File("etc/systemd/system/grow-root.service", 0o644, `[Unit]
Description=Grow the root file system to its disk
After=local-fs.target

[Service]
Type=oneshot
ExecStart=-/lib/systemd/systemd-growfs /
`)
	t.Symlink("etc/systemd/system/multi-user.target.wants/grow-root.service", "/etc/systemd/system/grow-root.service")
	// apt does not bring back what was left out.
	var cfg strings.Builder
	for _, x := range excluded {
		fmt.Fprintf(&cfg, "path-exclude=%s\n", x)
	}
	t.File("etc/dpkg/dpkg.cfg.d/10-small", 0o644, cfg.String())
	return nil
}
