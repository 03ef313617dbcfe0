package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/check"
	"cloister.dev/cloister/image/ext4"
	"cloister.dev/cloister/image/initrd"
	"cloister.dev/cloister/image/rootfs"
	"cloister.dev/cloister/image/verity"
)

// ConvertOptions say what to convert. Zero values of the second group mean the machine's own.
type ConvertOptions struct {
	In             string // disk image: raw, qcow2 or VHD
	Out            string // folder of the image; made, or replaced as a whole
	GuestBinary    string // cloister-guest, static
	SecureBootKeys string // folder of the installation's keys; made where there are none
	Progress       func(step string)

	Name string // of the image; the last part of Out
	Stub string // DefaultStub
	Vars string // DefaultVars
}

// Unfit is the error for an image that does not pass its check.
type Unfit struct {
	Report *check.Report
	err    error
}

func (u *Unfit) Error() string { return u.err.Error() }
func (u *Unfit) Unwrap() error { return u.err }

// maxConverted bounds the root of a conversion, in bytes: an image may claim 4 TiB in a few, and each of its VMs copies it.
const maxConverted = 64 << 30

// converting is what the command line has beside CommandLine's words. The distribution is left as it is, and its fstab
// speaks of partitions that the VM does not have: nothing but the root is mounted, and no swap that the host could offer.
// Nobody sits at the console to answer systemd's questions of a first boot.
var converting = "fstab=no systemd.gpt_auto=no systemd.firstboot=no systemd.mask=" + strings.Join(measuring, " systemd.mask=") + " "

// measuring are units of systemd that measure phases of the boot, which would move PCR 11 away from what was predicted, that
// predict PCRs for a policy of their own, or that set up the TPM for it. Without a TPM library in the image they fail.
var measuring = []string{
	"systemd-pcrphase-initrd.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service", "systemd-pcrmachine.service", "systemd-pcrfs-root.service",
	"systemd-pcrlock-make-policy.service", "systemd-pcrlock-firmware-code.service", "systemd-pcrlock-firmware-config.service",
	"systemd-pcrlock-secureboot-authority.service", "systemd-pcrlock-secureboot-policy.service",
	"systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service",
}

// Convert makes an image of a cloud image: the root and the kernel are the distribution's own, unchanged, but for blocks
// that no file has, which become zeros. The same input and keys give the same bytes. An image that fits no TEE is refused
// by an *Unfit; one that fits some is made, and its manifest says which.
func Convert(ctx context.Context, o ConvertOptions) (*Manifest, error) {
	for _, need := range []struct{ name, value string }{{"In", o.In}, {"Out", o.Out}, {"GuestBinary", o.GuestBinary}, {"SecureBootKeys", o.SecureBootKeys}} {
		if need.value == "" {
			return nil, fmt.Errorf("converting an image: no %s", need.name)
		}
	}
	for _, d := range []struct {
		to    *string
		value string
	}{{&o.Name, filepath.Base(filepath.Clean(o.Out))}, {&o.Stub, DefaultStub}, {&o.Vars, DefaultVars}} {
		if *d.to == "" {
			*d.to = d.value
		}
	}
	if !plainName.MatchString(o.Name) {
		return nil, fmt.Errorf("converting an image: name %q: want %s", o.Name, plainName)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	m, err := convert(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("converting %s: %w", o.In, err)
	}
	return m, nil
}

func convert(ctx context.Context, o ConvertOptions) (*Manifest, error) {
	in, err := os.Open(o.In)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	size, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	o.Progress("checking " + filepath.Base(o.In))
	from, err := check.Open(in, size)
	if err != nil {
		return nil, err
	}
	report, err := from.Report(ctx, func(string) {})
	if err != nil {
		return nil, err
	}
	if err := report.Err(); err != nil {
		return nil, &Unfit{report, err}
	}
	kernel, err := from.KernelImage()
	if err != nil {
		return nil, err
	}
	modules, err := initrdModules(ctx, from)
	if err != nil {
		return nil, err
	}
	release, err := from.OSRelease()
	if err != nil {
		return nil, err
	}
	if release == "" {
		return nil, evidence.Refuse(evidence.CodeConfig, "os-release", "none", "the distribution's")
	}
	packages, err := packagesOf(from.Root)
	if err != nil {
		return nil, err
	}
	p, err := readParts(o.GuestBinary, o.Stub, o.Vars, o.SecureBootKeys)
	if err != nil {
		return nil, err
	}

	parent := filepath.Dir(filepath.Clean(o.Out))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(parent, ".convert-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	o.Progress("copying the root")
	root, hashes := filepath.Join(work, imageFile), filepath.Join(work, hashFile)
	if err := copyRoot(ctx, root, from); err != nil {
		return nil, err
	}
	o.Progress("making the hash tree")
	table, err := verity.Format(ctx, root, hashes, verityUUID)
	if err != nil {
		return nil, err
	}
	digest, err := describe(o.In)
	if err != nil {
		return nil, err
	}
	kernelSum := sha256.Sum256(kernel)
	line := CommandLine(table)
	return p.image(ctx, target{o.Name, o.Out, work, o.Progress}, system{
		distribution: report.Distribution, osRelease: release, packages: packages, guests: guestsIn(report),
		kernelVersion: from.Kernel.Version, kernel: kernel, modules: modules, commandLine: converting + line, table: table,
		root: root, hashes: hashes, from: map[string]string{"kernel": hex.EncodeToString(kernelSum[:]), "image": digest.SHA256},
	})
}

// guestsIn says for each TEE what the check said: why not, or which driver the kernel has.
func guestsIn(r *check.Report) (out []Guest) {
	drivers := map[check.TEE]string{check.SEVSNP: "IMG-KERNEL-SNP", check.TDX: "IMG-KERNEL-TDX"}
	for _, f := range r.Fits {
		g := Guest{TEE: string(f.TEE), Supported: f.Verdict == check.Pass, Reason: "needs no guest driver"}
		id := drivers[f.TEE]
		if !g.Supported {
			id = f.Because[0]
		}
		for _, x := range r.Findings {
			if x.ID == id {
				g.Reason = x.Reason
			}
		}
		out = append(out, g)
	}
	return out
}

// copyRoot writes the file system to a new sparse file. What was deleted in it does not come along.
func copyRoot(ctx context.Context, path string, from *check.Image) error {
	content, size := from.RootContent()
	if size > maxConverted {
		return evidence.Refuse(evidence.CodeUnsupported, "root/size", fmt.Sprintf("%d bytes", size), fmt.Sprintf("at most %d (resize2fs -M makes it small)", int64(maxConverted)))
	}
	f, err := ext4.Open(content, size)
	if err != nil {
		return err
	}
	if f.BlockSize != rootfs.BlockSize || size%rootfs.BlockSize != 0 {
		return evidence.Refuse(evidence.CodeUnsupported, "root/blockSize", fmt.Sprintf("%d bytes", f.BlockSize), fmt.Sprint(rootfs.BlockSize))
	}
	allocation := f.Allocation()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		return err
	}
	const perRead = 256 // blocks
	buf, zero := make([]byte, perRead*rootfs.BlockSize), make([]byte, rootfs.BlockSize)
	for at := int64(0); at < size; at += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(int64(len(buf)), size-at)]
		if n, err := content.ReadAt(part, at); n < len(part) {
			return fmt.Errorf("reading the root: %w", err)
		}
		for b := 0; b < len(part); b += rootfs.BlockSize {
			block := part[b : b+rootfs.BlockSize]
			free, err := allocation.Free(uint64(at+int64(b)) / rootfs.BlockSize)
			if err != nil {
				return err
			}
			if free || string(block) == string(zero) {
				continue
			}
			if _, err := out.WriteAt(block, at+int64(b)); err != nil {
				return err
			}
		}
	}
	return out.Close()
}

