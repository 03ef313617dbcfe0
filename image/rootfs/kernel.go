package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"cloister.dev/cloister/image/initrd"
	"cloister.dev/cloister/internal/sbin"
)

// KernelModules are those that the running distribution gets, beside what init already loaded: network, disks,
// ciphers for data disks, file systems, the power button, and what firewalls and containers commonly want. qemu_fw_cfg is left out:
// it would hand the host's files to the VM.
var KernelModules = []string{
	"virtio_net", "virtio_blk", "virtio_pci", "virtio_scsi", "virtio_rng", "virtio_console", "virtio_balloon", "vmw_vsock_virtio_transport",
	"sd_mod", "failover", "net_failover", "dm-mod", "dm-crypt", "dm-verity", "dm-integrity", "dm-snapshot", "xts", "aesni-intel", "authenc",
	"algif_skcipher", "algif_hash", "efivarfs", "vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii", "nls_utf8", "overlay", "squashfs", "autofs4",
	"button", "evdev", "configfs", "loop", "fuse", "tun", "veth", "bridge", "br_netfilter", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nft_reject_inet",
	"nft_limit", "nft_log", "nft_compat", "xt_conntrack", "xt_MASQUERADE", "xt_addrtype", "xt_comment", "wireguard",
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	Version string // as uname -r prints it
	Image   []byte // vmlinuz
	Config  string
	dir     string // /lib/modules/VERSION
	deps    *initrd.Dependencies
	builtin map[string]bool
}

// UnpackKernel unpacks the one kernel package (.deb) below dir and indexes its modules.
func UnpackKernel(ctx context.Context, deb, dir string) (*Kernel, error) {
	if out, err := exec.CommandContext(ctx, "dpkg", "-x", deb, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dpkg -x of the kernel: %w: %s", err, bytes.TrimSpace(out))
	}
	return LoadKernel(ctx, dir)
}

// LoadKernel reads what UnpackKernel left below dir.
func LoadKernel(ctx context.Context, dir string) (*Kernel, error) {
	found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("the kernel package holds %d kernels, want 1", len(found))
	}
	k := &Kernel{Version: strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")}
	if k.Image, err = os.ReadFile(found[0]); err != nil {
		return nil, fmt.Errorf("reading the kernel: %w", err)
	}
	config, err := os.ReadFile(filepath.Join(dir, "boot", "config-"+k.Version))
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's configuration: %w", err)
	}
	k.Config = string(config)
	k.dir = filepath.Join(dir, "lib", "modules", k.Version)
	if out, err := exec.CommandContext(ctx, sbin.Path("depmod"), "-b", dir, k.Version).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("depmod (package kmod): %w: %s", err, bytes.TrimSpace(out))
	}
	f, err := os.Open(filepath.Join(k.dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("reading modules.dep: %w", err)
	}
	defer f.Close()
	if k.deps, err = initrd.ParseDependencies(f); err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("reading modules.builtin: %w", err)
	}
	k.builtin = initrd.Builtin(string(builtin))
	return k, nil
}

// InitrdModules are those that init loads, in order.
func (k *Kernel) InitrdModules() ([]initrd.Module, error) {
	order, err := k.deps.Order(initrd.Modules, k.builtin)
	if err != nil {
		return nil, err
	}
	var out []initrd.Module
	for _, p := range order {
		data, err := os.ReadFile(filepath.Join(k.dir, p))
		if err != nil {
			return nil, fmt.Errorf("reading a kernel module: %w", err)
		}
		out = append(out, initrd.Module{Name: path.Base(p), Data: data})
	}
	return out, nil
}

// AddModules puts KernelModules, what they need, and a fresh index of them into the root. Scratch files go below tmp.
func (k *Kernel) AddModules(ctx context.Context, t Tree, tmp string) error {
	order, err := k.deps.Order(KernelModules, k.builtin)
	if err != nil {
		return err
	}
	base, err := os.MkdirTemp(tmp, "modules-")
	if err != nil {
		return fmt.Errorf("staging kernel modules: %w", err)
	}
	defer os.RemoveAll(base)
	const under = "lib/modules"
	dir := filepath.Join(base, under, k.Version)
	for _, p := range append(order, "modules.builtin", "modules.order", "modules.builtin.modinfo") {
		data, err := os.ReadFile(filepath.Join(k.dir, p))
		if err != nil {
			return fmt.Errorf("reading a kernel module: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755); err != nil {
			return fmt.Errorf("staging kernel modules: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), data, 0o644); err != nil {
			return fmt.Errorf("staging kernel modules: %w", err)
		}
	}
	if out, err := exec.CommandContext(ctx, sbin.Path("depmod"), "-b", base, k.Version).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod (package kmod): %w: %s", err, bytes.TrimSpace(out))
	}
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(base, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("reading a kernel module: %w", err)
		}
		t.parents("usr/" + rel)
		t["usr/"+rel] = Node{Kind: tar.TypeReg, Mode: 0o644, Data: data}
		return nil
	})
}
