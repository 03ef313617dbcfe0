package host

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/launcher"
	"cloister.dev/cloister/host/process"
	"cloister.dev/cloister/image"
	paravisor "cloister.dev/cloister/paravisor/client"
)

// TestMain lets the test's own program stand in for the paravisor and for QEMU: the agent starts it under their names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "cloister-paravisor":
		fakeParavisor()
	case "qemu-system-x86_64":
		fakeQEMU()
	default:
		os.Exit(m.Run())
	}
}

// fakeParavisor answers as one that is ready, unless the init data's name asks for a refusal.
func fakeParavisor() {
	raw, err := os.ReadFile(os.Args[3])
	if err != nil {
		panic(err)
	}
	var c paravisor.Config
	if err := json.Unmarshal(raw, &c); err != nil {
		panic(err)
	}
	st := paravisor.Status{Phase: paravisor.PhaseReady, Events: []paravisor.Event{{Time: time.Now(), Step: "vtpm", State: paravisor.StateDone}}}
	if init, err := os.ReadFile(c.InitDataFile); err == nil && strings.Contains(string(init), "refuse me") {
		st.Phase, st.Failure = paravisor.PhaseFailed, evidence.Refuse(evidence.CodePolicy, "release policy", "another launch", "the one it names")
	}
	l, err := net.Listen("unix", filepath.Join(c.RunDir, paravisor.ControlSocket))
	if err != nil {
		panic(err)
	}
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(st) })))
}

// fakeQEMU speaks the machine protocol, and says on its console (descriptor 6) that the distribution is up.
func fakeQEMU() {
	var socket string
	for n, arg := range os.Args {
		if arg == "-qmp" {
			socket = strings.TrimSuffix(strings.TrimPrefix(os.Args[n+1], "unix:"), ",server=on,wait=off")
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	console := os.NewFile(6, "console")
	gaveUp := strings.Contains(strings.Join(os.Args, " "), "-smp 2") // a guest that will not boot
	if !gaveUp {
		fmt.Fprintln(console, `CLOISTER-EVENT {"step":"distribution","state":"done"}`)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(conn, `{"QMP":{}}`)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			fmt.Fprintln(conn, `{"return":{}}`)
			if gaveUp {
				fmt.Fprintln(conn, `{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}`)
				fmt.Fprintln(console, `CLOISTER-EVENT {"step":"unlock","state":"failed","detail":{"code":"fail/boot","error":"another volume"}}`)
				os.Exit(0)
			}
			if strings.Contains(lines.Text(), "system_powerdown") {
				fmt.Fprintln(conn, `{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}`)
				os.Exit(0)
			}
			if strings.Contains(lines.Text(), "quit") {
				os.Exit(0)
			}
		}
	}
}

// fakeLauncher measures nothing.
type fakeLauncher struct {
	mu      sync.Mutex
	err     error
	handles map[string]bool
	probes  int // that were made
}

func (*fakeLauncher) Name() string   { return "software" }
func (*fakeLauncher) TEEs() []string { return []string{"snp"} }
func (l *fakeLauncher) Launch(context.Context, api.VMSpec) (*launcher.Launched, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	handle := fmt.Sprint(len(l.handles))
	l.handles[handle] = true
	return &launcher.Launched{Firmware: f, Handle: handle, Socket: "/nonexistent", Accel: "tcg"}, nil
}
func (l *fakeLauncher) Probe(_ context.Context, tee string, data [64]byte) (raw, chain []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.probes++; l.err != nil {
		return nil, nil, l.err
	}
	return append([]byte(tee), data[:]...), []byte("chain"), nil
}
func (l *fakeLauncher) Destroy(_ context.Context, handle string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.handles, handle)
	return nil
}

// control is a control plane that a test speaks through.
type control struct {
	probes   []api.Probe // asked in every answer, as one that has not heard yet
	probed   []api.ProbeReport
	messages chan api.Message
	mu       sync.Mutex
	last     map[string]api.VMStatus
	disks    map[string]api.DiskStatus // as last told
	changed  chan struct{}
}

func (c *control) Watch(ctx context.Context, handle func(api.Message) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-c.messages:
			if err := handle(m); err != nil {
				return err
			}
		}
	}
}

