package initrd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var elf = []byte("\x7fELF program")

func TestBuildIsReadableByCpio(t *testing.T) {
	mods := []Module{{"virtio.ko", []byte("one")}, {"virtio_blk.ko", []byte("three")}}
	b, err := Build(elf, mods)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := Build(elf, mods); !bytes.Equal(b, again) {
		t.Error("two builds differ")
	}
	cmd := exec.Command("cpio", "-itv", "--quiet")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio (package cpio): %v\n%s", err, out)
	}
	for _, want := range []string{"crw-------", "5,   1", "-rwxr-xr-x", " init\n", "lib/modules/virtio_blk.ko", OrderFile} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio does not list %q:\n%s", want, out)
		}
	}
	dir := t.TempDir()
	cmd = exec.Command("cpio", "-i", "--quiet", "-d", OrderFile, "init")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	order, err := os.ReadFile(filepath.Join(dir, OrderFile))
	if err != nil || string(order) != "virtio.ko\nvirtio_blk.ko\n" {
		t.Errorf("order %q, %v", order, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		init []byte
		mods []Module
	}{
		"no init":           {nil, nil},
		"a script as init":  {[]byte("#!/bin/sh"), nil},
		"compressed module": {elf, []Module{{"a.ko.xz", nil}}},
		"module with path":  {elf, []Module{{"../a.ko", nil}}},
		"module twice":      {elf, []Module{{"a.ko", nil}, {"a.ko", nil}}},
	} {
		if _, err := Build(c.init, c.mods); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Build(elf, []Module{{"a.ko", nil}}); err != nil {
		t.Errorf("positive twin: %v", err)
	}
}

func TestOrder(t *testing.T) {
	d, err := ParseDependencies(strings.NewReader("k/virtio_ring.ko:\nk/virtio.ko: k/virtio_ring.ko\nk/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko\nk/aesni-intel.ko:\n"))
	if err != nil {
		t.Fatal(err)
	}
	builtin := Builtin("kernel/fs/ext4/ext4.ko\n")
	got, err := d.Order([]string{"virtio_blk", "ext4", "aesni_intel", "virtio"}, builtin)
	if want := []string{"k/virtio_ring.ko", "k/virtio.ko", "k/virtio_blk.ko", "k/aesni-intel.ko"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("order %v (%v), want %v", got, err, want)
	}
	if _, err := d.Order([]string{"nothing"}, builtin); err == nil {
		t.Error("an unknown module was accepted")
	}
	if _, err := ParseDependencies(strings.NewReader("no colon\n")); err == nil {
		t.Error("a line without a module was accepted")
	}
	d, err = ParseDependencies(strings.NewReader("a.ko: b.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Order([]string{"a"}, nil); err == nil {
		t.Error("a need that is not listed was accepted")
	}
}
