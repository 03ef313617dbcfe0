package host

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/qemu"
)

const vmID = "11111111-2222-3333-4444-555555555555"

func TestRecordSurvives(t *testing.T) {
	dir := t.TempDir()
	if r, err := loadRecord(dir); r != nil || err != nil {
		t.Fatalf("no record: %v, %v", r, err)
	}
	want := &record{Spec: api.VMSpec{VMID: vmID, Generation: 3}, Slot: 2, RestartCount: 1, Session: &sessionRecord{Launch: "h", SSHPort: 22, ConsoleOffset: 9, Up: true},
		Halt: &halt{Generation: 3}, Failure: evidence.Refuse(evidence.CodeBoot, "boot", "got", "want")}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "vm.json"), []byte(`{"spec":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRecord(dir); err == nil {
		t.Error("a record that is cut off was read")
	}
}

func TestHaltEndsWithANewWish(t *testing.T) {
	h := &halt{Generation: 3, RestartCount: 1}
	for _, row := range []struct {
		name  string
		h     *halt
		s     api.VMSpec
		holds bool
	}{
		{"same wish", h, api.VMSpec{Generation: 3, RestartCount: 1}, true},
		{"new generation", h, api.VMSpec{Generation: 4, RestartCount: 1}, false},
		{"restart", h, api.VMSpec{Generation: 3, RestartCount: 2}, false},
		{"never halted", nil, api.VMSpec{Generation: 3, RestartCount: 1}, false},
	} {
		if got := row.h.holds(row.s); got != row.holds {
			t.Errorf("%s: got %v, want %v", row.name, got, row.holds)
		}
	}
}

func TestLayoutKeepsVMsApart(t *testing.T) {
	c := Config{StateDir: t.TempDir(), RunDir: t.TempDir(), UIDBase: 900_000}
	l := c.layout(vmID, 1)
	t.Cleanup(func() {
		if err := l.remove(); err != nil {
			t.Error(err)
		}
	})
	other := c.layout("99999999-2222-3333-4444-555555555555", 2)
	if l.run == other.run || l.shm == other.shm || l.state == other.state {
		t.Fatalf("two VMs share a folder: %+v and %+v", l, other)
	}
	if os.Geteuid() == 0 {
		seen := map[uint32]bool{}
		for _, uid := range []uint32{l.qemuUID, l.paravisorUID, other.qemuUID, other.paravisorUID} {
			if uid < c.UIDBase || seen[uid] {
				t.Errorf("uid %d is shared, or the system's", uid)
			}
			seen[uid] = true
		}
	}
	if err := l.make(); err != nil {
		t.Fatal(err)
	}
	for dir, mode := range map[string]os.FileMode{l.state: 0o700, l.guest: 0o700, l.run: 0o711, l.paravisorDir(): 0o750, l.qemuDir(): 0o700, l.networkDir(): 0o750, l.shm: 0o700} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s: mode %o, want %o", dir, info.Mode().Perm(), mode)
		}
	}
	if err := l.remove(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{l.state, l.run, l.shm} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

func TestOnlyPassableProgramsAreReachable(t *testing.T) {
	dir := t.TempDir()
	if !passable("/usr/bin/env") {
		t.Error("a program of the system: not passable")
	}
	private := filepath.Join(dir, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(private, "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if passable(program) {
		t.Error("a program in a private folder: passable")
	}
	if passable(filepath.Join(dir, "missing")) {
		t.Error("a missing program: passable")
	}
}

// An agent that takes over starts after the last whole line that was acted on, and at the start of one cut off.
func TestConsoleIsNotReadTwice(t *testing.T) {
	c := Config{StateDir: t.TempDir(), RunDir: t.TempDir()}
	a := &Agent{cfg: c, deps: Deps{Now: time.Now}, log: slog.New(slog.NewTextHandler(io.Discard, nil)), machines: map[string]*machine{}, news: make(chan struct{}, 1)}
	first := `CLOISTER-EVENT {"step":"image","state":"done"}` + "\n"
	cut := `CLOISTER-EVENT {"step":"os-disk",`
	open := func(r *record) *machine { return newMachine(a, r) }
	m := open(&record{Spec: api.VMSpec{VMID: vmID}, Session: &sessionRecord{}})
	l := m.layout()
	if err := os.MkdirAll(l.state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.console(), []byte(first+cut), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(m *machine) []string {
		s := &session{ended: make(chan struct{})}
		s.end() // so that the watch stops at the end of the text
		m.watchConsole(context.Background(), s, l.console(), m.rec.Session.ConsoleOffset)
		var steps []string
		for _, e := range a.events {
			steps = append(steps, e.Step)
		}
		a.events = nil
		return steps
	}
	if got := strings.Join(read(m), " "); got != "image" {
		t.Fatalf("first agent: got %q, want image", got)
	}
	kept, err := loadRecord(l.state)
	if err != nil || kept == nil {
		t.Fatalf("record: %v, %v", kept, err)
	}
	if kept.Session.ConsoleOffset != int64(len(first)) {
		t.Errorf("offset: got %d, want %d", kept.Session.ConsoleOffset, len(first))
	}
	f, err := os.OpenFile(l.console(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`"state":"done"}` + "\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := strings.Join(read(open(kept)), " "); got != "os-disk" {
		t.Errorf("next agent: got %q, want os-disk alone", got)
	}
}

// An agent that died between writing what a console said and telling it has a successor that tells the same.
func TestWhatTheConsoleSaidIsToldBySomebody(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	c := Config{StateDir: t.TempDir(), RunDir: t.TempDir()}
	agent := func() *Agent {
		return &Agent{cfg: c, deps: Deps{Now: func() time.Time { now = now.Add(time.Second); return now }}, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			machines: map[string]*machine{}, news: make(chan struct{}, 1)}
	}
	feed := func(m *machine, text string) *session {
		var console qemu.Console
		s := &session{ended: make(chan struct{})}
		m.found(s, console.Feed([]byte(text)), func(*sessionRecord) {})
		return s
	}
	first := agent()
	m := newMachine(first, &record{Spec: api.VMSpec{VMID: vmID, Generation: 4}, Session: &sessionRecord{}})
	if err := os.MkdirAll(m.layout().state, 0o700); err != nil {
		t.Fatal(err)
	}
	s := feed(m, `CLOISTER-EVENT {"step":"image","state":"done"}`+"\n"+`CLOISTER-EVENT {"step":"unlock","state":"failed","detail":{"error":"another volume"}}`+"\n")
	if !s.over() || s.bootKO == nil || s.bootKO.Got != "another volume" {
		t.Errorf("the boot was not given up: %+v", s.bootKO)
	}
	kept, err := loadRecord(m.layout().state)
	if err != nil || kept == nil {
		t.Fatalf("record: %v, %v", kept, err)
	}
	second := agent()
	next := newMachine(second, kept)
	next.adopt(t.Context())
	if len(first.events) != 2 || !reflect.DeepEqual(first.events, second.events) {
		t.Errorf("told %+v, and then %+v", first.events, second.events)
	}
	if f := next.failure(); f == nil || f.Got != "another volume" || !next.rec.Halt.holds(next.spec()) {
		t.Errorf("failure %+v, halt %+v", f, next.rec.Halt)
	}

	m = newMachine(agent(), &record{Spec: api.VMSpec{VMID: vmID}, Session: &sessionRecord{}})
	s = feed(m, `CLOISTER-EVENT {"step":"distribution","state":"done"}`+"\n"+`CLOISTER-EVENT {"step":"guest-attestation","state":"failed"}`+"\n"+"Kernel panic - not syncing\n")
	if s.over() || m.runningPhase() != api.PhaseRunning || len(m.agent.events) != 2 {
		t.Errorf("a distribution that is up was given up, or its panic was told as a failed boot: %+v", m.agent.events)
	}
	for range 2 * maxTold {
		feed(m, `CLOISTER-EVENT {"step":"chatter","state":"done"}`+"\n")
	}
	if n := len(m.rec.Session.Told); n != maxTold {
		t.Errorf("%d events of a chatty guest are kept", n)
	}
}

func TestOnlyUUIDsBecomePaths(t *testing.T) {
	if !validID(vmID) {
		t.Error("a UUID is refused")
	}
	for _, id := range []string{"", "..", "../" + vmID, vmID + "/x", strings.ToUpper("a" + vmID[1:]), vmID + "\n"} {
		if validID(id) {
			t.Errorf("%q is taken for an id", id)
		}
	}
}
