//go:build boot

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// built is a folder with the default image and the Secure Boot keys that it is signed with, once one system has made
// them. They belong together.
var built string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cloister-image-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// image gives the system the default image: built by the first system that asks, copied by the others.
func (s *system) image() {
	s.t.Helper()
	kept := []string{"images", "secureboot"}
	if _, err := os.Stat(filepath.Join(built, kept[0])); err == nil {
		if err := os.MkdirAll(s.state, 0o700); err != nil {
			s.t.Fatal(err)
		}
		for _, name := range kept {
			copyTree(s.t, filepath.Join(built, name), s.state)
		}
		return
	}
	s.run("image", "build")
	for _, name := range kept {
		copyTree(s.t, filepath.Join(s.state, name), built)
	}
}

func copyTree(t *testing.T, from, into string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, into).CombinedOutput(); err != nil {
		t.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}
