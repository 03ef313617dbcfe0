//go:build failpoints

package disk_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/disk/disktest"
	"cloister.dev/cloister/internal/failpoint"
)

const crashDir = "CLOISTER_TEST_DISK_CRASH_DIR"

// The process is killed at each durable write of a disk's life; the next one ends where this one should have.
func TestKilledAtEachDurableWrite(t *testing.T) {
	if os.Getenv(crashDir) != "" {
		t.Skip("this is the process that is killed")
	}
	for _, name := range failpoint.Names() {
		if !strings.HasPrefix(name, "disks/") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(point string) (string, error) {
				c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashChild$")
				c.Env = append(os.Environ(), crashDir+"="+dir, "CLOISTER_FAILPOINT="+point)
				var out bytes.Buffer
				c.Stdout, c.Stderr = &out, &out
				err := c.Run()
				return out.String(), err
			}
			out, err := run(name)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed at the point: %v\n%s", err, out)
			}
			if out, err := run(""); err != nil {
				t.Fatalf("after the kill: %v\n%s", err, out)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "disks", "*")); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestCrashChild takes a disk and its snapshot from nothing to deletion. What an earlier process did is done again.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("run by TestKilledAtEachDurableWrite")
	}
	s, err := disk.NewDirectory(filepath.Join(dir, "disks"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if info, err := s.Stat(ctx, disktest.A); err != nil || info.Size == disk.MinSize {
		if err := s.Create(ctx, disktest.A, disk.MinSize, disk.Source{Kind: disk.FromEmpty}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []func() error{
		func() error { return s.Snapshot(ctx, disktest.B, disktest.A) },
		func() error { return s.Resize(ctx, disktest.A, 2*disk.MinSize) },
		func() error { return s.Delete(ctx, disktest.A) },
		func() error { return s.Delete(ctx, disktest.B) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}
