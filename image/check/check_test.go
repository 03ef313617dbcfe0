package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/container"
	"cloister.dev/cloister/image/fat"
	"cloister.dev/cloister/image/partition"
	"cloister.dev/cloister/image/uki"
)

const version = "6.12.9-cloud-amd64"

const config = `CONFIG_EFIVAR_FS=m
CONFIG_VIRTIO_PCI=m
CONFIG_VIRTIO_BLK=m
CONFIG_VIRTIO_NET=y
CONFIG_DM_CRYPT=m
CONFIG_DM_VERITY=m
CONFIG_CRYPTO_XTS=m
CONFIG_CRYPTO_AES_NI_INTEL=m
CONFIG_TCG_CRB=y
CONFIG_SEV_GUEST=m
CONFIG_TDX_GUEST_DRIVER=y
CONFIG_TSM_REPORTS=y
CONFIG_SECURITY_LOCKDOWN_LSM=y
CONFIG_MODULE_SIG=y
`

// vmlinuz begins as a kernel with an EFI stub does.
func vmlinuz() string {
	b := make([]byte, 1024)
	copy(b, "MZ")
	copy(b[0x202:], "HdrS")
	return string(b)
}

// elf begins as a program for x86-64 does.
const elfHeader = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"

// sound is the content of a root on which no rule has anything to say.
func sound() map[string]string {
	files := map[string]string{
		"etc/passwd":                         "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000::/home/admin:/bin/bash\n",
		"etc/shadow":                         "root:*:19000:0:99999:7:::\nadmin:!:19000:0:99999:7:::\ndaemon:!*:1::::::\n",
		"etc/os-release":                     "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\n",
		"etc/fstab":                          "# a comment\nPARTUUID=1 / ext4 rw 0 1\ntmpfs /tmp tmpfs defaults 0 0\n",
		"etc/machine-id":                     "uninitialized\n",
		"etc/ssh/sshd_config":                "PasswordAuthentication no\n",
		"etc/default/grub":                   "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n",
		"etc/chrony/chrony.conf":             "pool 2.debian.pool.ntp.org iburst\n",
		"etc/ssl/certs/ca.pem":               "-----BEGIN CERTIFICATE-----\n",
		"usr/lib/systemd/systemd":            elfHeader,
		"usr/sbin/sshd":                      elfHeader,
		"usr/sbin/chronyd":                   elfHeader,
		"usr/bin/cloud-init":                 "#!/usr/bin/python3\n",
		"sbin/init":                          elfHeader,
		"boot/vmlinuz-" + version:            vmlinuz(),
		"boot/config-" + version:             config,
		"boot/vmlinuz-6.9.1-cloud-amd64":     "an older one",
		modulesDir + "modules.builtin":       "kernel/drivers/char/tpm/tpm_crb.ko\n",
		modulesDir + "kernel/sev-guest.ko":   "",
		modulesDir + "kernel/efivarfs.ko.xz": "",
	}
	for _, m := range []string{"virtio_pci", "virtio_blk", "virtio_net", "dm-crypt", "dm-verity", "xts", "aesni-intel"} {
		files[modulesDir+"kernel/drivers/"+m+".ko.zst"] = ""
	}
	return files
}

const modulesDir = "usr/lib/modules/" + version + "/"

// image puts a root into an image without a disk behind it.
func image(t *testing.T, files map[string]string) *Image {
	t.Helper()
	root := fstest.MapFS{}
	for name, s := range files {
		root[name] = &fstest.MapFile{Data: []byte(s), Mode: 0o644}
	}
	boot, err := fs.Sub(root, "boot")
	if err != nil {
		t.Fatal(err)
	}
	blank := &container.Disk{Format: container.Raw, ReaderAt: bytes.NewReader(make([]byte, 1<<20))}
	i := &Image{
		Root: root, Boot: boot, disk: blank, table: &partition.Table{}, rootSize: 1 << 20, fourKiB: true, esp: []fat.File{{}},
		loaders: []loader{{path: "EFI/debian/shimx64.efi", signatures: 1}, {path: "EFI/debian/grubx64.efi", signatures: 1}},
	}
	if i.osRelease, err = readRelease(root); err != nil {
		t.Fatal(err)
	}
	if i.Kernel, err = findKernel(i); err != nil {
		t.Fatal(err)
	}
	return i
}

