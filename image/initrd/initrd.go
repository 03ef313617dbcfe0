package initrd

import (
	"fmt"
	"path"
	"strings"
)

// Modules are what init needs before the distribution runs: the disk, dm-crypt and dm-verity with the ciphers
// of LUKS2, EFI variables, and virtio_net, because the guest fetches its token before switch_root.
var Modules = []string{
	"virtio_pci", "virtio_blk", "dm-crypt", "xts", "aesni-intel", "dm-verity", "efivarfs", "virtio_net", "virtio_rng",
}

// Module is a kernel module file.
type Module struct {
	Name string // file name, such as "virtio_blk.ko"
	Data []byte
}

// OrderFile lists the module file names below ModuleDir, one a line, in load order.
const (
	ModuleDir = "lib/modules"
	OrderFile = ModuleDir + "/order"
)

// Build makes the archive: init (mode 0755), the modules in load order, and a console node, without which
// the kernel gives init no standard streams.
func Build(init []byte, modules []Module) ([]byte, error) {
	if len(init) < 4 || string(init[:4]) != "\x7fELF" {
		return nil, fmt.Errorf("the init program is no ELF file")
	}
	entries := []Entry{
		{Path: "dev", Mode: TypeDir | 0o755},
		{Path: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "init", Mode: TypeFile | 0o755, Data: init},
		{Path: "lib", Mode: TypeDir | 0o755},
		{Path: ModuleDir, Mode: TypeDir | 0o755},
	}
	var order strings.Builder
	for _, m := range modules {
		if m.Name != path.Base(m.Name) || !strings.HasSuffix(m.Name, ".ko") {
			return nil, fmt.Errorf("module %q: want an uncompressed .ko file's name", m.Name)
		}
		fmt.Fprintln(&order, m.Name)
		entries = append(entries, Entry{Path: ModuleDir + "/" + m.Name, Mode: TypeFile | 0o644, Data: m.Data})
	}
	entries = append(entries, Entry{Path: OrderFile, Mode: TypeFile | 0o644, Data: []byte(order.String())})
	return Archive(entries)
}
