package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/launcher"
)

// ControlPlane is what the agent asks of the control plane; *api.Client is the real one.
type ControlPlane interface {
	Watch(ctx context.Context, handle func(api.Message) error) error
	Report(ctx context.Context, r api.Report) (*api.ReportResponse, error)
	Identity(ctx context.Context, vmID, audience string) (string, error)
	Answer(ctx context.Context, vmID, id string, a api.Answer) error
}

// Agent keeps the VMs of one host as they should be.
type Agent struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	forward string // path of cloister-forward as VMs' users can run it
	disks   *diskKeeper

	mu       sync.Mutex
	machines map[string]*machine
	events   []api.Event       // not yet reported
	probes   []api.ProbeReport // likewise
	probed   map[string][]byte // nonce of the last probe that was begun, by TEE
	settled  bool              // the last report was taken, and nothing is asked of the platform
	news     chan struct{}
}

// New makes an agent.
func New(c Config, d Deps) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if d.Launcher == nil || d.Control == nil || d.Log == nil || d.Now == nil {
		return nil, errors.New("agent: launcher, control plane, log and clock are all needed")
	}
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{filepath.Join(c.StateDir, "vms"), 0o700}, {filepath.Join(c.RunDir, "vms"), 0o711}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	for _, dir := range []string{c.RunDir, filepath.Join(c.RunDir, "vms")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	forward, err := reachable(c.Forward, c.RunDir)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	disks, err := disk.NewDirectory(filepath.Join(c.StateDir, "disks"))
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &Agent{cfg: c, deps: d, log: d.Log, forward: forward, machines: map[string]*machine{}, probed: map[string][]byte{}, news: make(chan struct{}, 1)}
	a.disks = newDiskKeeper(disks, d.Log, a.wakeReporter)
	return a, nil
}

// Run works until the context ends. VMs go on running after that; EndVMs ends them.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if err := a.adopt(ctx, &wg); err != nil {
		return err
	}
	wg.Add(1)
	go func() { defer wg.Done(); a.report(ctx, &wg) }()
	wg.Add(1)
	go func() { defer wg.Done(); a.disks.run(ctx) }()
	for wait := time.Duration(0); ; wait = min(max(2*wait, 200*time.Millisecond), 5*time.Second) {
		if !sleep(ctx, wait) {
			return nil
		}
		err := a.deps.Control.Watch(ctx, func(m api.Message) error {
			wait = 0
			return a.handle(ctx, &wg, m)
		})
		if ctx.Err() != nil {
			return nil
		}
		a.log.Info("the control plane's stream ended; opening another", "reason", err)
	}
}

// adopt takes over the VMs that an earlier agent left.
func (a *Agent) adopt(ctx context.Context, wg *sync.WaitGroup) error {
	dirs, err := filepath.Glob(filepath.Join(a.cfg.StateDir, "vms", "*", "vm.json"))
	if err != nil {
		return err
	}
	for _, path := range dirs {
		r, err := loadRecord(filepath.Dir(path))
		if err != nil {
			a.log.Error("a VM's record can't be read; its processes are left alone", "error", err)
			continue
		}
		a.add(ctx, wg, r)
	}
	return nil
}

func (a *Agent) add(ctx context.Context, wg *sync.WaitGroup, r *record) *machine {
	m := newMachine(a, r)
	a.mu.Lock()
	a.machines[r.Spec.VMID] = m
	a.mu.Unlock()
	wg.Add(1)
	go func() {
		defer wg.Done()
		m.run(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.machines[r.Spec.VMID] == m {
			delete(a.machines, r.Spec.VMID)
		}
	}()
	return m
}

func (a *Agent) machine(id string) *machine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machines[id]
}

func (a *Agent) handle(ctx context.Context, wg *sync.WaitGroup, msg api.Message) error {
	switch msg.Kind {
	case api.MessageSnapshot:
		wanted := map[string]bool{}
		for _, s := range msg.VMs {
			wanted[s.VMID] = true
			a.want(ctx, wg, s)
		}
		a.mu.Lock()
		var gone []*machine
		for id, m := range a.machines {
			if !wanted[id] {
				gone = append(gone, m)
			}
		}
		a.mu.Unlock()
		for _, m := range gone {
			m.drop()
		}
	case api.MessageVM:
		if msg.VM != nil {
			a.want(ctx, wg, *msg.VM)
		}
	case api.MessageGone:
		if m := a.machine(msg.VMID); m != nil {
			m.drop()
		}
	case api.MessageDisk:
		if msg.Disk != nil {
			a.disks.want(*msg.Disk)
		}
	case api.MessageRequest:
		if msg.Request != nil {
			a.request(ctx, *msg.Request)
		}
	}
	return nil
}

