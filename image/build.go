package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/image/rootfs"
	"cloister.dev/cloister/image/verity"
)

// Epoch is the time of all files in an image, and SOURCE_DATE_EPOCH of its build.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Fixed names inside of images: none of them is secret, and random ones would make each build differ.
const (
	rootUUID     = "c1015e12-0000-4000-8000-000000000102"
	rootHashSeed = "c1015e12-0000-4000-8000-000000000202"
	verityUUID   = "c1015e12-0000-4000-8000-000000000103"
	slackMiB     = 48
	// recipeVersion changes when the code that makes the root does, so that no stale cache is used.
	recipeVersion = "2"
)

// Files of packages that a build reads unless told otherwise.
const (
	DefaultStub  = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub" // package systemd-boot-efi
	DefaultVars  = "/usr/share/OVMF/OVMF_VARS_4M.fd"             // package ovmf
	defaultApt   = "/etc/apt"
	defaultSuite = "bookworm"
	kernelMeta   = "linux-image-cloud-amd64"
	version      = "1"
)

// BuildOptions say what to build. Zero values of the second group mean the machine's own.
type BuildOptions struct {
	Out            string // folder of the image; made, or replaced as a whole
	GuestBinary    string // cloister-guest, static
	SecureBootKeys string // folder of the installation's keys; made at the first build
	Progress       func(step string)

	Name    string // of the image; Default
	Suite   string // Debian's code name; "bookworm"
	Mirror  string // URL or apt sources text; the machine's apt sources for the suite
	Stub    string // DefaultStub
	Vars    string // DefaultVars
	Refresh bool   // install the distribution anew although one is cached
	Cache   string // Out/../.cache
}

func (o *BuildOptions) complete() error {
	for _, need := range []struct{ name, value string }{{"Out", o.Out}, {"GuestBinary", o.GuestBinary}, {"SecureBootKeys", o.SecureBootKeys}} {
		if need.value == "" {
			return fmt.Errorf("building an image: no %s", need.name)
		}
	}
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&o.Name, Default)
	set(&o.Suite, defaultSuite)
	set(&o.Stub, DefaultStub)
	set(&o.Vars, DefaultVars)
	set(&o.Cache, filepath.Join(filepath.Dir(filepath.Clean(o.Out)), ".cache"))
	if !plainName.MatchString(o.Name) {
		return fmt.Errorf("building an image: name %q: want %s", o.Name, plainName)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// base is what is cached: all that does not change with the guest program or the keys.
type base struct {
	Distribution string            `json:"distribution"`
	OSRelease    string            `json:"osRelease"`
	Verity       string            `json:"verity"`
	KernelSHA256 string            `json:"kernelSHA256"`
	Packages     []Package         `json:"packages"`
	Files        map[string]string `json:"files"` // SHA-256 of the cached files

	dir string
}

const (
	baseFile   = "base.json"
	imageFile  = "root.ext4"
	hashFile   = "root.verity"
	kernelFile = "kernel"
)

// Build makes an image. The distribution is installed once and cached; with a changed guest program only the
// kernel image and the disk are made anew. When ctx ends, nothing is left behind but the cache.
func Build(ctx context.Context, o BuildOptions) (*Manifest, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("building image %s: %w", o.Name, err)
	}
	m, err := build(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("building image %s: %w", o.Name, err)
	}
	return m, nil
}

func build(ctx context.Context, o BuildOptions) (*Manifest, error) {
	p, err := readParts(o.GuestBinary, o.Stub, o.Vars, o.SecureBootKeys)
	if err != nil {
		return nil, err
	}
	b, err := ensureBase(ctx, o)
	if err != nil {
		return nil, err
	}
	kernel, err := rootfs.LoadKernel(ctx, filepath.Join(b.dir, kernelFile))
	if err != nil {
		return nil, err
	}
	modules, err := kernel.InitrdModules()
	if err != nil {
		return nil, err
	}
	table, err := verity.ParseTable(b.Verity)
	if err != nil {
		return nil, err
	}
	return p.image(ctx, target{o.Name, o.Out, o.Cache, o.Progress}, system{
		distribution: b.Distribution, osRelease: b.OSRelease, packages: b.Packages, guests: guestsOf(kernel.Config),
		kernelVersion: kernel.Version, kernel: kernel.Image, modules: modules, commandLine: CommandLine(table), table: table,
		root: filepath.Join(b.dir, imageFile), hashes: filepath.Join(b.dir, hashFile), from: map[string]string{"kernel": b.KernelSHA256},
	})
}

// replace puts a finished folder in another's place; a reader sees the old or the new one, or for a moment none.
func replace(from, to string) error {
	if err := os.Chmod(from, 0o755); err != nil {
		return err
	}
	old := from + ".old"
	if err := os.Rename(to, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing the image: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("putting the image in place: %w", err)
	}
	return os.RemoveAll(old)
}

