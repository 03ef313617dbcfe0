// Package provision writes what init data ask for into a freshly made system: host name, administrator, SSH keys, custom
// data, and the SSH host key, which is made in the VM so that nobody else ever had it.
package provision

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
)

// Paths in the system.
const (
	HostKeyPath    = "/etc/ssh/ssh_host_ed25519_key"
	HostKeyPubPath = HostKeyPath + ".pub"
	CustomDataPath = "/var/lib/cloister/custom-data"
	donePath       = "var/lib/cloister/provisioned"
)

const firstUID = 1000

// System sets up the system below root, once: a system that was set up is left alone.
func System(root string, d initdata.InitData, random io.Reader) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	s := system{Root: r, chown: r.Chown}
	return s.provision(d, random)
}

// system is a root that nothing reaches out of, not by a symbolic link either.
type system struct {
	*os.Root
	chown func(name string, uid, gid int) error
}

func (s system) provision(d initdata.InitData, random io.Reader) error {
	if _, err := s.Stat(donePath); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.hostName(d.Name); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := s.hostKey(d.Name, random); err != nil {
		return fmt.Errorf("ssh host key: %w", err)
	}
	if d.AdminUser != "" {
		if err := s.admin(d.AdminUser, d.SSHKeys); err != nil {
			return fmt.Errorf("administrator %s: %w", d.AdminUser, err)
		}
	} else if len(d.SSHKeys) > 0 {
		return evidence.Refuse(evidence.CodeParse, "init data sshKeys", "keys without adminUser", "the user they are for")
	}
	if err := s.MkdirAll("var/lib/cloister", 0o700); err != nil {
		return err
	}
	if len(d.CustomData) > 0 {
		if err := s.write(CustomDataPath[1:], d.CustomData, 0o600); err != nil {
			return fmt.Errorf("custom data: %w", err)
		}
	}
	return s.write(donePath, []byte(d.VMID+"\n"), 0o600) // last: what came before is done again after a crash
}

