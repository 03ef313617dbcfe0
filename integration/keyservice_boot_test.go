//go:build boot

package integration

import (
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownKeyService is a VM whose guest-state key lies with a key keeper that its tenant runs: the platform's has none, the VM
// starts while the tenant's serves and not without it, and the tenant's log tells of each start.
func ownKeyService(t *testing.T, s *system) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	program, dir := filepath.Join(s.bin, "cloister-keys"), filepath.Join(t.TempDir(), "mine")
	if out, err := exec.Command(program, "init", dir, "--trust", filepath.Join(s.state, "trust.json"), "--listen", address).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	serve := func() (end func()) {
		c := exec.Command(program, "serve", "--config", filepath.Join(dir, "config.yaml"))
		c.Stdout, c.Stderr = io.Discard, io.Discard
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := false
		end = func() {
			if ended {
				return
			}
			ended = true
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := c.Wait(); err != nil {
				t.Errorf("the key keeper ends: %v", err)
			}
		}
		t.Cleanup(end)
		s.await("the tenant's key keeper", 20*time.Second, func() bool {
			conn, err := net.Dial("tcp", address)
			return err == nil && conn.Close() == nil
		})
		return end
	}
	end := serve()
	s.run("vm", "create", "own", "--key-service", filepath.Join(dir, "access.json"))
	if keys := s.run("key", "list"); strings.Contains(keys, "gs-") {
		t.Errorf("the platform's key keeper has the key:\n%s", keys)
	}
	end()
	if out, code := s.try("vm", "restart", "own"); code == 0 || !strings.Contains(out, "mine.keys.localhost") {
		t.Errorf("a start without the tenant's key keeper: exit status %d\n%s", code, out)
	}
	end = serve()
	from := time.Now()
	s.run("vm", "start", "own")
	s.awaitStep("own", from, "guest-attestation", "done")
	s.run("vm", "attest", "own")
	s.run("vm", "delete", "own")
	end()
	log, err := exec.Command(program, "audit", "--state-dir", filepath.Join(dir, "state")).CombinedOutput()
	if err != nil || strings.Count(string(log), "open     granted") != 2 {
		t.Errorf("the tenant's log: %v\n%s", err, log)
	}
}
