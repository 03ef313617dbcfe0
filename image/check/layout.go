package check

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"cloister.dev/cloister/image/container"
)

func judgeFormat(_ context.Context, i *Image) (judgement, error) {
	if i.disk.ReaderAt == nil {
		return fail("make it "+i.tableErr.Want, "%s is %s", i.tableErr.Field, i.tableErr.Got), nil
	}
	kind := string(i.disk.Format)
	if i.disk.Variant != "" {
		kind += ", " + i.disk.Variant
	}
	if len(i.disk.Notes) > 0 {
		return warn("qemu-img convert writes an image without them", "%s, with %s", kind, strings.Join(i.disk.Notes, ", ")), nil
	}
	return pass("%s", kind), nil
}

const mib = 1 << 20

// judgeSize: Azure wants whole MiB of a VHD. Other formats have no way to Azure, and are laid out anew.
func judgeSize(_ context.Context, i *Image) (judgement, error) {
	if i.disk.ReaderAt == nil {
		return unknown("", "the disk cannot be read"), nil
	}
	n := i.disk.Size()
	switch {
	case n%mib == 0:
		return pass("%d MiB", n/mib), nil
	case i.disk.Format == container.VHD:
		return fail(fmt.Sprintf("qemu-img resize to %d MiB before it is converted to VHD with force_size", n/mib+1), "%d bytes are no whole MiB", n), nil
	}
	return warn(fmt.Sprintf("qemu-img resize to %d MiB", n/mib+1), "%d bytes are no whole MiB: converting rounds up", n), nil
}

func judgeTable(_ context.Context, i *Image) (judgement, error) {
	switch {
	case i.disk.ReaderAt == nil:
		return unknown("", "the disk cannot be read"), nil
	case i.table == nil:
		return fail(i.tableErr.Want, "the disk has %s", i.tableErr.Got), nil
	}
	return pass("both copies agree on %d partitions that do not overlap", len(i.table.Partitions)), nil
}

func judgeSystemPartition(_ context.Context, i *Image) (judgement, error) {
	switch {
	case i.table == nil:
		return unknown("", "there is no partition table"), nil
	case i.espErr != nil:
		return warn("converting makes one", "%s", i.espErr.Got), nil
	}
	return pass("FAT with %d files", len(i.esp)), nil
}

func judgeRoot(_ context.Context, i *Image) (judgement, error) {
	if i.table == nil {
		return unknown("", "there is no partition table"), nil
	}
	if i.Root == nil {
		return fail(i.rootErr.Want, "%s: %s", i.rootErr.Field, i.rootErr.Got), nil
	}
	if !i.fourKiB {
		return fail("mke2fs -b 4096", "partition %d has smaller blocks than 4096 bytes", i.rootPart.Number), nil
	}
	return pass("partition %d, %d MiB", i.rootPart.Number, i.rootSize/mib), nil
}

func judgeDistribution(_ context.Context, i *Image) (judgement, error) {
	name := i.distribution()
	for _, id := range append([]string{i.osRelease["ID"]}, strings.Fields(i.osRelease["ID_LIKE"])...) {
		if id == "debian" || id == "ubuntu" {
			return pass("%s", name), nil
		}
	}
	if name == "" {
		return warn("", "the image has no os-release"), nil
	}
	return warn("Debian, Ubuntu, or one that is like them", "%s was not tried", name), nil
}

func judgeInit(_ context.Context, i *Image) (judgement, error) {
	const remedy = "install systemd-sysv"
	name := "usr/lib/systemd/systemd"
	if there, err := exists(i.Root, name); err != nil {
		return judgement{}, err
	} else if !there {
		name = "lib/systemd/systemd"
	}
	o, err := i.Root.Open(name)
	if err != nil {
		return fail(remedy, "there is no systemd"), missing(err)
	}
	defer o.Close()
	r, ok := o.(io.ReaderAt)
	if !ok {
		return judgement{}, fmt.Errorf("%s cannot be read at offsets", name)
	}
	var head [20]byte
	if _, err := r.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return judgement{}, err
	}
	if string(head[:4]) != elf.ELFMAG || head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || elf.Machine(head[18]) != elf.EM_X86_64 || head[19] != 0 {
		return fail("an image for amd64", "/%s is no program for x86-64", name), nil
	}
	if there, err := exists(i.Root, "sbin/init"); err != nil || !there {
		return fail(remedy, "there is no /sbin/init"), err
	}
	return pass("/%s", name), nil
}

// mount is a line of fstab.
type mount struct{ what, where, kind, options string }

func fstab(root fs.FS) ([]mount, error) {
	s, err := text(root, "etc/fstab")
	if err != nil {
		return nil, err
	}
	var out []mount
	for _, l := range lines(s) {
		if f := strings.Fields(l); len(f) >= 3 {
			m := mount{what: f[0], where: f[1], kind: f[2]}
			if len(f) > 3 {
				m.options = f[3]
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// lines are a configuration file's, without comments and blanks.
func lines(s string) (out []string) {
	for _, l := range strings.Split(s, "\n") {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' && l[0] != ';' {
			out = append(out, l)
		}
	}
	return out
}

// virtual file systems lie on no disk.
var virtual = map[string]bool{"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "devtmpfs": true, "efivarfs": true, "debugfs": true, "securityfs": true, "cgroup2": true, "swap": true, "overlay": true, "bpf": true, "mqueue": true, "hugetlbfs": true}

func judgeMounts(_ context.Context, i *Image) (judgement, error) {
	line, err := i.commandLine()
	if err != nil {
		return judgement{}, err
	}
	if i.ours() && strings.Contains(" "+line+" ", " fstab=no ") {
		return pass("the signed command line says fstab=no"), nil
	}
	mounts, err := fstab(i.Root)
	if err != nil {
		return judgement{}, err
	}
	var others, gone []string
	for _, m := range mounts {
		switch {
		case virtual[m.kind], m.where == "/", m.where == "none", m.options == "noauto", strings.Contains(","+m.options+",", ",bind,"), tempDisk(m):
		case m.where == "/boot", m.where == "/boot/efi", m.where == "/efi", strings.Contains(","+m.options+",", ",nofail,"):
			gone = append(gone, m.where)
		default:
			others = append(others, m.where+" ("+m.what+")")
		}
	}
	if len(others) > 0 {
		return fail("move it onto the root: only that becomes the VM's encrypted volume", "/etc/fstab mounts %s", printable(strings.Join(others, ", "))), nil
	}
	if len(gone) > 0 {
		return warn("converting boots with fstab=no", "/etc/fstab mounts %s, which the VM's disk does not have", printable(strings.Join(gone, ", "))), nil
	}
	return pass("/etc/fstab mounts nothing else"), nil
}