// Bounds, in bytes: of dpkg's list of packages and of modules.dep, and of all modules in the initial RAM disk.
const (
	maxStatus  = 32 << 20
	maxModules = 32 << 20
)

// packagesOf lists a Debian root's packages; other distributions' are not listed.
func packagesOf(root fs.FS) ([]Package, error) {
	f, err := root.Open("var/lib/dpkg/status")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStatus+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxStatus {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "var/lib/dpkg/status", "a longer list", fmt.Sprintf("at most %d bytes", maxStatus))
	}
	return installed(string(b)), nil
}

// Modules for init beside initrd.Modules, where a kernel has them as modules and not built in: the root's file system
// with its checksums, the vTPM, and the hash of dm-verity.
var (
	alsoNeeded = []string{"tpm_crb", "ext4"}
	wherePart  = []string{"crc32c_generic", "crc32c_intel", "sha256_generic", "sha256_ssse3"}
)

// initrdModules takes from the image the modules that init loads, in order, without compression.
func initrdModules(ctx context.Context, from *check.Image) ([]initrd.Module, error) {
	dir := from.Kernel.Modules()
	f, err := from.Root.Open(dir + "/modules.dep")
	if err != nil {
		return nil, fmt.Errorf("modules.dep (depmod makes it): %w", err)
	}
	defer f.Close()
	deps, err := initrd.ParseDependencies(io.LimitReader(f, maxStatus))
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(from.Root, dir+"/modules.builtin")
	if err != nil {
		return nil, err
	}
	builtin := initrd.Builtin(string(text))
	names := append([]string{}, wherePart...)
	for i := len(names) - 1; i >= 0; i-- {
		if !deps.Has(names[i]) {
			names = append(names[:i], names[i+1:]...)
		}
	}
	names = append(append(names, initrd.Modules...), alsoNeeded...)
	order, err := deps.Order(names, builtin)
	if err != nil {
		return nil, err
	}
	var out []initrd.Module
	left := maxModules
	for _, p := range order {
		if !fs.ValidPath(p) {
			return nil, evidence.Refuse(evidence.CodeParse, "modules.dep", fmt.Sprintf("%q", p), "a path below "+dir)
		}
		raw, err := readModule(ctx, from.Root, dir+"/"+p)
		if err != nil {
			return nil, fmt.Errorf("module %q: %w", p, err)
		}
		if left -= len(raw); left < 0 {
			return nil, evidence.Refuse(evidence.CodeUnsupported, "modules.dep", "more modules", fmt.Sprintf("at most %d bytes of them", maxModules))
		}
		name, ok := check.ModuleName(p)
		if !ok {
			return nil, evidence.Refuse(evidence.CodeUnsupported, "modules.dep", fmt.Sprintf("%q", p), "a module's file")
		}
		out = append(out, initrd.Module{Name: name + ".ko", Data: raw})
	}
	return out, nil
}
