package check

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/initrd"
	"cloister.dev/cloister/image/uki"
)

// Kernel is the one that a conversion takes: the newest of /boot, or a unified kernel image's.
type Kernel struct {
	Version string // as uname -r prints it
	Config  string // the text of its configuration; empty where the image has none
	Path    string // of the image in Boot; empty for a unified kernel image's

	builtin   map[string]bool
	modules   map[string]string // by name, the path below the version's folder
	hasLists  bool              // modules.builtin is there
	modulesAt string            // folder in the root
}

// kernelsIn lists the versions of kernels in a folder, the newest last.
func kernelsIn(boot fs.FS) ([]string, error) {
	entries, err := list(boot, ".")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if v, ok := strings.CutPrefix(e.Name(), "vmlinuz-"); ok && v != "" && e.Type().IsRegular() {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, compareVersions)
	return out, nil
}

// compareVersions orders as people count: numbers by their value, other text by its bytes.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := leading(a), leading(b)
		a, b = a[len(x):], b[len(y):]
		if digit(x[0]) && digit(y[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// leading is the longest beginning of digits, or of others.
func leading(s string) string {
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n]
}

func findKernel(i *Image) (*Kernel, error) {
	versions, err := kernelsIn(i.Boot)
	if err != nil {
		return nil, err
	}
	k := &Kernel{}
	if len(versions) > 0 {
		k.Version = versions[len(versions)-1]
		k.Path = "vmlinuz-" + k.Version
	} else {
		for _, l := range i.loaders {
			if name, ok := uki.Find(l.sections, ".uname"); ok {
				k.Version = string(name)
			}
		}
	}
	if k.Version == "" || path.Base(k.Version) != k.Version || printable(k.Version) != k.Version {
		return nil, nil
	}
	if k.Config, err = text(i.Boot, "config-"+k.Version); err != nil {
		return nil, err
	}
	for _, dir := range []string{"usr/lib/modules/", "lib/modules/"} {
		if k.modules == nil {
			if err := k.readModules(i.Root, dir+k.Version); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

// readModules takes the modules that are really there, not those that an index lists.
func (k *Kernel) readModules(root fs.FS, dir string) error {
	if there, err := exists(root, dir); err != nil || !there {
		return err
	}
	builtin, err := read(root, dir+"/modules.builtin", maxText)
	if missing(err) != nil {
		return err
	}
	k.hasLists, k.builtin, k.modulesAt = err == nil, initrd.Builtin(string(builtin)), dir
	k.modules = map[string]string{}
	w := walker{left: maxWalk}
	return w.walk(root, dir+"/kernel", func(p string, d fs.DirEntry) error {
		if name, ok := ModuleName(p); ok && d.Type().IsRegular() {
			k.modules[name] = strings.TrimPrefix(p, dir+"/")
		}
		return nil
	})
}

// ModuleName is how the kernel calls the module in a file, compressed or not.
func ModuleName(p string) (string, bool) {
	base := path.Base(p)
	for _, ext := range []string{".xz", ".zst", ".gz"} {
		base = strings.TrimSuffix(base, ext)
	}
	base, ok := strings.CutSuffix(base, ".ko")
	return strings.ReplaceAll(base, "-", "_"), ok
}

// Modules gives the folder of the kernel's modules in the root.
func (k *Kernel) Modules() string { return k.modulesAt }

// state of a driver
type state int

const (
	absent   state = iota
	unsure         // the image does not tell
	detached       // configured as a module that the image does not have
	module
	builtIn
)

// driver looks for an option, and for the module that it makes where it can be one.
func (k *Kernel) driver(option, name string) state {
	there := name != "" && k.modules[name] != ""
	switch {
	case k.Config != "" && strings.Contains("\n"+k.Config, "\nCONFIG_"+option+"=y\n"):
		return builtIn
	case k.Config != "" && strings.Contains("\n"+k.Config, "\nCONFIG_"+option+"=m\n"):
		if there {
			return module
		}
		return detached
	case k.Config != "":
		return absent
	case name == "" || !k.hasLists:
		return unsure
	case k.builtin[name]:
		return builtIn
	case there:
		return module
	}
	return absent
}

// need is a driver that must be there.
type need struct{ option, module string }

// allModules is the remedy where a kernel came without some of its modules, as Ubuntu's does.
const allModules = "install all of the kernel's modules, on Ubuntu linux-modules-extra-"

// needs judges a list of drivers.
func needs(remedy string, list ...need) func(context.Context, *Image) (judgement, error) {
	return func(_ context.Context, i *Image) (judgement, error) {
		k, remedy := i.Kernel, remedy
		if k == nil {
			return unknown("", "there is no kernel to look at"), nil
		}
		var lacks, unclear, has []string
		for _, n := range list {
			name := "CONFIG_" + n.option
			switch k.driver(n.option, n.module) {
			case absent:
				lacks = append(lacks, name)
			case detached:
				lacks = append(lacks, fmt.Sprintf("%s (configured as the module %s, which is not in the image)", name, n.module))
				remedy = allModules + k.Version
			case unsure:
				unclear = append(unclear, name)
			case module:
				has = append(has, name+" (module)")
			case builtIn:
				has = append(has, name)
			}
		}
		switch {
		case len(lacks) > 0:
			return fail(remedy, "kernel %s lacks %s", k.Version, strings.Join(lacks, ", ")), nil
		case len(unclear) > 0:
			return unknown("keep /boot/config-"+k.Version+" in the image", "kernel %s has no configuration or list of modules in the image that tells of %s", k.Version, strings.Join(unclear, ", ")), nil
		}
		return pass("kernel %s has %s", k.Version, strings.Join(has, ", ")), nil
	}
}

// minKernel is the oldest kernel whose dm-verity, dm-crypt and TPM drivers the initrd was written for.
const minKernel = "5.10"

func judgeKernel(_ context.Context, i *Image) (judgement, error) {
	const remedy = "install the distribution's kernel package"
	k := i.Kernel
	switch {
	case k == nil:
		return fail(remedy, "there is no vmlinuz in /boot and no unified kernel image on the system partition"), nil
	case k.modules == nil:
		return fail(remedy, "kernel %s has no modules in the image", k.Version), nil
	case compareVersions(k.Version, minKernel) < 0:
		return fail(remedy, "kernel %s is older than %s", k.Version, minKernel), nil
	}
	raw, err := i.KernelImage()
	if err != nil {
		return judgement{}, err
	}
	if len(raw) < 0x206 || string(raw[0x202:0x206]) != "HdrS" { // Linux's boot protocol for x86
		return fail(remedy, "kernel %s is no Linux kernel for x86", k.Version), nil
	}
	return pass("kernel %s with %d modules", k.Version, len(k.modules)), nil
}

// judgeTSM: quotes of TDs come by the interface that all TEEs share since Linux 6.7.
func judgeTSM(_ context.Context, i *Image) (judgement, error) {
	if i.Kernel == nil {
		return unknown("", "there is no kernel to look at"), nil
	}
	switch i.Kernel.driver("TSM_REPORTS", "tsm") {
	case builtIn, module:
		return pass("kernel %s has CONFIG_TSM_REPORTS", i.Kernel.Version), nil
	case unsure:
		return warn("", "the image does not tell whether kernel %s has CONFIG_TSM_REPORTS", i.Kernel.Version), nil
	case detached:
		return warn(allModules+i.Kernel.Version, "kernel %s has CONFIG_TSM_REPORTS as a module that is not in the image", i.Kernel.Version), nil
	}
	return warn("a kernel of version 6.7 or newer", "kernel %s lacks CONFIG_TSM_REPORTS: reports only by the older device", i.Kernel.Version), nil
}

func judgeLockdown(_ context.Context, i *Image) (judgement, error) {
	if i.Kernel == nil {
		return unknown("", "there is no kernel to look at"), nil
	}
	var lacks []string
	for _, o := range []string{"SECURITY_LOCKDOWN_LSM", "MODULE_SIG"} {
		switch i.Kernel.driver(o, "") {
		case absent:
			lacks = append(lacks, "CONFIG_"+o)
		case unsure:
			return warn("", "the image has no kernel configuration that tells of CONFIG_%s", o), nil
		}
	}
	if len(lacks) > 0 {
		return warn("the distribution's own kernel", "kernel %s lacks %s: root in the VM can change the running kernel", i.Kernel.Version, strings.Join(lacks, ", ")), nil
	}
	return pass("kernel %s takes only signed modules under Secure Boot", i.Kernel.Version), nil
}

// judgeEFI: a kernel with an EFI stub begins as a program of Windows does.
func judgeEFI(ctx context.Context, i *Image) (judgement, error) {
	const remedy = "a kernel with CONFIG_EFI_STUB"
	if i.Kernel == nil {
		return unknown("", "there is no kernel to look at"), nil
	}
	raw, err := i.KernelImage()
	if err != nil {
		return judgement{}, err
	}
	if !bytes.HasPrefix(raw, []byte("MZ")) {
		return fail(remedy, "kernel %s has no EFI stub", i.Kernel.Version), nil
	}
	j, err := needs(remedy, need{"EFIVAR_FS", "efivarfs"})(ctx, i)
	if j.verdict == Pass {
		j.reason += ", and an EFI stub"
	}
	return j, err
}

// KernelImage reads the kernel, as /boot has it or a unified kernel image.
func (i *Image) KernelImage() ([]byte, error) {
	if i.Kernel != nil && i.Kernel.Path != "" {
		return read(i.Boot, i.Kernel.Path, maxKernel)
	}
	for _, l := range i.loaders {
		if raw, ok := uki.Find(l.sections, ".linux"); ok {
			return raw, nil
		}
	}
	return nil, evidence.Refuse(evidence.CodeUnsupported, "kernel", "none in /boot", "/boot/vmlinuz-VERSION")
}
