// Package doctor says what this machine has and lacks for Cloister, before anything is started.
package doctor

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/internal/sbin"
)

// State is how one finding stands.
type State string

// The states. Only Missing stops anything.
const (
	OK      State = "ok"
	Note    State = "note"
	Missing State = "missing"
)

// Finding is one thing looked at.
type Finding struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"`
}

// Needs is what a purpose needs of a machine.
type Needs struct {
	Tools   []Tool
	Files   []File
	DiskMiB uint64 // free where State lies
	State   string // folder
	Users   bool   // many user ids in one namespace, or root
}

// Tool is a program and the Debian package it comes from.
type Tool struct{ Name, Package, For string }

// File is a file and the package it comes from.
type File struct{ Path, Package, For string }

// ToRun is what running VMs in software mode needs.
func ToRun(state string) Needs {
	return Needs{State: state, DiskMiB: 4096,
		Tools: []Tool{{"qemu-system-x86_64", "qemu-system-x86", "runs the virtual machines"}, {"swtpm", "swtpm", "the vTPM of each VM"}},
		Files: []File{{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "ovmf", "UEFI firmware with Secure Boot"}},
	}
}

// ToBuildImages is what building the default image needs.
func ToBuildImages(state string) Needs {
	return Needs{State: state, DiskMiB: 6144, Users: true,
		Tools: []Tool{{"mmdebstrap", "mmdebstrap", "root file system"}, {"mke2fs", "e2fsprogs", "file system"}, {"debugfs", "e2fsprogs", "its files"},
			{"veritysetup", "cryptsetup-bin", "dm-verity tree"}, {"mcopy", "mtools", "EFI system partition"}, {"depmod", "kmod", "kernel modules"}},
		Files: []File{{"/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "systemd-boot-efi", "EFI stub of the kernel image"}, {"/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf", "UEFI variables"}},
	}
}

// ToConvertImages is what converting an image needs.
func ToConvertImages(state string) Needs {
	return Needs{State: state, DiskMiB: 6144,
		Tools: []Tool{{"veritysetup", "cryptsetup-bin", "dm-verity tree"}, {"mcopy", "mtools", "EFI system partition"}, {"xz", "xz-utils", "compressed kernel modules"}},
		Files: ToBuildImages(state).Files,
	}
}

// Look reports on each need.
func Look(needs ...Needs) []Finding {
	var found []Finding
	seen := map[string]bool{}
	add := func(f Finding) {
		if !seen[f.Name] {
			seen[f.Name] = true
			found = append(found, f)
		}
	}
	for _, n := range needs {
		for _, t := range n.Tools {
			add(tool(t))
		}
		for _, f := range n.Files {
			add(file(f))
		}
		add(disk(n.State, n.DiskMiB))
	}
	add(memory())
	add(Finding{Name: "processors", State: OK, Detail: strconv.Itoa(runtime.NumCPU())})
	add(kvm())
	add(tee())
	for _, n := range needs {
		if n.Users {
			add(machineUsers().finding())
		}
	}
	return found
}

// Err is nil when nothing is missing, and otherwise names everything that is.
func Err(found []Finding) error {
	var missing []string
	for _, f := range found {
		if f.State == Missing {
			missing = append(missing, fmt.Sprintf("%s: %s (%s)", f.Name, f.Detail, f.Mend))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this machine lacks:\n  %s", strings.Join(missing, "\n  "))
}

func tool(t Tool) Finding {
	path, err := sbin.Look(t.Name)
	if err != nil {
		return Finding{Name: t.Name, State: Missing, Detail: t.For, Mend: "apt-get install " + t.Package}
	}
	return Finding{Name: t.Name, State: OK, Detail: path}
}

func file(f File) Finding {
	if _, err := os.Stat(f.Path); err != nil {
		return Finding{Name: f.Path, State: Missing, Detail: f.For, Mend: "apt-get install " + f.Package}
	}
	return Finding{Name: f.Path, State: OK, Detail: f.For}
}

func disk(dir string, wantMiB uint64) Finding {
	name := "free disk space"
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			free := fs.Bavail * uint64(fs.Bsize) >> 20
			f := Finding{Name: name, State: OK, Detail: fmt.Sprintf("%d MiB in %s", free, dir)}
			if free < wantMiB {
				f.State, f.Mend = Missing, fmt.Sprintf("free %d MiB, or set CLOISTER_STATE to a folder elsewhere", wantMiB)
			}
			return f
		}
		up := filepath.Dir(dir)
		if up == dir {
			return Finding{Name: name, State: Missing, Detail: err.Error(), Mend: "choose a state folder that exists"}
		}
		dir = up
	}
}

func memory() Finding {
	const want = 1536
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return Finding{Name: "memory", State: Note, Detail: err.Error()}
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				break
			}
			found := Finding{Name: "memory", State: OK, Detail: fmt.Sprintf("%d MiB available", kib>>10)}
			if kib>>10 < want {
				found.State, found.Mend = Missing, fmt.Sprintf("have %d MiB available", want)
			}
			return found
		}
	}
	return Finding{Name: "memory", State: Note, Detail: "unknown"}
}

// kvm never trusts that the device is there: on nested machines it opens and yet runs nothing.
func kvm() Finding {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return Finding{Name: "/dev/kvm", State: Note, Detail: "absent; VMs run under emulation, which is slow and enough"}
	}
	return Finding{Name: "/dev/kvm", State: Note, Detail: "present, not tried; VMs run under emulation unless the host's configuration says kvm"}
}

func tee() Finding {
	for path, name := range map[string]string{"/sys/module/kvm_amd/parameters/sev_snp": "SEV-SNP", "/sys/module/kvm_intel/parameters/tdx": "TDX"} {
		if raw, err := os.ReadFile(path); err == nil && strings.EqualFold(strings.TrimSpace(string(raw)), "Y") {
			return Finding{Name: "confidential computing", State: Note, Detail: name + " is on; this version starts VMs in software mode only"}
		}
	}
	return Finding{Name: "confidential computing", State: Note, Detail: "no SEV-SNP or TDX; software mode, which protects from nothing on this machine"}
}
