package check

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/container"
	"cloister.dev/cloister/image/ext4"
	"cloister.dev/cloister/image/fat"
	"cloister.dev/cloister/image/partition"
	"cloister.dev/cloister/image/uki"
)

// Bounds on what is read into memory of one file.
const (
	maxText   = 1 << 20
	maxKernel = 128 << 20
	maxEFI    = 64 << 20
	maxAllEFI = 256 << 20 // of all EFI programs together
)

// Image is an opened disk image.
type Image struct {
	Root   fs.FS   // the distribution's root; nil where there is none that can be read
	Boot   fs.FS   // what is at /boot: a folder of the root, or a partition of its own
	Kernel *Kernel // the newest one; nil where there is none

	disk      *container.Disk
	table     *partition.Table
	rootPart  partition.Partition
	rootSize  int64             // of the file system, in bytes
	fourKiB   bool              // the root's blocks have 4096 bytes
	tableErr  *evidence.Refusal // why there is no table
	rootErr   *evidence.Refusal // why there is no root
	espErr    *evidence.Refusal
	esp       []fat.File
	loaders   []loader
	seen      []string // what partitions hold, for people
	osRelease map[string]string
}

// loader is an EFI program of the system partition.
type loader struct {
	path       string
	signatures int
	sections   []uki.Section // of a unified kernel image; nil for others
}

// RootContent reads the root's file system, with its size in bytes, which may be less than its partition's.
func (i *Image) RootContent() (io.ReaderAt, int64) { return i.rootPart.Content(i.disk), i.rootSize }

// Open reads container, partition table and file systems. It refuses by CodeParse what is damaged; what is sound and
// not fit opens, and its report says so.
func Open(f io.ReaderAt, size int64) (*Image, error) {
	disk, err := container.Open(f, size)
	if err != nil {
		var r *evidence.Refusal
		if errors.As(err, &r) && r.Code == evidence.CodeUnsupported {
			return &Image{disk: &container.Disk{Format: "not read"}, tableErr: r, rootErr: r}, nil
		}
		return nil, err
	}
	i := &Image{disk: disk}
	i.table, err = partition.Read(disk, disk.Size())
	if i.tableErr, err = notTaken(err); err != nil {
		return nil, err
	}
	if i.table == nil {
		i.rootErr = evidence.Refuse(evidence.CodeUnsupported, "root", "no partitions", "a partition with the root")
		return i, nil
	}
	if err := i.findSystemPartition(); err != nil {
		return nil, fmt.Errorf("the system partition: %w", err)
	}
	if err := i.findRoot(); err != nil {
		return nil, err
	}
	if i.Root == nil {
		return i, nil
	}
	if i.osRelease, err = readRelease(i.Root); err != nil {
		return nil, err
	}
	i.Kernel, err = findKernel(i)
	return i, err
}

// notTaken separates what is sound and not taken from what is damaged.
func notTaken(err error) (*evidence.Refusal, error) {
	var r *evidence.Refusal
	if errors.As(err, &r) && r.Code == evidence.CodeUnsupported {
		return r, nil
	}
	return nil, err
}

func (i *Image) findSystemPartition() error {
	esps := i.table.Of(partition.TypeESP)
	if len(esps) != 1 {
		got := fmt.Sprintf("%d of them", len(esps))
		if len(esps) == 0 {
			got = "none"
		}
		i.espErr = evidence.Refuse(evidence.CodeUnsupported, "system partition", got, "one")
		return nil
	}
	f, err := fat.Open(esps[0].Content(i.disk), esps[0].Size())
	if err != nil {
		return err
	}
	if i.esp, err = f.Files(); err != nil {
		return err
	}
	left := int64(maxAllEFI)
	for _, x := range i.esp {
		if !strings.EqualFold(path.Ext(x.Path), ".efi") {
			continue
		}
		if left -= x.Size; left < 0 || x.Size > maxEFI {
			i.espErr = evidence.Refuse(evidence.CodeUnsupported, "system partition", "larger programs", fmt.Sprintf("at most %d bytes each, and %d in all", maxEFI, maxAllEFI))
			i.loaders = nil
			return nil
		}
		raw, err := f.Read(x, maxEFI)
		if err != nil {
			return err
		}
		n, err := uki.Signatures(raw)
		if err != nil {
			continue // no program for this machine: others' firmwares ship some
		}
		l := loader{path: x.Path, signatures: n}
		if sections, err := uki.Sections(raw); err == nil {
			if _, ok := uki.Find(sections, ".linux"); ok {
				l.sections = sections
			}
		}
		i.loaders = append(i.loaders, l)
	}
	return nil
}

