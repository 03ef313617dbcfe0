package host

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
)

var idForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// validID keeps anything that is no UUID away from paths.
func validID(id string) bool { return idForm.MatchString(id) }

func unavailable(field, got, want string) *evidence.Refusal {
	return evidence.Refuse(evidence.CodeUnavailable, field, got, want)
}

// machine keeps one VM as it should be. One goroutine, run, does all that is done to the VM; the rest hands it
// wishes and reads its status.
type machine struct {
	agent *Agent
	id    string
	log   *slog.Logger
	wake  chan struct{}

	mu       sync.Mutex
	rec      record
	phase    string
	power    api.Power // reached
	acted    uint64    // generation of the spec that phase and failure answer to
	dropped  bool      // the control plane knows the VM no more
	session  *session  // running, or nil
	attempts int       // starts since the VM last came up
	requests []api.Request
	asked    chan struct{} // a request has come
}

func newMachine(a *Agent, r *record) *machine {
	return &machine{agent: a, id: r.Spec.VMID, log: a.log.With("vm", r.Spec.VMID), wake: make(chan struct{}, 1), rec: *r, phase: api.PhasePending, asked: make(chan struct{}, 1)}
}

func (m *machine) layout() layout { return m.agent.cfg.layout(m.id, m.rec.Slot) }
func (m *machine) slot() int      { m.mu.Lock(); defer m.mu.Unlock(); return m.rec.Slot }
func (m *machine) spec() api.VMSpec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.Spec
}

// want sets what the VM should be.
func (m *machine) want(s api.VMSpec) {
	m.mu.Lock()
	m.rec.Spec = s
	m.mu.Unlock()
	m.nudge()
}

// drop says that the control plane has no record of the VM: it is ended and its things removed.
func (m *machine) drop() {
	m.mu.Lock()
	m.dropped = true
	m.mu.Unlock()
	m.nudge()
}

func (m *machine) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *machine) status() api.VMStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := api.VMStatus{VMID: m.id, Generation: m.acted, RestartCount: m.rec.RestartCount, Phase: m.phase, Power: m.power, Failure: m.rec.Failure}
	if m.rec.Session != nil {
		s.Notes = m.rec.Session.Notes
		if m.rec.Session.SSHPort != 0 {
			s.SSHEndpoint = sshEndpoint(m.rec.Session.SSHPort)
		}
	}
	return s
}

func (m *machine) set(phase string, power api.Power) {
	m.mu.Lock()
	changed := m.phase != phase || m.power != power
	m.phase, m.power = phase, power
	m.mu.Unlock()
	if changed {
		m.agent.wakeReporter()
	}
}

// setRunning is set for a VM whose processors run: whether its distribution is up is read under the same lock, so that
// a guest that comes up at this moment is not missed.
func (m *machine) setRunning() {
	m.mu.Lock()
	phase := api.PhaseBooting
	if m.rec.Session != nil && m.rec.Session.Up {
		phase = api.PhaseRunning
	}
	changed := m.phase != phase || m.power != api.PowerRunning
	m.phase, m.power = phase, api.PowerRunning
	m.mu.Unlock()
	if changed {
		m.agent.wakeReporter()
	}
}

// save writes the record; the caller holds no lock.
func (m *machine) save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.save(m.layout().state)
}

// run brings the VM to what it should be, again and again, until the agent ends or the VM is gone.
func (m *machine) run(ctx context.Context) {
	m.adopt(ctx)
	for {
		again, gone := m.reconcile(ctx)
		if gone || ctx.Err() != nil {
			m.detach()
			return
		}
		var ended <-chan struct{}
		if s := m.current(); s != nil {
			ended = s.ended
		}
		var retry <-chan time.Time
		if again > 0 {
			retry = time.After(again)
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-ended:
		case <-retry:
		}
	}
}

func (m *machine) current() *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

