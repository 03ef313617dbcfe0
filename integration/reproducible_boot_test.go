//go:build boot

package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/image"
)

// TestTheImageIsReproducible builds the default image once more: later, in another folder, with another time zone, from
// nothing but the mirror and the same Secure Boot keys. Every file is the same, and so are the files it was made from.
func TestTheImageIsReproducible(t *testing.T) {
	s := newSystem(t)
	s.image()
	first := filepath.Join(s.state, "images")
	second := filepath.Join(t.TempDir(), "elsewhere")
	s.env = []string{"TZ=Asia/Tokyo", "LC_ALL=C.UTF-8"}
	t.Log("\n" + s.run("image", "build", "--out", filepath.Join(second, image.Default)))

	// What is built passes the check of strangers' images; its kernel has drivers for software mode only.
	s.run("image", "check", filepath.Join(first, image.Default), "--tee", "software")
	s.refused(3, "does not fit sevsnp: IMG-KERNEL-SNP\n", "image", "check", filepath.Join(first, image.Default), "--tee", "sevsnp")
	s.refused(3, "does not fit tdx: IMG-KERNEL-TDX\n", "image", "check", filepath.Join(first, image.Default), "--tee", "tdx")

	for _, pattern := range []string{image.Default + "/*", ".cache/base-*/base.json", ".cache/base-*/root.*"} {
		files, err := filepath.Glob(filepath.Join(first, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, path := range files {
			name, err := filepath.Rel(first, path)
			if err != nil {
				t.Fatal(err)
			}
			a, b := contents(t, path), contents(t, filepath.Join(second, name))
			if a != b {
				t.Errorf("%s differs between two builds: %s and %s", name, a, b)
			}
		}
	}
	a, err := image.Load(filepath.Join(first, image.Default))
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.Load(filepath.Join(second, image.Default))
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest {
		t.Errorf("digests %s and %s", a.Digest, b.Digest)
	}
}

// contents is a file's size and digest.
func contents(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes with digest %x", n, h.Sum(nil))
}
