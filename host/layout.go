package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// layout is where one VM's things are, and who may touch them.
//
// As root, the paravisor and QEMU of each VM run as users of their own that share a group: QEMU can connect to
// the paravisor's sockets and to nothing else of it. Not as root, everything runs as the agent's user.
type layout struct {
	state string // disks, record, console; only the agent walks here, others get open files
	guest string // guest state; the paravisor's
	run   string // sockets
	shm   string // the vTPM's scratch folder, in memory

	paravisorUID, qemuUID, gid uint32 // 0: the agent's own
}

func (c Config) layout(vmID string, slot int) layout {
	sum := sha256.Sum256([]byte(c.StateDir + "\x00" + vmID))
	short := hex.EncodeToString(sum[:6])
	l := layout{state: filepath.Join(c.StateDir, "vms", vmID), run: filepath.Join(c.RunDir, "vms", short), shm: filepath.Join("/dev/shm", "cloister-"+short)}
	l.guest = filepath.Join(l.state, "guest")
	if os.Geteuid() == 0 {
		l.qemuUID = c.UIDBase + 2*uint32(slot)
		l.paravisorUID = l.qemuUID + 1
		l.gid = l.qemuUID
	}
	return l
}

func (l layout) paravisorDir() string { return filepath.Join(l.run, "pv") }
func (l layout) qemuDir() string      { return filepath.Join(l.run, "qemu") }
func (l layout) networkDir() string   { return filepath.Join(l.run, "net") }
func (l layout) osDisk() string       { return filepath.Join(l.state, "os.img") }
func (l layout) tempDisk() string     { return filepath.Join(l.state, "temp.img") }
func (l layout) initDisk() string     { return filepath.Join(l.state, "init.img") }
func (l layout) console() string      { return filepath.Join(l.state, "console.log") }

// make creates the folders; run and shm are made anew for each session.
func (l layout) make() error {
	if err := errors.Join(os.RemoveAll(l.run), os.RemoveAll(l.shm)); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
		uid  uint32
		gid  uint32
	}{
		{l.state, 0o700, 0, 0},
		{l.guest, 0o700, l.paravisorUID, l.gid},
		{l.run, 0o711, 0, 0},
		{l.paravisorDir(), 0o750, l.paravisorUID, l.gid},
		{l.qemuDir(), 0o700, l.qemuUID, l.gid},
		{l.networkDir(), 0o750, 0, l.gid},
		{l.shm, 0o700, l.paravisorUID, l.gid},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("VM folders: %w", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // whatever the umask says
			return fmt.Errorf("VM folders: %w", err)
		}
		if err := l.own(d.path, d.uid, d.gid); err != nil {
			return fmt.Errorf("VM folders: %w", err)
		}
	}
	return nil
}

// own gives a file to a VM's user, where VMs have users.
func (l layout) own(path string, uid, gid uint32) error {
	if l.gid == 0 {
		return nil
	}
	return os.Chown(path, int(uid), int(gid))
}

// remove deletes everything of the VM.
func (l layout) remove() error {
	return errors.Join(os.RemoveAll(l.run), os.RemoveAll(l.shm), os.RemoveAll(l.state))
}
