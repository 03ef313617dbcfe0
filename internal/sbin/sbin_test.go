package sbin

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestLook(t *testing.T) {
	onPath, admin := t.TempDir(), t.TempDir()
	for _, p := range []string{filepath.Join(onPath, "both"), filepath.Join(admin, "both"), filepath.Join(admin, "depmod")} {
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(admin, "text"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", onPath)
	defer func(old []string) { folders = old }(folders)
	folders = []string{admin}
	for name, want := range map[string]string{"depmod": admin + "/depmod", "both": onPath + "/both"} {
		if got, err := Look(name); err != nil || got != want || Path(name) != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	for what, name := range map[string]string{"no program": "nothing", "a file that can't be run": "text", "a path": "x/depmod"} {
		if got, err := Look(name); err == nil || Path(name) != name {
			t.Errorf("%s was found: %s", what, got)
		}
	}
	if _, err := Look("nothing"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}