// judge gives the report's findings by their IDs.
func judge(t *testing.T, i *Image) (map[string]Finding, *Report) {
	t.Helper()
	r, err := i.Report(context.Background(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Finding{}
	for _, f := range r.Findings {
		out[f.ID] = f
	}
	return out, r
}

func TestSoundRoot(t *testing.T) {
	findings, r := judge(t, image(t, sound()))
	for id, f := range findings {
		if f.Verdict != Pass && id != "IMG-SIZE" {
			t.Errorf("%s: %s, %s", id, f.Verdict, f.Reason)
		}
	}
	if r.Kernel != version || r.Distribution != "Debian GNU/Linux 13 (trixie)" {
		t.Errorf("kernel %s, %s", r.Kernel, r.Distribution)
	}
}

func TestRules(t *testing.T) {
	with := func(name, text string) func(map[string]string) {
		return func(f map[string]string) { f[name] = text }
	}
	without := func(names ...string) func(map[string]string) {
		return func(f map[string]string) {
			for _, n := range names {
				delete(f, n)
			}
		}
	}
	replace := func(name, old, text string) func(map[string]string) {
		return func(f map[string]string) {
			if !strings.Contains(f[name], old) {
				t.Fatalf("%s has no %q", name, old)
			}
			f[name] = strings.Replace(f[name], old, text, 1)
		}
	}
	const cfg = "boot/config-" + version
	for _, c := range []struct {
		name   string
		change func(map[string]string)
		id     string
		want   Verdict
		reason string // a part of it
	}{
		{"no systemd", without("usr/lib/systemd/systemd"), "IMG-INIT", Fail, "no systemd"},
		{"systemd for arm64", with("usr/lib/systemd/systemd", strings.Replace(elfHeader, "\x3e", "\xb7", 1)), "IMG-INIT", Fail, "x86-64"},
		{"systemd for i386", with("usr/lib/systemd/systemd", strings.Replace(elfHeader, "ELF\x02", "ELF\x01", 1)), "IMG-INIT", Fail, "x86-64"},
		{"no init", without("sbin/init"), "IMG-INIT", Fail, "/sbin/init"},
		{"an unknown distribution", with("etc/os-release", "ID=plan9\n"), "IMG-DISTRIBUTION", Warn, "plan9"},
		{"one like Ubuntu", with("etc/os-release", "ID=mint\nID_LIKE=\"ubuntu debian\"\n"), "IMG-DISTRIBUTION", Pass, "mint"},
		{"an escape in its name", with("etc/os-release", "ID=x\nPRETTY_NAME=\"\x1b[2J\"\n"), "IMG-DISTRIBUTION", Warn, "?[2J"},
		{"/var on its own partition", with("etc/fstab", "UUID=1 /var ext4 defaults 0 2\n"), "IMG-MOUNTS", Fail, "/var"},
		{"/boot/efi", with("etc/fstab", "UUID=1 /boot/efi vfat umask=0077 0 1\n"), "IMG-MOUNTS", Warn, "/boot/efi"},
		{"no kernel", without("boot/vmlinuz-"+version, "boot/vmlinuz-6.9.1-cloud-amd64"), "IMG-KERNEL", Fail, "no vmlinuz"},
		{"no modules", func(f map[string]string) {
			for n := range f {
				if strings.HasPrefix(n, modulesDir) {
					delete(f, n)
				}
			}
		}, "IMG-KERNEL", Fail, "no modules"},
		{"a kernel for another machine", with("boot/vmlinuz-"+version, "MZ"), "IMG-KERNEL", Fail, "x86"},
		{"a kernel without EFI stub", replace("boot/vmlinuz-"+version, "MZ", "\x00\x00"), "IMG-KERNEL-EFI", Fail, "EFI stub"},
		{"no efivarfs", replace(cfg, "EFIVAR_FS=m", "X=m"), "IMG-KERNEL-EFI", Fail, "EFIVAR_FS"},
		{"no virtio_blk", replace(cfg, "VIRTIO_BLK=m", "X=m"), "IMG-KERNEL-VIRTIO", Fail, "VIRTIO_BLK"},
		{"an option that only begins so", replace(cfg, "VIRTIO_NET=y", "VIRTIO_NET=yes"), "IMG-KERNEL-VIRTIO", Fail, "VIRTIO_NET"},
		{"a module that was not installed", without(modulesDir + "kernel/drivers/dm-crypt.ko.zst"), "IMG-KERNEL-DM", Fail, "dm_crypt, which is not in the image"},
		{"no dm-verity", replace(cfg, "DM_VERITY=m", "X=m"), "IMG-KERNEL-DM", Fail, "DM_VERITY"},
		{"no TPM driver", replace(cfg, "TCG_CRB=y", "X=y"), "IMG-KERNEL-TPM", Fail, "TCG_CRB"},
		{"no lockdown", replace(cfg, "SECURITY_LOCKDOWN_LSM=y", "X=y"), "IMG-KERNEL-LOCKDOWN", Warn, "LOCKDOWN"},
		{"no SNP guest driver", replace(cfg, "SEV_GUEST=m", "X=m"), "IMG-KERNEL-SNP", Fail, "SEV_GUEST"},
		{"no TDX guest driver", replace(cfg, "TDX_GUEST_DRIVER=y", "X=y"), "IMG-KERNEL-TDX", Fail, "TDX_GUEST_DRIVER"},
		{"the common interface's module was not installed", replace(cfg, "TSM_REPORTS=y", "TSM_REPORTS=m"), "IMG-KERNEL-TSM", Warn, "not in the image"},
		{"no common interface", replace(cfg, "TSM_REPORTS=y", "X=y"), "IMG-KERNEL-TSM", Warn, "6.12"},
		{"no configuration, module there", without(cfg), "IMG-KERNEL-SNP", Pass, "SEV_GUEST (module)"},
		{"no configuration, built in", without(cfg), "IMG-KERNEL-TPM", Pass, "TCG_CRB"},
		{"no configuration, neither", without(cfg), "IMG-KERNEL-TDX", Fail, "TDX_GUEST_DRIVER"},
		{"neither configuration nor lists", without(cfg, modulesDir+"modules.builtin"), "IMG-KERNEL-TPM", Unknown, "TCG_CRB"},
		{"no agent", without("usr/bin/cloud-init"), "IMG-AGENT", Warn, "neither"},
		{"no sshd", without("usr/sbin/sshd"), "IMG-SSH", Warn, "no sshd"},
		{"no console", without("etc/default/grub"), "IMG-CONSOLE", Warn, "no console"},
		{"a console by systemd", func(f map[string]string) {
			delete(f, "etc/default/grub")
			f["etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"] = ""
		}, "IMG-CONSOLE", Pass, "serial-getty"},
		{"HD-10 swap on a partition", with("etc/fstab", "/dev/vda5 none swap sw 0 0\n"), "IMG-SWAP", Fail, "/dev/vda5"},
		{"HD-10 swap by a UUID", with("etc/fstab", "UUID=1-2 none swap sw 0 0\n"), "IMG-SWAP", Fail, "UUID=1-2"},
		{"HD-10 swap by a unit", with("etc/systemd/system/dev-vdb1.swap", "[Swap]\nWhat=/dev/vdb1\n"), "IMG-SWAP", Fail, "dev-vdb1.swap"},
		{"HD-10 swap by Azure's agent", with("etc/waagent.conf", "ResourceDisk.EnableSwap=y\n"), "IMG-SWAP", Fail, "EnableSwap"},
		{"HD-10 swap in a file of fstab", with("etc/fstab", "/swapfile none swap sw 0 0\n"), "IMG-SWAP", Warn, "/swapfile"},
		{"HD-10 swap in a file", with("swap.img", strings.Repeat("\x00", 4086)+"SWAPSPACE2"), "IMG-SWAP", Warn, "/swap.img"},
		{"swap in memory", with("etc/systemd/system/dev-zram0.swap", "[Swap]\nWhat=/dev/zram0\n"), "IMG-SWAP", Pass, ""},
		{"a file that is no swap", with("swapfile", strings.Repeat("x", 5000)), "IMG-SWAP", Pass, ""},
		{"swap that is switched off", with("etc/waagent.conf", "ResourceDisk.EnableSwap=n\n# ResourceDisk.EnableSwap=y\n"), "IMG-SWAP", Pass, ""},
		{"hibernation by the kernel", with("etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=/dev/vda5\"\n"), "IMG-HIBERNATION", Warn, "/dev/vda5"},
		{"hibernation by the initrd", with("etc/initramfs-tools/conf.d/resume", "RESUME=UUID=7\n"), "IMG-HIBERNATION", Warn, "uuid=7"},
		{"no hibernation", with("etc/initramfs-tools/conf.d/resume", "RESUME=none\n"), "IMG-HIBERNATION", Pass, ""},
		{"temporary disk by Azure's agent", with("etc/waagent.conf", "ResourceDisk.Format=y\n"), "IMG-TEMP-DISK", Warn, "waagent"},
		{"temporary disk by cloud-init", with("etc/cloud/cloud.cfg.d/90.cfg", "mounts:\n - [ephemeral0, /mnt]\n"), "IMG-TEMP-DISK", Warn, "90.cfg"},
		{"temporary disk by fstab", with("etc/fstab", "/dev/disk/cloud/azure_resource-part1 /mnt auto defaults,nofail 0 2\n"), "IMG-TEMP-DISK", Warn, "azure_resource"},
		{"HD-07 the host's clock by PTP", with("etc/chrony/chrony.conf", "refclock PHC /dev/ptp_hyperv poll 3\n"), "IMG-TIME", Warn, "/dev/ptp_hyperv"},
		{"HD-07 the host's clock in another file", with("etc/chrony/conf.d/azure.conf", "refclock PHC /dev/ptp0\n"), "IMG-TIME", Warn, "azure.conf"},
		{"no time source", without("usr/sbin/chronyd"), "IMG-TIME", Warn, "nothing sets the clock"},
		{"SSH host key", with("etc/ssh/ssh_host_rsa_key", "x"), "IMG-HOST-KEYS", Fail, "ssh_host_rsa_key"},
		{"SSH host key's public half", with("etc/ssh/ssh_host_ed25519_key.pub", "x"), "IMG-HOST-KEYS", Fail, "ed25519"},
		{"machine id", with("etc/machine-id", "0123456789abcdef0123456789abcdef\n"), "IMG-MACHINE-ID", Fail, "/etc/machine-id"},
		{"machine id of D-Bus", with("var/lib/dbus/machine-id", "0123\n"), "IMG-MACHINE-ID", Fail, "dbus"},
		{"empty machine id", with("etc/machine-id", ""), "IMG-MACHINE-ID", Pass, ""},
		{"root's password", replace("etc/shadow", "root:*", "root:$y$j9T$x"), "IMG-PASSWORDS", Fail, "root"},
		{"no password at all", replace("etc/shadow", "admin:!", "admin:"), "IMG-PASSWORDS", Fail, "admin"},
		{"a password in passwd", replace("etc/passwd", "admin:x", "admin:"), "IMG-PASSWORDS", Fail, "admin"},
		{"root's authorized_keys", with("root/.ssh/authorized_keys", "ssh-ed25519 AAAA x\n"), "IMG-AUTHORIZED-KEYS", Fail, "/root/.ssh"},
		{"an account's", with("home/admin/.ssh/authorized_keys2", "ssh-ed25519 AAAA x\n"), "IMG-AUTHORIZED-KEYS", Fail, "authorized_keys2"},
		{"of no account any more", with("home/gone/.ssh/authorized_keys", "ssh-rsa AAAA x\n"), "IMG-AUTHORIZED-KEYS", Fail, "gone"},
		{"with comments only", with("root/.ssh/authorized_keys", "# none\n\n"), "IMG-AUTHORIZED-KEYS", Pass, ""},
		{"HD-18 a private key", with("etc/ssl/private/server.key", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n"), "IMG-SECRETS", Fail, "private keys in /etc/ssl/private/server.key"},
		{"HD-18 an OpenSSH key", with("home/admin/.ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"), "IMG-SECRETS", Fail, "id_ed25519"},
		{"HD-18 a key of Azure's agent", with("var/lib/waagent/AB.prv", "x"), "IMG-SECRETS", Fail, "AB.prv"},
		{"HD-18 an access key", with("opt/app/env", "KEY=AKIAIOSFODNN7EXAMPLE\n"), "IMG-SECRETS", Fail, "tokens in /opt/app/env"},
		{"HD-18 a storage key", with("srv/c", "AccountKey="+strings.Repeat("A", 86)+"==\n"), "IMG-SECRETS", Fail, "/srv/c"},
		{"HD-18 a token of GitHub", with("root/notes", "ghp_"+strings.Repeat("a", 36)+"\n"), "IMG-SECRETS", Fail, "/root/notes"},
		{"HD-18 a token of Slack", with("etc/hook", "xoxb-"+strings.Repeat("1", 24)+"\n"), "IMG-SECRETS", Fail, "/etc/hook"},
		{"HD-18 a signature of a storage account", with("opt/c", "SharedAccessSignature=sv=2024\n"), "IMG-SECRETS", Fail, "/opt/c"},
		{"HD-18 Azure's token cache", with("home/admin/.azure/msal_token_cache.json", "{}"), "IMG-SECRETS", Fail, "msal_token_cache"},
		{"HD-18 user data of an earlier VM", with("var/lib/cloud/instances/i-1/user-data.txt", "#cloud-config\n"), "IMG-SECRETS", Fail, "user-data"},
		{"HD-18 shell history", with("root/.bash_history", "ls\n"), "IMG-SECRETS", Fail, "bash_history"},
		{"a certificate", with("etc/ssl/x.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"), "IMG-SECRETS", Pass, ""},
		{"a text about keys", with("usr/local/doc", "it begins with -----BEGIN RSA PRIVATE KEY----- they say\n"), "IMG-SECRETS", Pass, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := sound()
			c.change(files)
			findings, r := judge(t, image(t, files))
			f := findings[c.id]
			if f.Verdict != c.want || !strings.Contains(f.Reason, c.reason) {
				t.Errorf("%s: %s, %q; want %s, %q", c.id, f.Verdict, f.Reason, c.want, c.reason)
			}
			if f.Verdict == Fail && f.Remedy == "" {
				t.Error("it failed without a remedy")
			}
			for _, fit := range r.Fits {
				counts := false
				for _, of := range f.TEEs {
					counts = counts || of == fit.TEE
				}
				if c.want == Fail && counts && fit.Verdict != Fail {
					t.Errorf("it fits %s all the same", fit.TEE)
				}
				if c.want == Fail && !counts && fit.Verdict == Fail {
					t.Errorf("it does not fit %s: %v", fit.TEE, fit.Because)
				}
			}
			raw, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"$y$j9T", "AKIAIOSFODNN7EXAMPLE", "AAAA"} {
				if bytes.Contains(raw, []byte(secret)) {
					t.Errorf("HD-18 the report tells %q", secret)
				}
			}
		})
	}
}

func TestReasonsHaveNoEscapes(t *testing.T) {
	files := sound()
	files["etc/cloud/cloud.cfg.d/\x1b[2J.cfg"] = "ephemeral0\n"
	findings, _ := judge(t, image(t, files))
	if f := findings["IMG-TEMP-DISK"]; f.Verdict != Warn || strings.Contains(f.Reason, "\x1b") {
		t.Errorf("%s, %q", f.Verdict, f.Reason)
	}
}

func TestBootChain(t *testing.T) {
	kernel := []uki.Section{{Name: ".linux", Data: []byte("x")}, {Name: ".cmdline", Data: []byte("quiet cloister.verity=1_2")}}
	for _, c := range []struct {
		name    string
		loaders []loader
		want    Verdict
		reason  string
	}{
		{"nothing", nil, Warn, "no shim"},
		{"a signed kernel image", []loader{{path: "EFI/BOOT/BOOTX64.EFI", signatures: 1, sections: kernel}}, Pass, "unified kernel image"},
		{"HD-13 an unsigned kernel image", []loader{{path: "EFI/BOOT/BOOTX64.EFI", sections: kernel}}, Warn, "not signed"},
		{"HD-13 GRUB unsigned", []loader{{path: "EFI/x/shimx64.efi", signatures: 1}, {path: "EFI/x/grubx64.efi"}}, Warn, "not signed: EFI/x/grubx64.efi"},
		{"GRUB alone", []loader{{path: "EFI/x/grubx64.efi", signatures: 1}}, Pass, "boot loader"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := image(t, sound())
			i.loaders = c.loaders
			findings, _ := judge(t, i)
			if f := findings["IMG-BOOT"]; f.Verdict != c.want || !strings.Contains(f.Reason, c.reason) {
				t.Errorf("%s, %q", f.Verdict, f.Reason)
			}
			wantAgent := "cloud-init"
			if len(c.loaders) == 1 && c.loaders[0].sections != nil {
				wantAgent = "Cloister's agent"
			}
			if f := findings["IMG-AGENT"]; !strings.Contains(f.Reason, wantAgent) {
				t.Errorf("agent: %q", f.Reason)
			}
		})
	}
}

func TestErr(t *testing.T) {
	r := func(software, snp, tdx Verdict) *Report {
		return &Report{Fits: []Fit{{Software, software, nil}, {SEVSNP, snp, []string{"IMG-X"}}, {TDX, tdx, nil}}}
	}
	for _, c := range []struct {
		name string
		r    *Report
		tees []TEE
		want evidence.Code
	}{
		{"all fit", r(Pass, Pass, Pass), nil, ""},
		{"one fits", r(Pass, Fail, Fail), nil, ""},
		{"none fits", r(Fail, Fail, Fail), nil, evidence.CodeConfig},
		{"one is unknown", r(Fail, Unknown, Fail), nil, evidence.CodeUnavailable},
		{"the named one fits", r(Pass, Fail, Fail), []TEE{Software}, ""},
		{"the named one does not", r(Pass, Fail, Pass), []TEE{SEVSNP}, evidence.CodeConfig},
		{"one of two does not", r(Pass, Fail, Pass), []TEE{Software, SEVSNP}, evidence.CodeConfig},
		{"one of two is unknown", r(Pass, Unknown, Pass), []TEE{Software, SEVSNP}, evidence.CodeUnavailable},
		{"unknown and failed", r(Unknown, Fail, Pass), []TEE{Software, SEVSNP}, evidence.CodeConfig},
		{"failed and unknown", r(Fail, Unknown, Pass), []TEE{Software, SEVSNP}, evidence.CodeConfig},
		{"one that nobody knows", r(Pass, Pass, Pass), []TEE{"sgx"}, evidence.CodeUnavailable},
		{"an empty report", &Report{}, nil, evidence.CodeConfig},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.r.Err(c.tees...); evidence.CodeOf(err) != c.want || (c.want == "") != (err == nil) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	ordered := []string{"5.9", "5.10", "5.10.0-9-amd64", "5.10.0-12-amd64", "6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.9", "10"}
	for a := range ordered {
		for b := range ordered {
			if got := compareVersions(ordered[a], ordered[b]); (got < 0) != (a < b) || (got > 0) != (a > b) {
				t.Errorf("%s and %s: %d", ordered[a], ordered[b], got)
			}
		}
	}
}

// TestWalkIsBounded: folders that have many names are many folders.
func TestWalkIsBounded(t *testing.T) {
	root := fstest.MapFS{}
	for n := range 100 {
		root[fmt.Sprintf("etc/%d", n)] = &fstest.MapFile{}
	}
	w := walker{left: 50}
	if err := w.walk(root, "etc", func(string, fs.DirEntry) error { return nil }); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("%v", err)
	}
	w = walker{left: 100}
	if err := w.walk(root, "etc", func(string, fs.DirEntry) error { return nil }); err != nil {
		t.Errorf("positive twin: %v", err)
	}
	deep := fstest.MapFS{"etc/" + strings.Repeat("d/", maxFolder+1) + "f": &fstest.MapFile{}}
	w = walker{left: maxWalk}
	if err := w.walk(deep, "etc", func(string, fs.DirEntry) error { return nil }); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("%v", err)
	}
}
