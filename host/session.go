package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/process"
	"cloister.dev/cloister/host/qemu"
	paravisor "cloister.dev/cloister/paravisor/client"
)

// Graces for an orderly end.
const (
	shutdownGrace  = 90 * time.Second // a guest under emulation is slow
	quitGrace      = 10 * time.Second
	paravisorGrace = 15 * time.Second
)

// maxResets is how often a guest may reset itself before its distribution is up: more would be for ever.
const maxResets = 3

// session is one run of a VM as the agent that watches it sees it. Its processes outlive the agent; this does not.
type session struct {
	paravisor process.Handle
	qemu      process.Handle
	control   *paravisor.Client
	qmp       *qemu.QMP
	cancel    context.CancelFunc
	work      sync.WaitGroup
	ended     chan struct{} // closed when QEMU or the paravisor has ended, or the boot can't go on
	read      chan struct{} // closed when the console was read to its end after that

	mu     sync.Mutex
	once   sync.Once
	reason string            // of QEMU's SHUTDOWN event
	bootKO *evidence.Refusal // the guest or the firmware gave up
}

func sshEndpoint(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (s *session) end() { s.once.Do(func() { close(s.ended) }) }

func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *session) giveUp(r *evidence.Refusal) {
	s.mu.Lock()
	if s.bootKO == nil {
		s.bootKO = r
	}
	s.mu.Unlock()
	s.end()
}

// attach begins to watch a VM that runs.
func (m *machine) attach(ctx context.Context) error {
	m.mu.Lock()
	rec := *m.rec.Session
	spec := m.rec.Spec
	m.mu.Unlock()
	l := m.layout()
	ctx, cancel := context.WithCancel(ctx)
	s := &session{paravisor: rec.Paravisor, qemu: rec.QEMU, control: paravisor.Dial(l.paravisorDir() + "/control.sock"), cancel: cancel, ended: make(chan struct{}), read: make(chan struct{})}
	fail := func(err error) error {
		cancel()
		s.work.Wait()
		return err
	}
	if err := m.serve(ctx, s, l); err != nil {
		return fail(err)
	}
	q, err := dialQMP(ctx, s.qemu, l.qemuDir()+"/qmp.sock")
	if err != nil {
		return fail(err)
	}
	s.qmp = q
	for _, h := range []process.Handle{s.paravisor, s.qemu} {
		s.work.Add(1)
		go func() {
			defer s.work.Done()
			if h.Wait(ctx) == nil {
				s.end()
			}
		}()
	}
	s.work.Add(3)
	go func() { defer s.work.Done(); m.watchQMP(ctx, s) }()
	go func() {
		defer s.work.Done()
		defer close(s.read)
		m.watchConsole(ctx, s, l.console(), rec.ConsoleOffset)
	}()
	go func() { defer s.work.Done(); m.watchBoot(ctx, s, time.Duration(m.agent.cfg.BootMinutes)*time.Minute) }()
	m.mu.Lock()
	m.session = s
	m.mu.Unlock()
	m.log.Info("watching the VM", "name", spec.Name, "qemu", rec.QEMU.PID, "paravisor", rec.Paravisor.PID)
	return nil
}

