package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reachable gives a path of a program that every user can run: its own where all folders above it may be passed,
// else a copy. QEMU starts the program by path, as the VM's user.
func reachable(program, runDir string) (string, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return "", err
	}
	if os.Geteuid() != 0 || passable(program) {
		return program, nil
	}
	for _, dir := range []string{filepath.Join(runDir, "bin"), filepath.Join("/var/lib/cloister", filepath.Base(runDir))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask says
			return "", err
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return "", err
		}
		copied := filepath.Join(dir, filepath.Base(program))
		if fs.Flags&unix.ST_NOEXEC != 0 || !passable(dir) {
			continue
		}
		return copied, install(program, copied)
	}
	return "", fmt.Errorf("%s: the VMs' users can't reach it, and no folder allows a copy", program)
}

// passable tells whether others may pass all folders above a path, and run what is there.
func passable(path string) bool {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}

func install(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	if err := errors.Join(dst.Chmod(0o755), dst.Close()); err != nil {
		return err
	}
	return os.Rename(to+".part", to)
}
