// Package paravisor is the per-VM trusted component: it stands between a confidential VM and its host.
//
// Before the VM starts, the paravisor proves by hardware evidence what it is and which init data it
// was started with, gets the VM's guest-state key released to that proof, and opens the sealed guest
// state. Only then are there a vTPM and a variable store for the VM to start with. No token: no key, no
// vTPM, no start.
package paravisor

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/paravisor/client"
	"cloister.dev/cloister/paravisor/uefivars"
	"cloister.dev/cloister/paravisor/vmgs"
	"cloister.dev/cloister/paravisor/vtpm"
)

// Hardware makes evidence about this launch: the CPU, or the software CPU.
type Hardware interface {
	// Report signs reportData into a report of 1184 bytes and gives the chain (leaf, ASK, ARK) for it.
	Report(ctx context.Context, reportData [64]byte) (report, chainPEM []byte, err error)
}

// Verifier judges evidence: the attestation service that the init data name.
type Verifier interface {
	// Token asks for a token about a report whose report data are the digest of runtimeData.
	Token(ctx context.Context, e HostEvidence) (token string, err error)
	// AKCertificate asks for a certificate of the attestation key in the HCL report.
	AKCertificate(ctx context.Context, r AKRequest) (der []byte, err error)
}

// HostEvidence is what a token is asked with.
type HostEvidence struct {
	Report, ChainPEM         []byte
	RuntimeData, InitialData []byte // exact bytes
	Nonce                    string
}

// AKRequest is what an AK certificate is asked with.
type AKRequest struct {
	HCLReport, ChainPEM, InitialData []byte
	EKPublic, AKPublic               []byte // TPM2B_PUBLIC
}

// KeyKeeper releases the guest-state key: the key service that the init data name.
type KeyKeeper interface {
	Open(ctx context.Context, r KeyRequest) (Release, error)
	Confirm(ctx context.Context, r KeyRequest) error
}

// KeyRequest names a guest state. Generation is the one in the file for Open, the new one for Confirm.
type KeyRequest struct {
	VMID       string
	Generation uint64
	Session    string // 64 hex digits, made for this session
	Token      string
	Nonce      string
}

// Release is an authentic answer to Open.
type Release struct {
	Next            uint64 // the generation that this session writes
	OperatorTrusted bool
	Unwrap          func(*rsa.PrivateKey) ([]byte, error)
}

// Options is everything that a session takes from outside.
type Options struct {
	Config   client.Config
	Hardware Hardware
	// Verifier and KeyKeeper are made from what the init data pin, never from Config.
	Verifier  func(initdata.Service) (Verifier, error)
	KeyKeeper func(s initdata.Service, bearer func(context.Context) (string, error)) (KeyKeeper, error)
	Now       func() time.Time
	Rand      io.Reader
	Log       *slog.Logger
}

// Session is one VM's paravisor from start to stop.
type Session struct {
	Options
	identity *identityBox

	mu      sync.Mutex
	status  client.Status
	changed chan struct{} // closed and replaced at every change of status
	report  latestReport
	gate    *vtpm.Gate
	vars    *uefivars.Store

	broken  chan error
	stop    chan struct{}
	stopped sync.Once
	ended   chan struct{}
}

type latestReport struct{ hcl, chainPEM, akCertificate []byte }

// New prepares a session; Run does it.
func New(o Options) *Session {
	return &Session{
		Options:  o,
		identity: newIdentityBox(),
		status:   client.Status{Phase: client.PhaseWaitingIdentity, Events: []client.Event{}},
		changed:  make(chan struct{}),
		broken:   make(chan error, 1),
		stop:     make(chan struct{}),
		ended:    make(chan struct{}),
	}
}

// Run goes through the session's life. It returns nil after an ordered stop, and otherwise why the VM
// could not start or must not go on. Whatever happens, everything acknowledged is durable and swtpm is gone when it returns.
func (s *Session) Run(ctx context.Context) (err error) {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	var open resources
	err = s.live(ctx, &open)
	if stopErr := open.close(); stopErr != nil {
		err = errors.Join(err, stopErr)
	}
	if err != nil && !(errors.Is(err, context.Canceled) && ctx.Err() != nil) {
		s.fail(err)
		return err
	}
	s.phase(client.PhaseStopped)
	return nil
}

