package check

import (
	"context"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// settings reads "Key=value" lines; the last one of a key counts. Keys are in small letters.
func settings(root fs.FS, name string) (map[string]string, error) {
	s, err := text(root, name)
	out := map[string]string{}
	for _, l := range lines(s) {
		if k, v, ok := strings.Cut(l, "="); ok {
			out[strings.ToLower(strings.TrimSpace(k))] = strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return out, err
}

// on tells whether a setting of Azure's agent says yes.
func on(value string) bool { return strings.EqualFold(value, "y") || strings.EqualFold(value, "true") }

const waagent = "etc/waagent.conf"

// tempDisk tells a line of fstab about Azure's temporary disk.
func tempDisk(m mount) bool {
	return strings.HasPrefix(m.what, "/dev/disk/cloud/azure_resource") || m.where == "/mnt/resource" || strings.Contains(m.options, "comment=cloudconfig")
}

// swapFiles are places where installers put them.
var swapFiles = []string{"swapfile", "swap.img", "swap", "var/swap", "var/swapfile", "swap/swapfile"}

// judgeSwap: what is swapped to a partition is on the host's disk in clear; a swap file lies on the encrypted root.
func judgeSwap(_ context.Context, i *Image) (judgement, error) {
	const remedy = "take it out; zram swaps inside of memory"
	var disks, files []string
	mounts, err := fstab(i.Root)
	if err != nil {
		return judgement{}, err
	}
	for _, m := range mounts {
		if m.kind != "swap" {
			continue
		}
		if strings.HasPrefix(m.what, "/") && !strings.HasPrefix(m.what, "/dev/") {
			files = append(files, m.what)
		} else {
			disks = append(disks, "/etc/fstab's "+m.what)
		}
	}
	units, err := swapUnits(i.Root)
	if err != nil {
		return judgement{}, err
	}
	disks = append(disks, units...)
	agent, err := settings(i.Root, waagent)
	if err != nil {
		return judgement{}, err
	}
	if on(agent["resourcedisk.enableswap"]) {
		disks = append(disks, "/"+waagent+"'s ResourceDisk.EnableSwap")
	}
	for _, name := range swapFiles {
		if is, err := isSwap(i.Root, name); err != nil {
			return judgement{}, err
		} else if is {
			files = append(files, "/"+name)
		}
	}
	for _, p := range i.table.Partitions {
		if fileSystem(p.Content(i.disk)) == "swap" {
			disks = append(disks, "partition "+p.Name)
		}
	}
	switch {
	case len(disks) > 0:
		return fail(remedy, "swap on a disk that is not encrypted: %s", printable(strings.Join(disks, ", "))), nil
	case len(files) > 0:
		return warn(remedy, "swap in a file, which is encrypted only where the OS disk is: %s", printable(strings.Join(files, ", "))), nil
	}
	return pass("no swap in /etc/fstab, units, agents' settings, partitions or the usual files"), nil
}

func isSwap(root fs.FS, name string) (bool, error) {
	o, err := root.Open(name)
	if err != nil {
		return false, missing(err)
	}
	defer o.Close()
	info, err := o.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < 4096 {
		return false, err
	}
	head := make([]byte, 4096)
	for n := 0; n < len(head); {
		m, err := o.Read(head[n:])
		if err != nil {
			return false, err
		}
		n += m
	}
	return string(head[4086:]) == "SWAPSPACE2" || string(head[4086:]) == "SWAP-SPACE", nil
}

var swapWhat = regexp.MustCompile(`(?m)^\s*What\s*=\s*(\S+)`)

// swapUnits are systemd's units that swap to devices other than compressed memory.
func swapUnits(root fs.FS) (out []string, err error) {
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system"} {
		entries, err := list(root, dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if path.Ext(e.Name()) != ".swap" {
				continue
			}
			s, err := text(root, path.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			if m := swapWhat.FindStringSubmatch(s); m != nil && !strings.HasPrefix(m[1], "/dev/zram") {
				out = append(out, e.Name())
			}
		}
	}
	return out, nil
}

var resume = regexp.MustCompile(`(?:^|\s)resume=(\S+)`)

func judgeHibernation(_ context.Context, i *Image) (judgement, error) {
	line, err := i.commandLine()
	if err != nil {
		return judgement{}, err
	}
	hook, err := text(i.Root, "etc/initramfs-tools/conf.d/resume")
	if err != nil {
		return judgement{}, err
	}
	for from, s := range map[string]string{"the kernel's command line": line, "/etc/initramfs-tools/conf.d/resume": strings.ToLower(hook)} {
		if m := resume.FindStringSubmatch(s); m != nil && m[1] != "none" {
			return warn("converting replaces both; take it out of the image all the same", "%s resumes from %s", from, printable(m[1])), nil
		}
	}
	return pass("nothing resumes from a disk"), nil
}

func judgeTempDisk(_ context.Context, i *Image) (judgement, error) {
	const remedy = "keep nothing there: the temporary disk is not encrypted, and VMs here have none"
	mounts, err := fstab(i.Root)
	if err != nil {
		return judgement{}, err
	}
	for _, m := range mounts {
		if tempDisk(m) {
			return warn(remedy, "/etc/fstab mounts %s", printable(m.what)), nil
		}
	}
	agent, err := settings(i.Root, waagent)
	if err != nil {
		return judgement{}, err
	}
	if on(agent["resourcedisk.format"]) {
		return warn(remedy, "/%s formats it", waagent), nil
	}
	files := []string{"etc/cloud/cloud.cfg"}
	more, err := list(i.Root, "etc/cloud/cloud.cfg.d")
	if err != nil {
		return judgement{}, err
	}
	for _, e := range more {
		if path.Ext(e.Name()) == ".cfg" {
			files = append(files, "etc/cloud/cloud.cfg.d/"+e.Name())
		}
	}
	for _, name := range files {
		s, err := text(i.Root, name)
		if err != nil {
			return judgement{}, err
		}
		for _, l := range lines(s) {
			if strings.Contains(l, "ephemeral0") {
				return warn(remedy, "/%s sets it up", name), nil
			}
		}
	}
	return pass("no setting of fstab, Azure's agent or cloud-init names it"), nil
}

// judgeTime: a clock that the host steers makes what has expired valid again.
func judgeTime(_ context.Context, i *Image) (judgement, error) {
	const remedy = "take the refclock out, and name time servers of the network"
	files := []string{"etc/chrony/chrony.conf", "etc/chrony.conf"}
	for _, dir := range []string{"etc/chrony/conf.d", "etc/chrony/sources.d", "etc/chrony.d"} {
		more, err := list(i.Root, dir)
		if err != nil {
			return judgement{}, err
		}
		for _, e := range more {
			files = append(files, dir+"/"+e.Name())
		}
	}
	for _, name := range files {
		s, err := text(i.Root, name)
		if err != nil {
			return judgement{}, err
		}
		for _, l := range lines(s) {
			if f := strings.Fields(l); len(f) > 1 && strings.EqualFold(f[0], "refclock") {
				return warn(remedy, "/%s takes time from %s", name, printable(strings.Join(f[1:], " "))), nil
			}
		}
	}
	daemon, err := firstOf(i.Root, "usr/sbin/chronyd", "usr/lib/systemd/systemd-timesyncd", "lib/systemd/systemd-timesyncd", "usr/sbin/ntpd")
	if err != nil {
		return judgement{}, err
	}
	if daemon == "" {
		return warn("install chrony", "nothing sets the clock: it is the host's"), nil
	}
	return pass("/%s, without a clock of the host", daemon), nil
}
