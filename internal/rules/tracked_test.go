package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxTracked is far above every text of this repository, and below every program.
const maxTracked = 1 << 20 // bytes

// tooLarge tells whether a file is no text that people wrote.
func tooLarge(size int64) bool { return size > maxTracked }

// TestNoProgramIsTracked keeps what was built out of the history, where it would stay for ever.
func TestNoProgramIsTracked(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this is no checkout of git: %v", err)
	}
	names := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	if len(names) < 100 {
		t.Fatalf("git tracks %d files here", len(names))
	}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if tooLarge(info.Size()) {
			t.Errorf("%s has %d bytes: a program that was built, or data that tests should make", name, info.Size())
		}
	}
	if !tooLarge(48<<20) || tooLarge(64<<10) {
		t.Error("the bound tells programs and texts not apart")
	}
}
