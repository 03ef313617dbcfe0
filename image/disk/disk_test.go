package disk

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func files(t *testing.T) (dir, uki, image, hashes string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	root := make([]byte, 3<<20)
	copy(root[1<<20:], "in the middle")
	return dir, write("uki", bytes.Repeat([]byte("uki"), 70000)), write("root", root), write("hashes", bytes.Repeat([]byte{5}, 12288))
}

func TestWrite(t *testing.T) {
	dir, uki, image, hashes := files(t)
	at := time.Unix(1767225600, 0)
	a, b := filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")
	for _, p := range []string{a, b} {
		if err := Write(context.Background(), p, uki, image, hashes, at); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
		t.Errorf("two disks differ: %s", out)
	}
	out, err := exec.Command("sfdisk", "--dump", a).CombinedOutput()
	if err != nil {
		t.Fatalf("sfdisk (package fdisk): %v\n%s", err, out)
	}
	for _, n := range []string{NameESP, NameImage, NameVerity, NameRoot, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "C1015E12-0000-4000-8000-000000000004"} {
		if !strings.Contains(string(out), n) {
			t.Errorf("sfdisk does not list %s:\n%s", n, out)
		}
	}
	if out, err := exec.Command("sfdisk", "--verify", a).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
		t.Errorf("sfdisk --verify: %v\n%s", err, out)
	}
	got, err := exec.Command("mtype", "-i", a+"@@1M", BootPath).Output()
	want, _ := os.ReadFile(uki)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("mtype (package mtools): %v, %d bytes, want %d", err, len(got), len(want))
	}
	listing, err := exec.Command("mdir", "-i", a+"@@1M", "::/EFI/BOOT").Output()
	if err != nil || !strings.Contains(string(listing), "2026-01-01") {
		t.Errorf("the file's date is not the fixed one: %v\n%s", err, listing)
	}
	f, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, _ := Layout(3<<20, 12288)
	buf := make([]byte, 13)
	if _, err := f.ReadAt(buf, int64(parts[1].First)*SectorSize+1<<20); err != nil || string(buf) != "in the middle" {
		t.Errorf("image partition holds %q (%v)", buf, err)
	}
	if rootLen := (parts[3].Last - parts[3].First + 1) * SectorSize; rootLen < 3<<20+32<<20 {
		t.Errorf("the VM's volume has %d bytes, want 32 MiB more than the image", rootLen)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir, uki, image, hashes := files(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, filepath.Join(dir, "x.img"), uki, image, hashes, time.Unix(0, 0)); err == nil {
		t.Error("cancelled, yet written")
	}
	if err := Write(context.Background(), filepath.Join(dir, "x.img"), filepath.Join(dir, "none"), image, hashes, time.Unix(0, 0)); err == nil {
		t.Error("a missing kernel image was accepted")
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, espMiB*mib); err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), filepath.Join(dir, "x.img"), big, image, hashes, time.Unix(0, 0)); err == nil {
		t.Error("a kernel image larger than its partition was accepted")
	}
	var sink discard
	for name, parts := range map[string][]Partition{
		"overlap":       {{Name: "a", First: 2048, Last: 4096}, {Name: "b", First: 4096, Last: 5000}},
		"over the end":  {{Name: "a", First: 2048, Last: 99999}},
		"in the table":  {{Name: "a", First: 10, Last: 99}},
		"backwards":     {{Name: "a", First: 3000, Last: 2048}},
		"too long name": {{Name: strings.Repeat("n", 37), First: 2048, Last: 4096}},
	} {
		if err := writeTable(sink, 65536, diskGUID, parts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := writeTable(sink, 65536, diskGUID, []Partition{{Name: "a", First: 2048, Last: 4096}}); err != nil {
		t.Errorf("positive twin: %v", err)
	}
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
