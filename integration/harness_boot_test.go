//go:build boot

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/host/process"
)

// system is one installation, used through the command line as its users do.
type system struct {
	t     *testing.T
	bin   string
	state string
	env   []string
}

func newSystem(t *testing.T) *system {
	t.Helper()
	bin := os.Getenv("CLOISTER_BIN")
	if bin == "" {
		bin = "../bin"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "cloister")); err != nil {
		t.Fatalf("the programs are not built (%v); run: make build", err)
	}
	s := &system{t: t, bin: bin, state: filepath.Join(t.TempDir(), "state")}
	t.Cleanup(s.end)
	return s
}

// end stops the system and looks for anything that was left running.
func (s *system) end() {
	if out, code := s.try("down"); code != 0 {
		s.t.Errorf("down: %s", out)
	}
	left, err := process.Naming(s.state)
	if err != nil {
		s.t.Error(err)
	}
	for _, h := range left {
		s.t.Errorf("process %d was left", h.PID)
		_ = h.Stop(context.Background(), 0)
	}
	if s.t.Failed() {
		s.showLogs()
	}
}

func (s *system) showLogs() {
	for _, glob := range []string{"log/*.log", "host/vms/*/*.log"} {
		files, err := filepath.Glob(filepath.Join(s.state, glob))
		if err != nil {
			s.t.Error(err)
		}
		for _, f := range files {
			if raw, err := os.ReadFile(f); err == nil {
				s.t.Logf("%s ends:\n%s", filepath.Base(f), raw[max(0, len(raw)-1500):])
			}
		}
	}
}

// commandLimit is the longest that one command may take.
const commandLimit = 6 * time.Minute

// try runs a command and returns all it printed and its exit status.
func (s *system) try(args ...string) (string, int) {
	s.t.Helper()
	return s.tryWith(nil, args...)
}

// tryWith is try for a command that reads something.
func (s *system) tryWith(input io.Reader, args ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "cloister"), args...)
	cmd.Env = append(append(os.Environ(), "CLOISTER_STATE="+s.state), s.env...)
	cmd.Stdin = input
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("cloister %v: %v\n%s", args, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// run is try for what must succeed.
func (s *system) run(args ...string) string {
	s.t.Helper()
	return s.runWith(nil, args...)
}

// runWith is run for a command that reads something.
func (s *system) runWith(input io.Reader, args ...string) string {
	s.t.Helper()
	out, code := s.tryWith(input, args...)
	if code != 0 {
		s.t.Fatalf("cloister %s: exit status %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// refused is try for what must end with a status and say something.
func (s *system) refused(status int, says string, args ...string) {
	s.t.Helper()
	out, code := s.try(args...)
	if code != status || !strings.Contains(out, says) {
		s.t.Errorf("cloister %s: exit status %d, want %d and %q:\n%s", strings.Join(args, " "), code, status, says, out)
	}
}

func (s *system) json(to any, args ...string) {
	s.t.Helper()
	out := s.run(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), to); err != nil {
		s.t.Fatalf("cloister %v: %v\n%s", args, err, out)
	}
}

type event struct {
	Time   time.Time
	Step   string
	State  string
	Detail map[string]string
}

type show struct {
	Power   string
	VMID    string
	Journey struct {
		Phase       string
		SSHEndpoint string
		Failure     *struct{ Code, Field, Got, Want string }
		Events      []event
	}
}

func (s *system) show(vm string) show {
	s.t.Helper()
	var v show
	s.json(&v, "vm", "show", vm)
	return v
}

// await looks again and again until a condition holds.
func (s *system) await(what string, limit time.Duration, holds func() bool) {
	s.t.Helper()
	deadline := time.After(limit)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline:
			s.t.Fatalf("after %s still not: %s", limit, what)
		case <-again.C:
		}
	}
}

// bootLimit is how long a boot under emulation may take on a busy machine.
const bootLimit = 5 * time.Minute

// since finds a step's last event that is newer than a time.
func (s *system) since(vm string, from time.Time, step, state string) (event, bool) {
	events := s.show(vm).Journey.Events
	for i := len(events) - 1; i >= 0; i-- {
		if e := events[i]; e.Step == step && e.State == state && e.Time.After(from) {
			return e, true
		}
	}
	return event{}, false
}

func (s *system) awaitStep(vm string, from time.Time, step, state string) event {
	s.t.Helper()
	var found event
	s.await(step+" "+state, bootLimit, func() bool {
		e, ok := s.since(vm, from, step, state)
		found = e
		return ok
	})
	return found
}

// handles reads the VM's processes from the agent's record.
func (s *system) handles(vmID string) (paravisor, qemu process.Handle) {
	s.t.Helper()
	paravisor, qemu, ok := s.session(vmID)
	if !ok {
		s.t.Fatal("the VM has no session")
	}
	return paravisor, qemu
}

// session is handles for a VM that may not run.
func (s *system) session(vmID string) (paravisor, qemu process.Handle, ok bool) {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.state, "host", "vms", vmID, "vm.json"))
	if errors.Is(err, os.ErrNotExist) {
		return paravisor, qemu, false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var r struct {
		Session *struct{ Paravisor, QEMU process.Handle }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		s.t.Fatal(err)
	}
	if r.Session == nil {
		return paravisor, qemu, false
	}
	return r.Session.Paravisor, r.Session.QEMU, true
}

// service finds a service's process.
func (s *system) service(name string) process.Handle {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.state, "processes.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var all map[string]process.Handle
	if err := json.Unmarshal(raw, &all); err != nil {
		s.t.Fatal(err)
	}
	return all[name]
}

// find looks for bytes in a sparse file.
func find(t *testing.T, path string, what []byte) int64 {
	t.Helper()
	at, ok := search(t, path, what)
	if !ok {
		t.Fatalf("%s does not hold %q", path, what)
	}
	return at
}

// search is find for what may not be there. It goes page by page.
func search(t *testing.T, path string, what []byte) (at int64, ok bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const chunk = 4 << 20
	buf := make([]byte, chunk+len(what))
	for at := int64(0); ; at += chunk {
		n, err := f.ReadAt(buf, at)
		if i := bytes.Index(buf[:n], what); i >= 0 {
			return at + int64(i), true
		}
		if errors.Is(err, io.EOF) {
			return 0, false
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// change writes other bytes into a file and returns what puts the old ones back.
func change(t *testing.T, path string, at int64, to []byte) (restore func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := make([]byte, len(to))
	if _, err := f.ReadAt(old, at); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(to, at); err != nil {
		t.Fatal(err)
	}
	return func() { change(t, path, at, old) }
}