// ensureBase finds the installed distribution in the cache, or makes it.
func ensureBase(ctx context.Context, o BuildOptions) (*base, error) {
	sources := o.Mirror
	switch {
	case sources == "":
		var err error
		if sources, err = rootfs.HostSources(defaultApt, o.Suite); err != nil {
			return nil, err
		}
	case !strings.ContainsAny(sources, " \n"):
		sources = fmt.Sprintf("deb %s %s main\n", sources, o.Suite)
	}
	key := sum([]byte(strings.Join(append([]string{recipeVersion, o.Suite, sources, kernelMeta}, append(rootfs.Packages, rootfs.KernelModules...)...), "\x00")))
	dir := filepath.Join(o.Cache, "base-"+key[:16])
	if !o.Refresh {
		b, err := loadBase(dir)
		if err == nil {
			o.Progress("using the distribution in the cache")
			return b, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			o.Progress("the cached distribution is damaged (" + err.Error() + "): making it anew")
		}
	}
	work, err := os.MkdirTemp(o.Cache, "base-work-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := makeBase(ctx, o, sources, work); err != nil {
		return nil, err
	}
	if err := replace(work, dir); err != nil {
		return nil, err
	}
	return loadBase(dir)
}

func loadBase(dir string) (*base, error) {
	text, err := os.ReadFile(filepath.Join(dir, baseFile))
	if err != nil {
		return nil, err
	}
	b := &base{dir: dir}
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("reading the cache: %w", err)
	}
	for _, name := range []string{imageFile, hashFile} {
		f, err := describe(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if b.Files[name] != f.SHA256 {
			return nil, fmt.Errorf("%s has changed", name)
		}
	}
	return b, nil
}

func makeBase(ctx context.Context, o BuildOptions, sources, work string) error {
	recipe := rootfs.Recipe{Suite: o.Suite, Sources: sources, Packages: rootfs.Packages, Kernel: kernelMeta, Epoch: Epoch}
	o.Progress("installing " + o.Suite + " (needs the package mirror)")
	archive := filepath.Join(work, "root.tar")
	// mmdebstrap in a user namespace must reach its temporary folder.
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := rootfs.Debootstrap(ctx, recipe, archive, os.TempDir()); err != nil {
		return err
	}
	o.Progress("making the root file system")
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	tree, err := rootfs.ReadTar(f)
	f.Close()
	if err != nil {
		return err
	}
	if err := os.Remove(archive); err != nil {
		return err
	}
	b := base{Files: map[string]string{}}
	var debs []string
	for _, p := range tree.Paths() {
		if strings.HasPrefix(p, rootfs.KernelDir+"/") && strings.HasSuffix(p, ".deb") {
			debs = append(debs, p)
		}
	}
	if len(debs) != 1 {
		return fmt.Errorf("the mirror gave %d kernel packages, want 1", len(debs))
	}
	b.KernelSHA256 = sum(tree[debs[0]].Data)
	deb := filepath.Join(work, "kernel.deb")
	if err := os.WriteFile(deb, tree[debs[0]].Data, 0o600); err != nil {
		return err
	}
	kernelDir := filepath.Join(work, kernelFile)
	kernel, err := rootfs.UnpackKernel(ctx, deb, kernelDir)
	if err != nil {
		return err
	}
	if err := os.Remove(deb); err != nil {
		return err
	}
	b.Packages = installed(string(tree["var/lib/dpkg/status"].Data))
	b.OSRelease = string(tree["usr/lib/os-release"].Data)
	b.Distribution = prettyName(b.OSRelease)
	if len(b.Packages) == 0 || b.Distribution == "" {
		return fmt.Errorf("the new root has no package list or no os-release")
	}
	if err := rootfs.Settle(tree); err != nil {
		return err
	}
	if err := kernel.AddModules(ctx, tree, work); err != nil {
		return err
	}
	image := filepath.Join(work, imageFile)
	fsys := rootfs.FileSystem{UUID: rootUUID, HashSeed: rootHashSeed, Label: "cloister-root", Time: Epoch, SlackMiB: slackMiB}
	if err := rootfs.WriteExt4(ctx, image, tree, fsys); err != nil {
		return err
	}
	o.Progress("making the hash tree")
	hashes := filepath.Join(work, hashFile)
	table, err := verity.Format(ctx, image, hashes, verityUUID)
	if err != nil {
		return err
	}
	b.Verity = table.String()
	for _, name := range []string{imageFile, hashFile} {
		f, err := describe(filepath.Join(work, name))
		if err != nil {
			return err
		}
		b.Files[name] = f.SHA256
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, baseFile), text, 0o644)
}

// installed lists the packages of dpkg's status file. One that was removed and left its settings is not installed.
func installed(status string) (out []Package) {
	for _, stanza := range strings.Split(status, "\n\n") {
		var p Package
		if strings.Contains(stanza, "\nStatus: ") && !strings.Contains(stanza, " installed\n") {
			continue
		}
		for _, l := range strings.Split(stanza, "\n") {
			if v, ok := strings.CutPrefix(l, "Package: "); ok {
				p.Name = v
			} else if v, ok := strings.CutPrefix(l, "Version: "); ok {
				p.Version = v
			}
		}
		if p.Name != "" {
			out = append(out, p)
		}
	}
	return out
}

func prettyName(osRelease string) string {
	for _, l := range strings.Split(osRelease, "\n") {
		if v, ok := strings.CutPrefix(l, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
