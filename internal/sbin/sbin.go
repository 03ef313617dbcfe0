// Package sbin finds programs that Debian keeps in folders for administrators. Those folders are not on the PATH of
// its ordinary users, though the programs serve them as well.
package sbin

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
)

// folders are looked at after the PATH.
var folders = []string{"/usr/sbin", "/sbin"}

// Look finds a program by name. The error wraps exec.ErrNotFound when there is none.
func Look(name string) (string, error) {
	found, err := exec.LookPath(name)
	if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	if filepath.Base(name) != name {
		return "", err
	}
	for _, dir := range folders {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

// Path is Look for a command that is run next: a name that is not found is given back, and running it says so.
func Path(name string) string {
	if p, err := Look(name); err == nil {
		return p
	}
	return name
}
