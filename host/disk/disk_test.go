package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFromImageCopiesDataAndKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	content := make([]byte, 8<<20)
	copy(content, "begin")
	copy(content[5<<20:], "middle")
	src, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 << 20} {
		if _, err := src.WriteAt(content[at:at+4096], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(src.Truncate(8<<20), src.Close()); err != nil {
		t.Fatal(err)
	}
	if err := FromImage(context.Background(), image, disk, 16<<20, os.Truncate); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(content, make([]byte, 8<<20)...)) {
		t.Error("content differs")
	}
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes are allocated for 8 KiB of data", st.Blocks*512)
	}
	if err := os.WriteFile(disk, []byte("the VM wrote"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := FromImage(context.Background(), image, disk, 16<<20, os.Truncate); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(disk); string(got) != "the VM wrote" {
		t.Error("a second call overwrote the VM's disk")
	}
}

func TestFromImageLeavesNothingHalfMade(t *testing.T) {
	dir := t.TempDir()
	if err := FromImage(context.Background(), filepath.Join(dir, "none"), filepath.Join(dir, "disk"), 1<<20, os.Truncate); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing image: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "image"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := FromImage(ctx, filepath.Join(dir, "image"), filepath.Join(dir, "disk"), 1<<20, os.Truncate); err == nil {
		t.Skip("this file system shares blocks, so nothing is copied that could be cancelled")
	}
	left, err := filepath.Glob(filepath.Join(dir, "disk*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestInitDataIsExactAndPadded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init")
	for _, n := range []int{1, 511, 512, 513} {
		raw := bytes.Repeat([]byte{'x'}, n)
		if err := InitData(path, raw); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)%512 != 0 || !bytes.Equal(bytes.TrimRight(got, "\x00"), raw) {
			t.Errorf("%d bytes became %d", n, len(got))
		}
	}
}
