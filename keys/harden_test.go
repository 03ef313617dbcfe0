package keys_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloister.dev/cloister/identity/identitytest"
)

// nobody is the user under whom the key keeper runs where the tests run as root: what root owns anyway says nothing.
const nobody = 65534

// ownerOfMemory is who may read a process's memory: the process's own user, or root where it may not be dumped (proc(5)).
func ownerOfMemory(t *testing.T, pid int) uint32 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// The key keeper leaves no core dump, and other processes of its user can't read its memory.
func TestProcessIsHardened(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	keeper, plain := exec.Command(os.Args[0]), exec.Command("cat")
	user := uint32(os.Getuid())
	if user == 0 {
		user = nobody
		keeper = exec.Command(copied(t))
		for _, c := range []*exec.Cmd{keeper, plain} {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		give(t, filepath.Dir(p.config))
		give(t, filepath.Dir(p.cfg.Keystore.PassphraseFile))
	}
	p.startAs(keeper, "")
	p.createGuestState(vmID, identitytest.AdminID, nil)
	if owner := ownerOfMemory(t, p.cmd.Process.Pid); owner != 0 {
		t.Errorf("user %d can read the key keeper's memory", owner)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Join(strings.Fields(rest), " ") != "0 0 bytes" {
			t.Errorf("core dumps: %s", rest)
		}
	}
	p.stop()

	in, err := plain.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Start(); err != nil {
		t.Fatal(err)
	}
	if owner := ownerOfMemory(t, plain.Process.Pid); owner != user {
		t.Errorf("the positive twin, a plain process of user %d: its memory is %d's", user, owner)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := plain.Wait(); err != nil {
		t.Error(err)
	}
}

// copied is this program where another user may start it.
func copied(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.test")
	if err := os.Chmod(filepath.Dir(filepath.Dir(path)), 0o711); err != nil { // above all folders of the test
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// give gives a folder and what is in it to nobody.
func give(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
}
