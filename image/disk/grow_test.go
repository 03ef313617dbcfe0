package disk

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

func TestGrow(t *testing.T) {
	dir, uki, image, hashes := files(t)
	img := filepath.Join(dir, "a.img")
	if err := Write(context.Background(), img, uki, image, hashes, time.Unix(1767225600, 0)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := Grow(img, info.Size()-1<<20); err == nil {
		t.Error("a disk shrank")
	}
	const size = 2 << 30
	for range 2 { // growing to the same size again changes nothing
		if err := Grow(img, size); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sfdisk", "--verify", img).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors") {
			t.Errorf("sfdisk --verify (package fdisk): %v\n%s", err, out)
		}
	}
	head := make([]byte, firstUsable*SectorSize)
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	parts, err := readTable(head)
	if err != nil {
		t.Fatal(err)
	}
	if end := (parts[3].Last + 1) * SectorSize; end < size-2<<20 || end >= size {
		t.Errorf("the last partition ends at %d of %d bytes", end, size)
	}
	for name, at := range map[string]int{"magic": SectorSize, "checksum": SectorSize + 16, "disk": SectorSize + 56, "name": 2*SectorSize + 56, "start": 2*SectorSize + 32} {
		head[at] ^= 1
		if _, err := readTable(head); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("changed %s: %v, want a refusal", name, err)
		}
		head[at] ^= 1
	}
	if _, err := readTable(head); err != nil {
		t.Errorf("positive twin: %v", err)
	}
	if _, err := readTable(nil); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("nothing: %v, want a refusal", err)
	}
}