// live is the journey. Each step needs what the one before it gave.
func (s *Session) live(ctx context.Context, open *resources) error {
	in, err := s.readInput()
	if err != nil {
		return err
	}
	if in.persisted() {
		if err := s.identity.wait(ctx); err != nil {
			return err
		}
	}
	s.phase(client.PhaseAttesting)
	host, err := s.attestHost(ctx, in)
	if err != nil {
		return err
	}
	state, err := s.openGuestState(ctx, in, host, open)
	if err != nil {
		return err
	}
	s.phase(client.PhaseOpening)
	tpm, err := s.startVTPM(ctx, in, state, open)
	if err != nil {
		return err
	}
	if err := s.offer(ctx, tpm, state, open); err != nil {
		return err
	}
	s.phase(client.PhaseReady)
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.broken:
		return err
	case <-tpm.swtpm.Exited():
		return evidence.Refuse(evidence.CodeUnavailable, "vTPM", "swtpm ended by itself", "a vTPM as long as the VM runs")
	}
}

// Stop begins an ordered stop; Ended tells when it is done.
func (s *Session) Stop() { s.stopped.Do(func() { close(s.stop) }) }

// StopAsked is closed when Stop was called.
func (s *Session) StopAsked() <-chan struct{} { return s.stop }

// Ended is closed when Run has returned.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// SetIdentity takes the VM's managed-identity token from the host.
func (s *Session) SetIdentity(token string) error { return s.identity.set(token) }

func (s *Session) breakWith(err error) {
	select {
	case s.broken <- err:
	default: // the first reason counts
	}
}

// Status is a copy, and a channel that is closed at the next change.
func (s *Session) Status() (client.Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Events = slices.Clone(s.status.Events)
	return out, s.changed
}

func (s *Session) change(edit func(*client.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Session) phase(p client.Phase) {
	s.change(func(st *client.Status) { st.Phase = p })
	s.Log.Info("phase", "phase", p)
}

func (s *Session) event(step, state string, detail map[string]string) {
	e := client.Event{Time: s.Now().UTC(), Step: step, State: state, Detail: maps.Clone(detail)}
	s.change(func(st *client.Status) { st.Events = append(st.Events, e) })
	s.Log.Info("step", "step", step, "state", state, "detail", detail)
}

// step brackets a part of the journey with events.
func (s *Session) step(name string, do func(detail map[string]string) error) error {
	s.event(name, client.StateStarted, nil)
	detail := map[string]string{}
	if err := do(detail); err != nil {
		s.event(name, client.StateFailed, map[string]string{"reason": err.Error()})
		return err
	}
	s.event(name, client.StateDone, detail)
	return nil
}

func (s *Session) fail(err error) {
	var r *evidence.Refusal
	if !errors.As(err, &r) {
		r = evidence.Refuse(evidence.CodeUnavailable, "paravisor", err.Error(), "every step to end")
	}
	s.change(func(st *client.Status) { st.Phase, st.Failure = client.PhaseFailed, r })
	s.Log.Error("the session failed", "error", err)
}

// resources are given back in reverse order.
type resources struct{ closers []func() error }

func (r *resources) add(name string, f func() error) {
	r.closers = append(r.closers, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("closing the %s: %w", name, err)
		}
		return nil
	})
}

func (r *resources) close() error {
	var errs []error
	for _, f := range slices.Backward(r.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// input is what the host gave, as far as it is believed: init data are proven by the evidence that carries their digest.
type input struct {
	raw      []byte
	data     *initdata.InitData
	digest   [32]byte
	vm       vmgs.VMID
	verifier Verifier
	keys     KeyKeeper
}

func (in *input) persisted() bool { return in.data.OSDiskEncryption != client.ModeNonPersistedTPM }

func (s *Session) readInput() (*input, error) {
	if err := s.Config.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	raw, err := os.ReadFile(s.Config.InitDataFile)
	if err != nil {
		return nil, fmt.Errorf("reading the init data: %w", err)
	}
	in := &input{raw: initdata.Trim(raw)}
	if in.data, err = initdata.Parse(in.raw); err != nil {
		return nil, err
	}
	in.digest = initdata.SNPHostData(in.raw)
	switch {
	case in.data.VMID != s.Config.VMID:
		return nil, evidence.Refuse(evidence.CodeBinding, "VM id", s.Config.VMID, in.data.VMID).By("the init data name the VM")
	case in.data.OSDiskEncryption != s.Config.Mode:
		return nil, evidence.Refuse(evidence.CodeBinding, "mode", s.Config.Mode, in.data.OSDiskEncryption).By("the init data name the mode")
	}
	if in.vm, err = client.ParseVMID(in.data.VMID); err != nil {
		return nil, err
	}
	if in.verifier, err = s.Verifier(in.data.Attest); err != nil {
		return nil, fmt.Errorf("reaching the verifier: %w", err)
	}
	if in.persisted() {
		if in.keys, err = s.KeyKeeper(in.data.Keys, s.identity.bearer); err != nil {
			return nil, fmt.Errorf("reaching the key keeper: %w", err)
		}
	}
	return in, nil
}
