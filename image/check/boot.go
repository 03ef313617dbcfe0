package check

import (
	"context"
	"io/fs"
	"path"
	"strings"

	"cloister.dev/cloister/image/uki"
)

func judgeBoot(_ context.Context, i *Image) (judgement, error) {
	const remedy = "converting makes a unified kernel image, signed with the installation's own keys"
	if i.table == nil || i.espErr != nil {
		return warn(remedy, "nothing that firmware could start was found"), nil
	}
	var images, shims, grubs, unsigned []string
	for _, l := range i.loaders {
		name := strings.ToLower(path.Base(l.path))
		switch {
		case l.sections != nil:
			images = append(images, l.path)
		case strings.HasPrefix(name, "shim"):
			shims = append(shims, l.path)
		case strings.HasPrefix(name, "grub"), strings.HasPrefix(name, "systemd-boot"):
			grubs = append(grubs, l.path)
		default:
			continue
		}
		if l.signatures == 0 {
			unsigned = append(unsigned, l.path)
		}
	}
	chain := "unified kernel image " + strings.Join(images, ", ")
	switch {
	case len(images) > 0:
	case len(shims) > 0 && len(grubs) > 0:
		chain = "shim and boot loader"
	case len(grubs) > 0:
		chain = "boot loader " + strings.Join(grubs, ", ")
	default:
		return warn(remedy, "the system partition has no shim, boot loader or unified kernel image"), nil
	}
	if len(unsigned) > 0 {
		return warn(remedy, "%s; not signed: %s", chain, strings.Join(unsigned, ", ")), nil
	}
	return pass("%s, signed; by whom was not judged", chain), nil
}

// ours tells whether the image boots Cloister's initrd, from the system partition's unified kernel image.
func (i *Image) ours() bool {
	for _, l := range i.loaders {
		line, ok := uki.Find(l.sections, ".cmdline")
		if ok && strings.Contains(" "+string(line), " cloister.verity=") {
			return true
		}
	}
	return false
}

// commandLine is what the image gives its kernel, as far as its files tell: of unified kernel images, and of GRUB's settings.
func (i *Image) commandLine() (string, error) {
	var out []string
	for _, l := range i.loaders {
		if line, ok := uki.Find(l.sections, ".cmdline"); ok {
			out = append(out, string(line))
		}
	}
	files := []string{"etc/default/grub", "etc/kernel/cmdline"}
	more, err := list(i.Root, "etc/default/grub.d")
	if err != nil {
		return "", err
	}
	for _, e := range more {
		if strings.HasSuffix(e.Name(), ".cfg") {
			files = append(files, "etc/default/grub.d/"+e.Name())
		}
	}
	for _, name := range files {
		s, err := text(i.Root, name)
		if err != nil {
			return "", err
		}
		for _, l := range lines(s) {
			key, value, ok := strings.Cut(l, "=")
			switch {
			case name == "etc/kernel/cmdline":
				out = append(out, l)
			case ok && strings.HasPrefix(key, "GRUB_CMDLINE_LINUX"):
				out = append(out, strings.Trim(value, `"'`))
			}
		}
	}
	return strings.Join(out, " "), nil
}

func judgeConsole(_ context.Context, i *Image) (judgement, error) {
	line, err := i.commandLine()
	if err != nil {
		return judgement{}, err
	}
	if strings.Contains(line, "console=ttyS0") {
		return pass("the kernel's command line has console=ttyS0"), nil
	}
	there, err := exists(i.Root, "etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service")
	if err != nil {
		return judgement{}, err
	}
	if there {
		return pass("serial-getty@ttyS0 is enabled"), nil
	}
	return warn("converting boots with console=ttyS0", "the image has no console on the serial port"), nil
}

func judgeAgent(_ context.Context, i *Image) (judgement, error) {
	if i.ours() {
		return pass("Cloister's agent is in the unified kernel image"), nil
	}
	found, err := firstOf(i.Root, "usr/bin/cloud-init")
	if err != nil {
		return judgement{}, err
	}
	if found != "" {
		return pass("cloud-init"), nil
	}
	return warn("converting brings Cloister's agent", "there is neither cloud-init nor Cloister's agent"), nil
}

func judgeSSH(_ context.Context, i *Image) (judgement, error) {
	found, err := firstOf(i.Root, "usr/sbin/sshd", "sbin/sshd")
	if err != nil || found != "" {
		return pass("/%s", found), err
	}
	return warn("install openssh-server", "there is no sshd: nobody can sign in"), nil
}

// firstOf gives the first path that is there, or "".
func firstOf(root fs.FS, names ...string) (string, error) {
	for _, n := range names {
		if there, err := exists(root, n); err != nil || there {
			return n, err
		}
	}
	return "", nil
}
