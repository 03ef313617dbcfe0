package image

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"cloister.dev/cloister/image/disk"
	"cloister.dev/cloister/image/initrd"
	"cloister.dev/cloister/image/secureboot"
	"cloister.dev/cloister/image/uki"
	"cloister.dev/cloister/image/verity"
)

// parts are what every image is assembled with, whatever its distribution.
type parts struct {
	guest, stub, vars []byte
	stubVersion       string
	keys              *secureboot.Keys
}

func readParts(guest, stub, vars, keys string) (*parts, error) {
	p := new(parts)
	var err error
	if p.guest, err = os.ReadFile(guest); err != nil {
		return nil, fmt.Errorf("reading the guest program: %w", err)
	}
	if err := static(p.guest); err != nil {
		return nil, err
	}
	if p.stub, err = os.ReadFile(stub); err != nil {
		return nil, fmt.Errorf("reading the stub (package systemd-boot-efi): %w", err)
	}
	if p.stubVersion, err = uki.StubVersion(p.stub); err != nil {
		return nil, err
	}
	if p.vars, err = os.ReadFile(vars); err != nil {
		return nil, fmt.Errorf("reading the empty variable store (package ovmf): %w", err)
	}
	p.keys, err = secureboot.EnsureKeys(keys)
	return p, err
}

// system is a distribution with its kernel, ready to be put on a disk.
type system struct {
	distribution, osRelease string
	packages                []Package
	guests                  []Guest
	kernelVersion           string
	kernel                  []byte
	modules                 []initrd.Module
	commandLine             string
	table                   verity.Table
	root, hashes            string            // files
	from                    map[string]string // SHA-256 of what it came from, by name
}

// target is where an image goes, with a folder for scratch files on the same file system.
type target struct {
	name, out, cache string
	progress         func(string)
}

// image makes the kernel image, the variable store, the disk and the manifest, and puts all of it in place at once.
func (p *parts) image(ctx context.Context, to target, s system) (*Manifest, error) {
	to.progress("making the kernel image")
	cpio, err := initrd.Build(p.guest, s.modules)
	if err != nil {
		return nil, err
	}
	pe, err := uki.Assemble(p.stub, []uki.Section{
		{Name: ".osrel", Data: []byte(s.osRelease)}, {Name: ".cmdline", Data: []byte(s.commandLine)}, {Name: ".uname", Data: []byte(s.kernelVersion)},
		{Name: ".initrd", Data: cpio}, {Name: ".linux", Data: s.kernel},
	})
	if err != nil {
		return nil, err
	}
	if pe, err = uki.Sign(pe, p.keys.DB.Private, p.keys.DB.Certificate); err != nil {
		return nil, err
	}
	vars, err := secureboot.VariableStore(p.vars, p.keys)
	if err != nil {
		return nil, err
	}

	work, err := os.MkdirTemp(to.cache, "image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	m := &Manifest{
		Format: ManifestVersion, Name: to.name, Version: version, Distribution: s.distribution, Kernel: s.kernelVersion, Stub: p.stubVersion,
		CommandLine: s.commandLine, Verity: s.table.String(), Guests: s.guests, Packages: s.packages, dir: work,
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.keys.DB.Certificate.Raw})),
		CreatedFrom: map[string]string{"guest": sum(p.guest), "stub": sum(p.stub), "vars": sum(p.vars)},
		Disk:        File{Name: "disk.img"}, UKI: File{Name: "uki.efi"}, Vars: File{Name: "vars.fd"},
	}
	for name, digest := range s.from {
		m.CreatedFrom[name] = digest
	}
	if err := os.WriteFile(m.Path(KindUKI), pe, 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.Path(KindVars), vars, 0o644); err != nil {
		return nil, err
	}
	to.progress("laying out the disk")
	if err := disk.Write(ctx, m.Path(KindDisk), m.Path(KindUKI), s.root, s.hashes, Epoch); err != nil {
		return nil, err
	}
	to.progress("checking the image")
	for _, f := range []*File{&m.Disk, &m.UKI, &m.Vars} {
		if *f, err = describe(filepath.Join(work, f.Name)); err != nil {
			return nil, err
		}
	}
	if m.Digest, err = m.computeDigest(); err != nil {
		return nil, err
	}
	if err := m.checkUKI(pe, vars); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(work, ManifestFile), append(text, '\n'), 0o644); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := replace(work, to.out); err != nil {
		return nil, err
	}
	m.dir = to.out
	return m, nil
}