func (a *Agent) want(ctx context.Context, wg *sync.WaitGroup, s api.VMSpec) {
	if !validID(s.VMID) {
		a.log.Error("the control plane named a VM by something that is no id", "vm", s.VMID)
		return
	}
	if m := a.machine(s.VMID); m != nil {
		m.want(s)
		return
	}
	// Also one that is to be deleted and of which nothing is here: that is said until its record is gone.
	a.add(ctx, wg, &record{Spec: s, Slot: a.freeSlot()})
}

// freeSlot finds the lowest pair of user ids that no VM has.
func (a *Agent) freeSlot() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	used := map[int]bool{}
	for _, m := range a.machines {
		used[m.slot()] = true
	}
	for i := 0; ; i++ {
		if !used[i] {
			return i
		}
	}
}

// tell queues an event for the next report.
func (a *Agent) tell(vmID, step, state string, detail map[string]string) {
	a.tellEvent(api.Event{VMID: vmID, Time: a.deps.Now().UTC(), Step: step, State: state, Detail: detail})
}

// maxQueued bounds the events kept while the control plane can't be reached.
const maxQueued = 4096

func (a *Agent) tellEvent(e api.Event) {
	a.mu.Lock()
	if len(a.events) < maxQueued {
		a.events = append(a.events, e)
	}
	a.mu.Unlock()
	a.wakeReporter()
}

func (a *Agent) wakeReporter() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// report tells the control plane how things are, when there is news and at least every ReportEvery.
func (a *Agent) report(ctx context.Context, wg *sync.WaitGroup) {
	const regular = api.ReportEvery * 4 / 5
	for again := time.Duration(0); ; { // how long after a report that was not taken
		a.mu.Lock()
		r := api.Report{Host: a.facts(), VMs: []api.VMStatus{}, Events: slices.Clone(a.events), Probes: slices.Clone(a.probes)}
		for _, m := range a.machines {
			r.VMs = append(r.VMs, m.status())
		}
		a.mu.Unlock()
		r.Disks = a.disks.untold()
		answer, err := a.deps.Control.Report(ctx, r)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("report was not taken", "error", err)
			again = min(max(2*again, 200*time.Millisecond), regular) // the control plane may be starting too
		} else if err == nil {
			again = 0
			a.disks.tell(r.Disks)
			a.mu.Lock()
			a.events, a.probes = a.events[len(r.Events):], a.probes[len(r.Probes):]
			a.settled = len(answer.Probes) == 0
			a.mu.Unlock()
			a.probe(ctx, wg, answer.Probes)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.news:
			if !sleep(ctx, 100*time.Millisecond) { // gathers what comes together
				return
			}
		case <-time.After(cmp.Or(again, regular)):
		}
	}
}

// Ready tells whether the control plane knows this host, and its platform was probed.
func (a *Agent) Ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.settled
}

func (a *Agent) facts() api.HostFacts {
	return api.HostFacts{Name: a.cfg.Name, Launcher: a.deps.Launcher.Name(), TEEs: a.deps.Launcher.TEEs(), VCPUs: a.cfg.VCPUs, MemoryMiB: a.cfg.MemoryMiB,
		Slots: a.cfg.Slots, Zone: a.cfg.Zone, Version: Version}
}

// Version of the agent, for people.
const Version = "0.1"

func (a *Agent) request(ctx context.Context, r api.Request) {
	m := a.machine(r.VMID)
	if m == nil {
		a.answer(ctx, r, api.Answer{Failure: unavailable("VM", "not on this host", "a VM of this host")})
		return
	}
	m.request(ctx, r)
}

func (a *Agent) answer(ctx context.Context, r api.Request, ans api.Answer) {
	if err := a.deps.Control.Answer(ctx, r.VMID, r.ID, ans); err != nil {
		a.log.Warn("an answer was not taken", "vm", r.VMID, "request", r.ID, "error", err)
	}
}

// EndVMs ends every VM of a host whose agent does not run, for the end of the whole installation. What the VMs should
// be stays as it was: the next agent starts them again.
func EndVMs(ctx context.Context, c Config, l launcher.Launcher, log *slog.Logger) error {
	a := &Agent{cfg: c, deps: Deps{Launcher: l, Now: time.Now, Log: log}, log: log, news: make(chan struct{}, 1)}
	records, err := filepath.Glob(filepath.Join(c.StateDir, "vms", "*", "vm.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range records {
		r, err := loadRecord(filepath.Dir(path))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, newMachine(a, r).end(ctx, true))
	}
	return errors.Join(errs...)
}

// sleep waits, or returns false when the context has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
