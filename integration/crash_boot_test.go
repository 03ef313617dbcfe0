//go:build boot

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	_ "cloister.dev/cloister/host" // registers its failpoints
	"cloister.dev/cloister/host/process"
	"cloister.dev/cloister/internal/failpoint"
	_ "cloister.dev/cloister/paravisor" // and those of the guest state
)

// TestCrashes kills the agent or the paravisor right after each durable write that they do for a VM. Started again, the
// system ends where it was asked to: one VM that boots, each process once, quota used once, and nothing after its end.
func TestCrashes(t *testing.T) {
	s := newSystem(t)
	s.bin = programsWithFailpoints(t, s.bin)
	s.image()

	const certificate = "host/certificate"
	t.Run("CP-09 "+certificate, s.sub(func(s *system) {
		s.failAt(certificate)
		if out, code := s.try("up"); code != 1 || !strings.Contains(out, "host ended") {
			s.t.Fatalf("up with an agent that dies: exit status %d\n%s", code, out)
		}
		s.failAt("")
		s.run("up") // the same key joins again, though its token was spent
	}))
	if t.Failed() {
		return
	}
	for _, point := range crashPoints(t) {
		if point != certificate {
			t.Run("CP-09 "+point, s.sub(func(s *system) { testCrash(s, point) }))
		}
	}
}

// crashPoints lists the registered points. The record is written at each stage of a start, so each stage is a point.
func crashPoints(t *testing.T) []string {
	var points []string
	for _, name := range failpoint.Names() {
		if strings.HasPrefix(name, "disks/") {
			continue // killed without a VM, in host/disk
		}
		if name != "host/record" {
			points = append(points, name)
			continue
		}
		for stage := 1; stage <= 4; stage++ { // begun, launched, paravisor started, QEMU started
			points = append(points, fmt.Sprintf("%s#%d", name, stage))
		}
	}
	if len(points) < 10 {
		t.Fatalf("only %d failpoints are registered: %v", len(points), points)
	}
	return points
}

func programsWithFailpoints(t *testing.T, bin string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("cp", "-a", bin+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the programs: %v\n%s", err, out)
	}
	out, err := exec.Command("go", "build", "-trimpath", "-tags", "failpoints", "-o", dir+"/", "../cmd/cloister", "../cmd/cloister-paravisor").CombinedOutput()
	if err != nil {
		t.Fatalf("building the programs with failpoints: %v\n%s", err, out)
	}
	return dir
}

// failAt makes what is started from now on die at a point.
func (s *system) failAt(point string) {
	s.env = nil
	if point != "" {
		s.env = []string{"CLOISTER_FAILPOINT=" + point}
	}
}

// restartAgent ends the agent, as a crash does, and starts it with the environment of now.
func (s *system) restartAgent() {
	s.t.Helper()
	h := s.service("host")
	if err := h.Signal(unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	if err := h.Wait(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	s.run("up")
}

func testCrash(s *system, point string) {
	s.failAt(point)
	s.restartAgent()
	seen := s.logSize()
	agent := s.service("host")
	s.t.Cleanup(func() {
		if s.t.Failed() { // the next point begins without this VM
			s.failAt("")
			s.try("up")
			s.try("vm", "delete", "crash")
		}
	})
	s.run("vm", "create", "crash", "--no-wait")
	s.await("something died at "+point, bootLimit, func() bool {
		if strings.HasPrefix(point, "host/") {
			return !agent.Alive()
		}
		said := s.logFrom(seen)
		return bytes.Contains(said, []byte("the VM did not start")) || bytes.Contains(said, []byte("the VM's processes ended"))
	})

	s.failAt("")
	s.restartAgent()
	id := s.show("crash").VMID
	var qemu, paravisor process.Handle
	s.await("the VM boots", bootLimit, func() bool {
		if phase := s.show("crash").Journey.Phase; phase != "booting" && phase != "running" {
			return false
		}
		var ok bool
		paravisor, qemu, ok = s.session(id)
		return ok && qemu.Alive() && paravisor.Alive()
	})
	if found, err := process.Naming("cloister-" + id); err != nil || len(found) != 1 || found[0] != qemu {
		s.t.Errorf("QEMU processes %+v (%v), want %+v", found, err, qemu)
	}
	if found, err := process.Naming(s.runDir() + "/vms/"); err != nil || !holds(found, qemu, paravisor) {
		s.t.Errorf("processes %+v (%v), want %+v and %+v among them", found, err, qemu, paravisor)
	}
	if got := s.usage("virtualMachines"); got != 1 {
		s.t.Errorf("%d VMs count for the quota, want 1", got)
	}

	s.run("vm", "delete", "crash")
	s.await("nothing of the VM is left", time.Minute, func() bool {
		_, err := os.Stat(filepath.Join(s.state, "host", "vms", id))
		left, naming := process.Naming(s.runDir()+"/vms/", id)
		if naming != nil {
			s.t.Fatal(naming)
		}
		return os.IsNotExist(err) && len(left) == 0
	})
	for _, kind := range []string{"virtualMachines", "cores"} {
		if got := s.usage(kind); got != 0 {
			s.t.Errorf("%s: %d are still used", kind, got)
		}
	}
}

func holds(found []process.Handle, wanted ...process.Handle) bool {
	for _, w := range wanted {
		n := 0
		for _, f := range found {
			if f == w {
				n++
			}
		}
		if n != 1 {
			return false
		}
	}
	return true
}

func (s *system) logSize() int {
	return len(s.logFrom(0))
}

// logFrom is what the agent logged after a position.
func (s *system) logFrom(at int) []byte {
	raw, err := os.ReadFile(filepath.Join(s.state, "log", "host.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return raw[min(at, len(raw)):]
}

// runDir is the folder of sockets that is this system's own.
func (s *system) runDir() string {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.state, "host", "config.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	var c struct {
		RunDir string `json:"runDir"`
	}
	if err := yaml.Unmarshal(raw, &c); err != nil {
		s.t.Fatal(err)
	}
	if c.RunDir == "" {
		s.t.Fatal("the agent's configuration names no run folder")
	}
	return c.RunDir
}