// dialQMP waits for QEMU's socket, as long as QEMU is there.
func dialQMP(ctx context.Context, h process.Handle, socket string) (*qemu.QMP, error) {
	for {
		q, err := qemu.DialQMP(ctx, socket)
		if err == nil {
			return q, nil
		}
		if !h.Alive() {
			return nil, unavailable("QEMU", "it ended at once", "a running QEMU; see qemu.log in the VM's folder")
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// detach stops watching and leaves the VM running.
func (m *machine) detach() {
	m.mu.Lock()
	s := m.session
	m.session = nil
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.cancel()
	if s.qmp != nil {
		s.qmp.Close()
	}
	s.work.Wait()
}

// adopt takes over a session that an earlier agent started, or clears up what is left of it.
func (m *machine) adopt(ctx context.Context) {
	m.mu.Lock()
	rec := m.rec.Session
	m.mu.Unlock()
	m.tellAgain()
	gaveUp := rec != nil && rec.GaveUp != nil
	if rec != nil && !gaveUp && rec.QEMU.Alive() && rec.Paravisor.Alive() {
		if err := m.attach(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			m.log.Warn("a running VM can't be taken over; it is started anew", "error", err)
		}
	}
	if err := m.end(ctx, false); err != nil && ctx.Err() == nil {
		m.log.Error("clearing up after an earlier agent failed", "error", err)
	}
	if gaveUp {
		m.fail(rec.GaveUp, true)
	}
}

// end stops the VM's processes and forgets the launch. It may run any number of times.
func (m *machine) end(ctx context.Context, orderly bool) error {
	m.mu.Lock()
	rec := m.rec.Session
	s := m.session
	m.mu.Unlock()
	l := m.layout()
	switch {
	case rec == nil || !rec.QEMU.Alive():
	case !rec.Paravisor.Alive():
		// QEMU waits for its vTPM and variables, which are gone, and answers nothing meanwhile.
		if err := rec.QEMU.Stop(ctx, 0); err != nil {
			return err
		}
	default:
		if err := m.endQEMU(ctx, s, rec.QEMU, l, orderly); err != nil {
			return err
		}
	}
	m.detach()
	if rec != nil && rec.Paravisor.Alive() {
		if err := rec.Paravisor.Stop(ctx, paravisorGrace); err != nil {
			return err
		}
	}
	// What was started but never recorded: a crash in between.
	strays, err := process.Naming(l.run, l.shm)
	if err != nil {
		return err
	}
	for _, h := range strays {
		if err := h.Stop(ctx, paravisorGrace); err != nil {
			return err
		}
	}
	if rec != nil && rec.Launch != "" {
		if err := m.agent.deps.Launcher.Destroy(ctx, rec.Launch); err != nil {
			m.log.Warn("the launch was not forgotten", "error", err)
		}
	}
	if err := errors.Join(os.RemoveAll(l.run), os.RemoveAll(l.shm)); err != nil {
		return err
	}
	m.mu.Lock()
	had := m.rec.Session != nil
	m.rec.Session = nil
	m.mu.Unlock()
	if had {
		if _, err := os.Stat(l.state); err == nil {
			return m.save()
		}
	}
	return nil
}

func (m *machine) endQEMU(ctx context.Context, s *session, h process.Handle, l layout, orderly bool) error {
	q := (*qemu.QMP)(nil)
	if s != nil {
		q = s.qmp
	} else if dialled, err := qemu.DialQMP(ctx, l.qemuDir()+"/qmp.sock"); err == nil {
		q = dialled
		defer q.Close()
	}
	try := func(command string, grace time.Duration) bool {
		if q == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if err := q.Execute(ctx, command); err != nil && h.Alive() {
			m.log.Warn("QEMU did not take a command", "command", command, "error", err)
			return false
		}
		return h.Wait(ctx) == nil
	}
	// Before the distribution is up nobody listens to the power button.
	if orderly && m.runningPhase() == api.PhaseRunning && try("system_powerdown", shutdownGrace) {
		return nil
	}
	if try("quit", quitGrace) {
		return nil
	}
	return h.Stop(ctx, quitGrace)
}

// afterEnd decides what the end of a session means.
func (m *machine) afterEnd(ctx context.Context, s *session) {
	<-s.read // the guest's last words say why
	s.mu.Lock()
	reason, boot := s.reason, s.bootKO
	s.mu.Unlock()
	m.mu.Lock()
	up, attempts := m.rec.Session != nil && m.rec.Session.Up, m.attempts
	m.mu.Unlock()
	if err := m.end(ctx, false); err != nil {
		m.log.Error("clearing up after the VM's end failed", "error", err)
	}
	switch {
	case boot != nil:
		m.log.Warn("the VM's boot was given up", "reason", boot)
		m.fail(boot, true)
	case reason == "guest-shutdown" && up:
		m.log.Info("the guest shut itself down")
		m.mu.Lock()
		m.rec.Halt = &halt{Generation: m.rec.Spec.Generation, RestartCount: m.rec.Spec.RestartCount}
		m.mu.Unlock()
		if err := m.save(); err != nil {
			m.log.Error("the VM's record was not written", "error", err)
		}
	case reason == "guest-shutdown":
		m.fail(evidence.Refuse(evidence.CodeBoot, "boot", "the guest turned itself off before its distribution was up", "a booted distribution; see the console"), true)
	case reason == "guest-reset" && !up && attempts >= maxResets:
		m.fail(evidence.Refuse(evidence.CodeBoot, "boot", fmt.Sprintf("%d resets before the distribution was up", attempts), "a booted distribution; see the console"), true)
	case reason == "guest-reset":
		m.log.Info("the guest asked for a reset; starting it anew")
	default:
		m.log.Warn("the VM's processes ended; starting it anew", "reason", reason)
		m.agent.tell(m.id, "restart", api.StepStarted, map[string]string{"reason": "a process of the VM ended"})
		m.mu.Lock()
		wait := time.Duration(1<<min(m.attempts, 6)) * 100 * time.Millisecond
		m.mu.Unlock()
		sleep(ctx, wait)
	}
}

func (m *machine) watchQMP(ctx context.Context, s *session) {
	defer s.qmp.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-s.qmp.Events():
			if !open {
				return
			}
			if e.Name == "SHUTDOWN" {
				s.mu.Lock()
				s.reason = e.Data.Reason
				s.mu.Unlock()
			}
		}
	}
}

// watchBoot gives up a boot that takes too long: a refused Secure Boot, for one, waits for ever.
func (m *machine) watchBoot(ctx context.Context, s *session, limit time.Duration) {
	select {
	case <-ctx.Done():
	case <-s.ended:
	case <-time.After(limit):
		if m.runningPhase() != api.PhaseRunning {
			s.giveUp(evidence.Refuse(evidence.CodeBoot, "boot", fmt.Sprintf("no distribution after %s", limit), "a booted distribution; see the console"))
		}
	}
}

// watchConsole reads what the VM prints, and keeps how far it has read.
func (m *machine) watchConsole(ctx context.Context, s *session, path string, offset int64) {
	f, err := os.Open(path)
	if err != nil {
		m.log.Error("the console can't be read", "error", err)
		return
	}
	defer f.Close()
	var console qemu.Console
	buf := make([]byte, 64<<10)
	lines := offset // end of the last whole line: an agent that takes over reads a line that was cut off anew
	for {
		over := s.over() // asked before reading: what is written up to the end is read
		n, err := f.ReadAt(buf, offset)
		if n > 0 {
			if end := bytes.LastIndexByte(buf[:n], '\n'); end >= 0 {
				lines = offset + int64(end) + 1
			}
			offset += int64(n)
			m.found(s, console.Feed(buf[:n]), func(r *sessionRecord) { r.ConsoleOffset = lines })
			continue
		}
		if err != nil && over {
			return
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// guestEvent is what the guest tells by its metadata service.
func (m *machine) guestEvent(s *session, e api.Event) {
	m.found(s, []qemu.Finding{{Event: &e}}, func(*sessionRecord) {})
}

// found keeps what the guest said, together with how far its console was read, and then acts on it. The record comes
// first: an agent that dies in between has a successor that tells it again, under the same time.
func (m *machine) found(s *session, findings []qemu.Finding, advance func(*sessionRecord)) {
	m.mu.Lock()
	r := m.rec.Session
	if r == nil {
		m.mu.Unlock()
		return
	}
	advance(r)
	was := r.Up
	var events []api.Event
	for _, f := range findings {
		e, gaveUp := m.read(f, r.Up)
		if e == nil {
			continue
		}
		events = append(events, *e)
		if e.Step == "distribution" && e.State == api.StepDone {
			r.Up, m.attempts = true, 0
		}
		if r.GaveUp == nil {
			r.GaveUp = gaveUp
		}
	}
	r.Told = append(r.Told, events...)
	r.Told = append([]api.Event(nil), r.Told[max(0, len(r.Told)-maxTold):]...)
	up, gaveUp := r.Up && !was, r.GaveUp
	m.mu.Unlock()
	if len(events) == 0 {
		return // the offset is written with the next record
	}
	if err := m.save(); err != nil {
		m.log.Error("the VM's record was not written", "error", err)
	}
	for _, e := range events {
		m.agent.tellEvent(e)
	}
	if up {
		m.set(api.PhaseRunning, api.PowerRunning)
	}
	if gaveUp != nil {
		s.giveUp(gaveUp)
	}
}

// read turns a finding into an event, under the agent's clock, since the guest's may be wrong; and into the reason why
// the boot can't go on, if it is one. Once the distribution is up nothing is given up.
func (m *machine) read(f qemu.Finding, up bool) (*api.Event, *evidence.Refusal) {
	switch {
	case f.Event != nil:
		e := *f.Event
		e.VMID, e.Time = m.id, m.agent.deps.Now().UTC()
		if e.State == api.StepFailed && !up {
			return &e, evidence.Refuse(evidence.CodeBoot, e.Step, e.Detail["error"], "a step that is done; see the console")
		}
		return &e, nil
	case f.BootFailed != "" && !up:
		e := api.Event{VMID: m.id, Time: m.agent.deps.Now().UTC(), Step: "uefi", State: api.StepFailed, Detail: map[string]string{"reason": f.BootFailed}}
		return &e, evidence.Refuse(evidence.CodeBoot, "boot", f.BootFailed, "an image that the VM's Secure Boot keys accept")
	}
	return nil, nil
}

// tellAgain tells what an earlier agent heard from the guest and may have died before telling.
func (m *machine) tellAgain() {
	m.mu.Lock()
	var events []api.Event
	if m.rec.Session != nil {
		events = append(events, m.rec.Session.Told...)
	}
	m.mu.Unlock()
	for _, e := range events {
		m.agent.tellEvent(e)
	}
}
