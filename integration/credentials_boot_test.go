//go:build boot

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The credential that a host would like systemd in the VM to take: it would write a file as root.
const credential = "tmpfiles.extra"
const credentialText = "f /evil - - - - x"

// TestHostCredentials runs an agent whose QEMU adds systemd credentials by SMBIOS and by fw_cfg. They reach the VM's
// firmware tables, and nothing in the VM takes them: the signed command line forbids it.
func TestHostCredentials(t *testing.T) {
	s := newSystem(t)
	s.image()
	s.run("up")
	s.replaceAgent(`-smbios "type=11,value=io.systemd.credential:` + credential + `=` + credentialText + `" -fw_cfg "name=opt/io.systemd.credentials/` + credential + `,string=` + credentialText + `"`)
	key := filepath.Join(s.state, "key")
	if err := sshKey(key); err != nil {
		t.Fatal(err)
	}
	s.run("vm", "create", "hello", "--ssh-key", key+".pub")
	out := s.inVM(`sudo cat /sys/firmware/dmi/entries/11-0/raw | tr -c '[:print:]' ' '; echo; ls -a / /run/credentials 2>&1`)
	if !strings.Contains(out, "io.systemd.credential:"+credential) {
		t.Errorf("HD-06 the attack did not reach the VM, so that it survived says nothing:\n%s", out)
	}
	if strings.Contains(out, "evil\n") || strings.Contains(out, "@system") {
		t.Errorf("HD-06 the host's credential was taken:\n%s", out)
	}
	s.run("vm", "delete", "hello")
}

// replaceAgent ends the host agent and runs one whose QEMU gets more arguments.
func (s *system) replaceAgent(more string) {
	s.t.Helper()
	if err := s.service("host").Signal(unix.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	s.await("the agent has ended", time.Minute, func() bool { return !s.service("host").Alive() })
	dir, err := os.MkdirTemp("/tmp", "cloister-qemu-") // VMs' users must be able to pass
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	wrapper := filepath.Join(dir, "qemu")
	if err := os.Chmod(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	const qemu = "/usr/bin/qemu-system-x86_64"
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\nexec "+qemu+` "$@" `+more+"\n"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(s.state, "host", "config.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	config := filepath.Join(s.state, "host", "other.yaml")
	changed := strings.Replace(string(raw), "qemu: "+qemu, "qemu: "+wrapper, 1)
	if changed == string(raw) {
		s.t.Fatalf("the agent's configuration names no %s", qemu)
	}
	if err := os.WriteFile(config, []byte(changed), 0o600); err != nil {
		s.t.Fatal(err)
	}
	agent := exec.Command(filepath.Join(s.bin, "cloister"), "host", "run", "--config", config)
	if err := agent.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = agent.Process.Signal(unix.SIGTERM)
		_ = agent.Wait() // ended by our own signal
	})
}