// write replaces a file, and has it on the disk before it returns: a crash leaves the old content or the new one. The
// owner stays.
func (s system) write(name string, data []byte, mode fs.FileMode) error {
	part := name + ".part" // sudo reads no file with a dot in its name
	if err := s.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if info, err := s.Lstat(name); err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := s.chown(part, int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.Rename(part, name); err != nil {
		return err
	}
	dir, err := s.Open(path.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s system) exists(name string) bool {
	_, err := s.Lstat(name)
	return err == nil
}

func (s system) hostName(name string) error {
	if err := s.write("etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	hosts, err := s.ReadFile("etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		hosts, err = []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"), nil
	}
	if err != nil {
		return err
	}
	var out []string
	for _, line := range strings.Split(strings.TrimRight(string(hosts), "\n"), "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		out = append(out, line)
	}
	return s.write("etc/hosts", []byte(strings.Join(append(out, "127.0.1.1 "+name), "\n")+"\n"), 0o644)
}

// hostKey makes the SSH host key before sshd starts. An image that already has one is refused: its key is known to whoever has the image.
func (s system) hostKey(comment string, random io.Reader) error {
	if err := s.MkdirAll("etc/ssh", 0o755); err != nil {
		return err
	}
	entries, err := fs.ReadDir(s.FS(), "etc/ssh")
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		ours := n == "ssh_host_ed25519_key" || n == "ssh_host_ed25519_key.pub" // from a first boot that died
		if strings.HasPrefix(n, "ssh_host_") && !ours {
			return evidence.Refuse(evidence.CodeBoot, "image", "has /etc/ssh/"+n, "no SSH host key in an image")
		}
	}
	_, key, err := ed25519.GenerateKey(random)
	if err != nil {
		return err
	}
	private, err := marshalPrivate(key, comment, random)
	if err != nil {
		return err
	}
	if err := s.write(HostKeyPath[1:], private, 0o600); err != nil {
		return err
	}
	return s.write(HostKeyPubPath[1:], []byte(authorizedLine(key.Public().(ed25519.PublicKey), comment)), 0o644)
}

func (s system) admin(user string, keys []string) error {
	for _, k := range keys {
		if strings.ContainsAny(k, "\n\r\x00") || len(strings.Fields(k)) < 2 {
			return evidence.Refuse(evidence.CodeParse, "init data sshKeys", fmt.Sprintf("%.40q", k), "one line of an authorized_keys file")
		}
	}
	u, err := s.user(user)
	if err != nil {
		return err
	}
	home := strings.TrimPrefix(u.home, "/")
	if home == "" {
		return fmt.Errorf("home directory %q", u.home)
	}
	ssh := home + "/.ssh"
	if err := s.MkdirAll(ssh, 0o700); err != nil {
		return err
	}
	if err := s.write(ssh+"/authorized_keys", []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	for _, name := range []string{home, ssh, ssh + "/authorized_keys"} {
		if err := s.chown(name, u.uid, u.gid); err != nil {
			return err
		}
	}
	if s.exists("usr/bin/sudo") && u.uid != 0 {
		if err := s.MkdirAll("etc/sudoers.d", 0o750); err != nil {
			return err
		}
		return s.write("etc/sudoers.d/90-cloister", []byte(user+" ALL=(ALL:ALL) NOPASSWD:ALL\n"), 0o440)
	}
	return nil
}

type account struct {
	uid, gid int
	home     string
}

// user finds the account, or makes one without a password.
func (s system) user(name string) (account, error) {
	passwd, err := s.ReadFile("etc/passwd")
	if err != nil {
		return account{}, err
	}
	used := map[int]bool{}
	for _, line := range strings.Split(string(passwd), "\n") {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		if err != nil {
			continue
		}
		used[uid] = true
		if f[0] == name {
			gid, err := strconv.Atoi(f[3])
			return account{uid, gid, f[5]}, err
		}
	}
	group, err := s.ReadFile("etc/group")
	if err != nil {
		return account{}, err
	}
	for _, line := range strings.Split(string(group), "\n") {
		if f := strings.Split(line, ":"); len(f) == 4 {
			gid, err := strconv.Atoi(f[2])
			if err != nil {
				continue
			}
			if f[0] == name { // a group of ours from a first boot that died, or one of the image
				if gid < firstUID || used[gid] {
					return account{}, fmt.Errorf("the image has a group %s but no such user", name)
				}
				continue
			}
			used[gid] = true
		}
	}
	id := firstUID
	for used[id] {
		id++
	}
	shell := "/bin/sh"
	if s.exists("bin/bash") || s.exists("usr/bin/bash") {
		shell = "/bin/bash"
	}
	a := account{id, id, "/home/" + name}
	if err := s.MkdirAll(a.home[1:], 0o755); err != nil {
		return a, err
	}
	// passwd comes last: an account that is there is complete. "*" is no password at all, which sshd does not call locked as it does "!".
	for _, f := range []struct{ file, line string }{
		{"etc/gshadow", name + ":!::"},
		{"etc/shadow", name + ":*:19000:0:99999:7:::"},
		{"etc/group", fmt.Sprintf("%s:x:%d:", name, id)},
		{"etc/passwd", fmt.Sprintf("%s:x:%d:%d::%s:%s", name, id, id, a.home, shell)},
	} {
		if err := s.addLine(f.file, f.line); err != nil {
			return a, err
		}
	}
	return a, nil
}

// addLine appends to an account file that exists.
func (s system) addLine(name, line string) error {
	old, err := s.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && name == "etc/gshadow" {
		return nil // not every distribution has it
	}
	if err != nil {
		return err
	}
	info, err := s.Stat(name)
	if err != nil {
		return err
	}
	text := strings.TrimRight(string(old), "\n")
	for _, l := range strings.Split(text, "\n") {
		if l == line {
			return nil
		}
	}
	if text != "" {
		text += "\n"
	}
	return s.write(name, []byte(text+line+"\n"), info.Mode().Perm())
}
