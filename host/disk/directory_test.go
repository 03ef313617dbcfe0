package disk_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/disk/disktest"
)

func TestDirectory(t *testing.T) {
	disktest.Conformance(t, func(t *testing.T) disk.Store {
		s, err := disk.NewDirectory(filepath.Join(t.TempDir(), "disks"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestWhatACrashLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	part := filepath.Join(dir, disktest.A+".img.part")
	if err := os.WriteFile(part, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := disk.NewDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	if list, err := s.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