// findRoot looks for the one file system with a distribution in it, and for a partition with kernels beside it.
func (i *Image) findRoot() error {
	var boot fs.FS
	for _, p := range i.table.Partitions {
		content := p.Content(i.disk)
		kind := fileSystem(content)
		i.seen = append(i.seen, fmt.Sprintf("partition %d: %s", p.Number, kind))
		if kind != "ext4" {
			continue
		}
		f, err := ext4.Open(content, p.Size())
		refused, err := notTaken(err)
		if err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
		if refused != nil {
			i.rootErr = refused
			continue
		}
		isRoot, err := exists(f, "etc/passwd")
		if err != nil {
			return err
		}
		if !isRoot {
			if kernels, err := kernelsIn(f); err != nil {
				return err
			} else if len(kernels) > 0 {
				boot = f
			}
			continue
		}
		if i.Root != nil {
			i.Root = nil
			i.rootErr = evidence.Refuse(evidence.CodeUnsupported, "root", fmt.Sprintf("partitions %d and %d", i.rootPart.Number, p.Number), "one partition with a distribution")
			return nil
		}
		i.Root, i.rootPart, i.rootSize, i.fourKiB = f, p, f.Size(), f.BlockSize == 4096
	}
	if i.Root == nil {
		if i.rootErr == nil {
			i.rootErr = evidence.Refuse(evidence.CodeUnsupported, "root", strings.Join(i.seen, ", "), "a distribution on ext4, in a partition of its own")
		}
		return nil
	}
	i.rootErr = nil
	var err error
	if i.Boot, err = fs.Sub(i.Root, "boot"); err != nil {
		return err
	}
	if boot != nil {
		i.Boot = boot
	}
	return nil
}

// signatures of what else partitions hold, by offset.
var signatures = []struct {
	at    int64
	magic string
	name  string
}{
	{0, "XFSB", "XFS"}, {0x10040, "_BHRfS_M", "btrfs"}, {0, "LUKS\xba\xbe", "LUKS"}, {512, "LABELONE", "LVM"}, {0, "hsqs", "squashfs"}, {1024, "\xe2\xe1\xf5\xe0", "EROFS"},
	{4086, "SWAPSPACE2", "swap"}, {4086, "SWAP-SPACE", "swap"}, {0, "verity\x00\x00", "dm-verity's hash tree"}, {510, "\x55\xaa", "a boot sector"},
}

func fileSystem(r io.ReaderAt) string {
	if ext4.Is(r) {
		return "ext4"
	}
	for _, s := range signatures {
		b := make([]byte, len(s.magic))
		if _, err := r.ReadAt(b, s.at); err == nil && string(b) == s.magic {
			return s.name
		}
	}
	return "nothing known"
}

// exists tells of a file, through links.
func exists(f fs.FS, name string) (bool, error) {
	_, err := fs.Stat(f, name)
	return err == nil, missing(err)
}

// missing forgets that a file is not there. A path through a file, or links in a circle, are not there either.
func missing(err error) error {
	for _, gone := range []error{fs.ErrNotExist, syscall.ELOOP, syscall.ENOTDIR, syscall.ENAMETOOLONG} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// text reads a file of at most maxText bytes; one that is not there is empty.
func text(f fs.FS, name string) (string, error) {
	b, err := read(f, name, maxText)
	return string(b), missing(err)
}

// read reads a file of at most so many bytes.
func read(f fs.FS, name string, most int64) ([]byte, error) {
	o, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	info, err := o.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if info.Size() > most {
		return nil, evidence.Refuse(evidence.CodeUnsupported, name, fmt.Sprintf("%d bytes", info.Size()), fmt.Sprintf("at most %d", most))
	}
	var b bytes.Buffer
	b.Grow(int(info.Size()))
	_, err = io.Copy(&b, io.LimitReader(o, most))
	return b.Bytes(), err
}

// list gives a folder's entries; none where it is not there.
func list(f fs.FS, name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f, name)
	return entries, missing(err)
}

func readRelease(root fs.FS) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		s, err := text(root, name)
		if err != nil {
			return nil, err
		}
		if s == "" {
			continue
		}
		for _, l := range strings.Split(s, "\n") {
			if k, v, ok := strings.Cut(l, "="); ok {
				out[k] = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
		return out, nil
	}
	return out, nil
}

// OSRelease is the text of the distribution's os-release.
func (i *Image) OSRelease() (string, error) {
	s, err := text(i.Root, "etc/os-release")
	if s == "" && err == nil {
		s, err = text(i.Root, "usr/lib/os-release")
	}
	return s, err
}

func (i *Image) distribution() string {
	if n := i.osRelease["PRETTY_NAME"]; n != "" {
		return printable(n)
	}
	return printable(i.osRelease["ID"])
}

// printable takes out what a terminal would act on, and cuts what is too long.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return Clean(s)
}

// Clean takes out what a terminal would act on: names in a stranger's image may hold anything.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