func (c *control) Report(_ context.Context, r api.Report) (*api.ReportResponse, error) {
	c.mu.Lock()
	c.probed = append(c.probed, r.Probes...)
	out := &api.ReportResponse{Probes: c.probes}
	for _, d := range r.Disks {
		c.disks[d.ID] = d
	}
	c.last = map[string]api.VMStatus{}
	for _, s := range r.VMs {
		c.last[s.VMID] = s
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	return out, nil
}
func (*control) Identity(context.Context, string, string) (string, error) { return "token", nil }
func (*control) Answer(context.Context, string, string, api.Answer) error { return nil }
func (c *control) status(id string) (api.VMStatus, bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.last[id]
	return s, ok, c.changed
}

// world is a host with fakes around a real agent.
type world struct {
	t        *testing.T
	cfg      Config
	launcher *fakeLauncher
	control  *control
	spec     api.VMSpec
	stop     func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "clh") // every user may pass, and sockets fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(base, "program")
	if err := errors.Join(os.Chmod(base, 0o755), install(self, program)); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, launcher: &fakeLauncher{handles: map[string]bool{}}, control: &control{messages: make(chan api.Message), last: map[string]api.VMStatus{}, disks: map[string]api.DiskStatus{}, changed: make(chan struct{})}}
	w.cfg = Config{Name: "h", ControlPlane: "https://x", CAFile: "x", StateDir: filepath.Join(base, "s"), RunDir: filepath.Join(base, "r"), ImagesDir: filepath.Join(base, "i"),
		QEMU: program, Paravisor: program, Forward: program, Software: &SoftwareConfig{Firmware: "/dev/null", Socket: "/x", Accel: "tcg"}, Attest: "127.0.0.1:1", Keys: "127.0.0.1:1",
		VCPUs: 1, MemoryMiB: 512, Slots: 1, UIDBase: 910_000, BootMinutes: 1}
	w.spec = api.VMSpec{VMID: vmID, Name: "web", Mode: api.ModeDisk, SecureBoot: true, VCPUs: 1, MemoryMiB: 512, CPUModel: "EPYC", Image: w.image(), InitData: []byte("{}"),
		Power: api.PowerRunning, Generation: 1}
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
		if err := EndVMs(context.Background(), w.cfg, w.launcher, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		left, err := process.Naming(base)
		if err != nil || len(left) != 0 {
			t.Errorf("left running: %v %v", left, err)
		}
	})
	return w
}

// image writes the smallest image whose manifest is whole.
func (w *world) image() api.Image {
	w.t.Helper()
	dir := filepath.Join(w.cfg.ImagesDir, "tiny")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	file := func(name string) image.File {
		content := make([]byte, 4096)
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			w.t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		return image.File{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}
	}
	m := image.Manifest{Format: image.ManifestVersion, Name: "tiny", Version: "1", Disk: file("disk.img"), UKI: file("uki.efi"), Vars: file("vars.fd")}
	raw, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	m.Digest = "sha256:" + hex.EncodeToString(sum[:])
	if raw, err = json.Marshal(m); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, image.ManifestFile), raw, 0o644); err != nil {
		w.t.Fatal(err)
	}
	return api.Image{Name: "tiny", Digest: m.Digest}
}