// reconcile does one step towards what should be. It returns after how long to try again (0: when something
// changes) and whether the VM is gone for good.
func (m *machine) reconcile(ctx context.Context) (again time.Duration, gone bool) {
	defer func(generation uint64) { m.answers(generation) }(m.spec().Generation)
	m.mu.Lock()
	spec, dropped, restarts, halted := m.rec.Spec, m.dropped, m.rec.RestartCount, m.rec.Halt.holds(m.rec.Spec)
	s := m.session
	m.mu.Unlock()

	if s != nil && s.over() {
		m.afterEnd(ctx, s)
		return time.Millisecond, false
	}
	switch {
	case dropped || spec.Power == api.PowerDeleted:
		if err := m.remove(ctx); err != nil {
			m.log.Error("removing the VM failed; trying again", "error", err)
			return 5 * time.Second, false
		}
		m.set(api.PhaseStopped, api.PowerDeleted)
		return 0, dropped
	case spec.Power != api.PowerRunning:
		if s != nil {
			m.set(api.PhaseStopping, "")
			if err := m.end(ctx, !spec.SkipShutdown); err != nil {
				m.log.Error("stopping the VM failed; trying again", "error", err)
				return 5 * time.Second, false
			}
		}
		if err := dropTemp(m.layout().tempDisk()); err != nil {
			m.log.Error("the temporary disk was not removed; trying again", "error", err)
			return 5 * time.Second, false
		}
		m.clear()
		m.set(api.PhaseStopped, spec.Power)
	case s != nil && spec.RestartCount > restarts:
		m.agent.tell(m.id, "restart", api.StepStarted, nil)
		m.set(api.PhaseStopping, "")
		if err := m.end(ctx, !spec.SkipShutdown); err != nil {
			m.log.Error("stopping the VM failed; trying again", "error", err)
			return 5 * time.Second, false
		}
		return time.Millisecond, false
	case s != nil:
		m.setRunning()
	case halted:
		if m.failure() != nil {
			m.set(api.PhaseFailed, "")
		} else {
			m.set(api.PhaseStopped, api.PowerStopped) // the guest shut itself down
		}
	default:
		return m.begin(ctx, spec), false
	}
	return 0, false
}

// answers says that phase and failure are now those of a generation of the spec.
func (m *machine) answers(generation uint64) {
	m.mu.Lock()
	changed := m.acted != generation
	m.acted = generation
	m.mu.Unlock()
	if changed {
		m.agent.wakeReporter()
	}
}

func (m *machine) failure() *evidence.Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.Failure
}

func (m *machine) runningPhase() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rec.Session != nil && m.rec.Session.Up {
		return api.PhaseRunning
	}
	return api.PhaseBooting
}

// maxBackoff is the longest wait between two starts of a VM that will not stay up.
const maxBackoff = time.Minute

// begin starts the VM. A refusal stays until the tenant asks anew; what could not be had is tried again.
func (m *machine) begin(ctx context.Context, spec api.VMSpec) time.Duration {
	m.mu.Lock()
	m.attempts++
	attempts := m.attempts
	m.rec.Failure, m.rec.Halt = nil, nil
	restarted := spec.RestartCount > m.rec.RestartCount
	m.rec.RestartCount = spec.RestartCount
	m.acted = spec.Generation
	m.mu.Unlock()
	m.set(api.PhasePreparing, "")
	err := m.start(ctx, spec)
	if err == nil {
		if restarted {
			m.agent.tell(m.id, "restart", api.StepDone, nil)
		}
		m.setRunning()
		return 0
	}
	if ctx.Err() != nil {
		return 0
	}
	if err := m.end(ctx, false); err != nil {
		m.log.Error("cleaning up after a failed start failed", "error", err)
	}
	var r *evidence.Refusal
	if !errors.As(err, &r) {
		r = unavailable("start", err.Error(), "a started VM")
	}
	m.log.Error("the VM did not start", "error", err)
	if r.Code == evidence.CodeUnavailable {
		m.fail(r, false)
		return min(time.Duration(1<<min(attempts, 6))*time.Second, maxBackoff)
	}
	m.fail(r, true)
	return 0
}

// fail records why the VM does not run. A lasting failure halts it.
func (m *machine) fail(r *evidence.Refusal, lasting bool) {
	m.mu.Lock()
	m.rec.Failure = r
	if lasting {
		m.rec.Halt = &halt{Generation: m.rec.Spec.Generation, RestartCount: m.rec.Spec.RestartCount}
	}
	m.mu.Unlock()
	if err := m.save(); err != nil {
		m.log.Error("the VM's record was not written", "error", err)
	}
	m.set(api.PhaseFailed, "")
}

// clear forgets a failure once the VM is meant to be down.
func (m *machine) clear() {
	m.mu.Lock()
	had := m.rec.Failure != nil || m.rec.Halt != nil
	m.rec.Failure, m.rec.Halt, m.attempts = nil, nil, 0
	m.mu.Unlock()
	if had {
		if err := m.save(); err != nil {
			m.log.Error("the VM's record was not written", "error", err)
		}
	}
}

// remove ends the VM and deletes what is its.
func (m *machine) remove(ctx context.Context) error {
	if err := m.end(ctx, false); err != nil {
		return err
	}
	return m.layout().remove()
}