// run starts an agent, as after a start of the host.
func (w *world) run() {
	w.t.Helper()
	a, err := New(w.cfg, Deps{Launcher: w.launcher, Control: w.control, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = nil
	}
	w.control.messages <- api.Message{Kind: api.MessageSnapshot, VMs: []api.VMSpec{w.spec}}
}

// want changes what the VM should be.
func (w *world) want(change func(*api.VMSpec)) {
	change(&w.spec)
	w.spec.Generation++
	s := w.spec
	w.control.messages <- api.Message{Kind: api.MessageVM, VM: &s}
}

func (w *world) await(what string, holds func(api.VMStatus) bool) api.VMStatus {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for {
		s, known, changed := w.control.status(vmID)
		if known && holds(s) {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("not %s: %+v", what, s)
		}
	}
}

func (w *world) awaitPhase(phase string) api.VMStatus {
	w.t.Helper()
	return w.await(phase, func(s api.VMStatus) bool { return s.Phase == phase && s.Generation == w.spec.Generation })
}

func (w *world) session() sessionRecord {
	w.t.Helper()
	r, err := loadRecord(filepath.Join(w.cfg.StateDir, "vms", vmID))
	if err != nil || r == nil || r.Session == nil {
		w.t.Fatalf("record %+v, %v", r, err)
	}
	return *r.Session
}

func TestAVMsLife(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.awaitPhase(api.PhaseRunning)
	first := w.session()
	if !first.QEMU.Alive() || !first.Paravisor.Alive() || !first.Up {
		t.Fatalf("session %+v", first)
	}

	t.Run("a second wish for the same changes nothing", func(t *testing.T) {
		w.want(func(*api.VMSpec) {})
		w.awaitPhase(api.PhaseRunning)
		if w.session().QEMU != first.QEMU {
			t.Error("started anew")
		}
	})
	t.Run("CP-09 an agent that starts again finds the VM", func(t *testing.T) {
		w.stop()
		if !first.QEMU.Alive() {
			t.Fatal("the VM ended with its agent")
		}
		w.run()
		w.awaitPhase(api.PhaseRunning)
		if w.session().QEMU != first.QEMU {
			t.Error("started anew")
		}
	})
	t.Run("a restart is carried out once", func(t *testing.T) {
		w.want(func(s *api.VMSpec) { s.RestartCount++ })
		w.await("restarted", func(s api.VMStatus) bool { return s.RestartCount == 1 && s.Phase == api.PhaseRunning })
		if again := w.session(); again.QEMU == first.QEMU || first.QEMU.Alive() || first.Paravisor.Alive() {
			t.Errorf("session %+v after %+v", again, first)
		}
	})
	t.Run("CP-09 a killed QEMU is started anew", func(t *testing.T) {
		before := w.session()
		if err := before.QEMU.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.await("another QEMU", func(s api.VMStatus) bool {
			r, err := loadRecord(filepath.Join(w.cfg.StateDir, "vms", vmID))
			return err == nil && s.Phase == api.PhaseRunning && r.Session != nil && r.Session.QEMU != before.QEMU && r.Session.QEMU.Alive()
		})
		if before.Paravisor.Alive() {
			t.Error("its paravisor goes on")
		}
	})
	t.Run("a stopped VM has no processes and keeps its disk", func(t *testing.T) {
		before := w.session()
		w.want(func(s *api.VMSpec) { s.Power = api.PowerStopped })
		if s := w.awaitPhase(api.PhaseStopped); s.Power != api.PowerStopped {
			t.Errorf("power %s", s.Power)
		}
		if before.QEMU.Alive() || before.Paravisor.Alive() {
			t.Error("processes go on")
		}
		if _, err := os.Stat(w.cfg.layout(vmID, 0).osDisk()); err != nil {
			t.Error(err)
		}
	})
	t.Run("CP-08 an image that was exchanged is refused", func(t *testing.T) {
		w.want(func(s *api.VMSpec) { s.Power, s.Image.Digest = api.PowerRunning, "sha256:other" })
		if s := w.awaitPhase(api.PhaseFailed); s.Failure == nil || s.Failure.Code != evidence.CodeMeasurement {
			t.Errorf("failure %+v", s.Failure)
		}
	})
	t.Run("CP-04 a refusal stays until the tenant asks anew, and heals", func(t *testing.T) {
		good := w.image()
		w.want(func(s *api.VMSpec) { s.Image, s.InitData = good, []byte("refuse me") })
		if s := w.awaitPhase(api.PhaseFailed); s.Failure == nil || s.Failure.Code != evidence.CodePolicy {
			t.Errorf("failure %+v", s.Failure)
		}
		w.want(func(s *api.VMSpec) { s.InitData = []byte("{}") })
		if s := w.awaitPhase(api.PhaseRunning); s.Failure != nil {
			t.Errorf("failure %+v", s.Failure)
		}
	})
	t.Run("HD-12 a guest's last words are why it failed", func(t *testing.T) {
		w.want(func(s *api.VMSpec) { s.VCPUs = 2; s.RestartCount++ })
		if s := w.awaitPhase(api.PhaseFailed); s.Failure == nil || s.Failure.Code != evidence.CodeBoot || s.Failure.Got != "another volume" {
			t.Errorf("failure %+v", s.Failure)
		}
		w.want(func(s *api.VMSpec) { s.VCPUs = 1 })
		w.awaitPhase(api.PhaseRunning)
	})
	t.Run("a deleted VM leaves nothing", func(t *testing.T) {
		before := w.session()
		w.want(func(s *api.VMSpec) { s.Power = api.PowerDeleted })
		w.await("deleted", func(s api.VMStatus) bool { return s.Power == api.PowerDeleted })
		if _, err := os.Stat(filepath.Join(w.cfg.StateDir, "vms", vmID)); !errors.Is(err, os.ErrNotExist) || before.QEMU.Alive() || before.Paravisor.Alive() {
			t.Errorf("left: %v", err)
		}
		w.launcher.mu.Lock()
		defer w.launcher.mu.Unlock()
		if len(w.launcher.handles) != 0 {
			t.Errorf("launches left: %v", w.launcher.handles)
		}
	})
}

func TestWhatCannotBeHadIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.launcher.err = evidence.Refuse(evidence.CodeUnavailable, "software chip", "no answer", "an answer")
	w.run()
	if s := w.awaitPhase(api.PhaseFailed); s.Failure == nil || s.Failure.Code != evidence.CodeUnavailable {
		t.Errorf("failure %+v", s.Failure)
	}
	w.launcher.mu.Lock()
	w.launcher.err = nil
	w.launcher.mu.Unlock()
	w.awaitPhase(api.PhaseRunning)
}

func TestAVMThatNobodyKnowsIsEnded(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.awaitPhase(api.PhaseRunning)
	before := w.session()
	w.control.messages <- api.Message{Kind: api.MessageSnapshot}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(before.QEMU.Wait(ctx), before.Paravisor.Wait(ctx)); err != nil {
		t.Fatal(err)
	}
}

func TestIDsThatArePathsAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.spec.VMID = "../../../../etc/cloister"
	w.run()
	w.stop()
	if _, err := os.Stat("/etc/cloister"); err == nil {
		t.Error("SVC-12 a folder was made outside")
	}
}
