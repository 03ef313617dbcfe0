package paravisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/paravisor/client"
	"cloister.dev/cloister/paravisor/uefivars"
	"cloister.dev/cloister/paravisor/vmgs"
	"cloister.dev/cloister/paravisor/vtpm"
)

var (
	afterProvision = failpoint.New("paravisor/vtpm-provisioned")
	afterTPMState  = failpoint.New("paravisor/vtpm-state-committed")
	afterVars      = failpoint.New("paravisor/uefi-vars-committed")
)

// virtualTPM is a vTPM with an identity that evidence carries.
type virtualTPM struct {
	swtpm     *vtpm.Swtpm
	identity  *vtpm.Identity
	committed []byte // permanent state that is durable already
}

// startVTPM starts the vTPM from its state, or provisions a fresh one, and gets its identity into evidence.
func (s *Session) startVTPM(ctx context.Context, in *input, state *guestState, open *resources) (*virtualTPM, error) {
	tpm := &virtualTPM{}
	err := s.step("vtpm", func(detail map[string]string) (err error) {
		if tpm.swtpm, err = vtpm.Start(vtpm.Process{Program: s.Config.SwtpmProgram, Scratch: s.Config.ScratchDir, LogFile: s.Config.SwtpmLog}); err != nil {
			return fmt.Errorf("starting the vTPM: %w", err)
		}
		open.add("vTPM", tpm.swtpm.Kill)
		if err := tpm.loadOrProvision(state, detail); err != nil {
			return err
		}
		if tpm.identity, err = tpm.swtpm.ReadIdentity(); err != nil {
			return fmt.Errorf("reading the vTPM's identity: %w", err)
		}
		return s.identify(ctx, in, tpm)
	})
	return tpm, err
}

// loadOrProvision leaves the TPM powered on with its identity, and that identity durable.
func (tpm *virtualTPM) loadOrProvision(state *guestState, detail map[string]string) error {
	detail["state"] = "provisioned"
	if len(state.vtpm) != 0 {
		detail["state"] = "kept"
		if err := tpm.swtpm.Load(state.vtpm); err != nil {
			return fmt.Errorf("loading the vTPM's state: %w", err)
		}
		if err := tpm.swtpm.PowerOn(); err != nil {
			return fmt.Errorf("powering on the vTPM: %w", err)
		}
		tpm.committed = state.vtpm
		return nil
	}
	if err := tpm.swtpm.Provision(); err != nil {
		return err
	}
	if state.file == nil {
		return nil
	}
	fresh, err := tpm.swtpm.State()
	if err != nil {
		return fmt.Errorf("fetching the new vTPM's state: %w", err)
	}
	if err := state.file.Update(func(c *vmgs.Contents) { c.VTPM = fresh }); err != nil {
		return fmt.Errorf("committing the new vTPM's state: %w", err)
	}
	afterProvision.Hit()
	tpm.committed = fresh
	return nil
}

// identify gets the second report, which carries AK and EK, and the AK's certificate.
func (s *Session) identify(ctx context.Context, in *input, tpm *virtualTPM) error {
	make2nd := func(ctx context.Context, userData [vtpm.UserDataSize]byte) ([]byte, error) {
		claims, err := s.claims(in, userData, hcl.JWKFromRSA(hcl.KeyAK, "sign", tpm.identity.AK), hcl.JWKFromRSA(hcl.KeyEK, "encrypt", tpm.identity.EK))
		if err != nil {
			return nil, fmt.Errorf("writing the runtime claims: %w", err)
		}
		hardware, chain, err := s.Hardware.Report(ctx, hcl.ReportData(claims))
		if err != nil {
			return nil, fmt.Errorf("getting a hardware report: %w", err)
		}
		report, err := hclReport(hardware, claims)
		if err != nil {
			return nil, fmt.Errorf("writing the HCL report: %w", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.report.hcl, s.report.chainPEM = report, chain
		return report, nil
	}
	report, err := make2nd(ctx, [vtpm.UserDataSize]byte{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	chain := s.report.chainPEM
	s.mu.Unlock()
	certificate, err := in.verifier.AKCertificate(ctx, AKRequest{HCLReport: report, ChainPEM: chain, InitialData: in.raw, EKPublic: tpm.identity.EKPublic, AKPublic: tpm.identity.AKPublic})
	if err != nil {
		return fmt.Errorf("getting the AK certificate: %w", err)
	}
	gate := &vtpm.Gate{TPM: tpm.swtpm, Report: make2nd}
	s.mu.Lock()
	s.report.akCertificate, s.gate = certificate, gate
	s.mu.Unlock()
	return gate.Prepare(report, [vtpm.UserDataSize]byte{}, certificate, tpm.committed)
}

// offer opens the two sockets that QEMU starts the VM with.
func (s *Session) offer(ctx context.Context, tpm *virtualTPM, state *guestState, open *resources) error {
	return s.step("uefi-variables", func(map[string]string) error {
		commitVars := func([]byte) error { return nil } // NonPersistedTPM: the store ends with the VM
		if state.file != nil {
			s.gate.Commit = func(now []byte) error {
				if err := state.file.Update(func(c *vmgs.Contents) { c.VTPM = now }); err != nil {
					return err
				}
				afterTPMState.Hit()
				return nil
			}
			commitVars = func(now []byte) error {
				if err := state.file.Update(func(c *vmgs.Contents) { c.UEFIVars = now }); err != nil {
					return err
				}
				afterVars.Hit()
				return nil
			}
		}
		vars := uefivars.NewStore(state.uefiVars, uefivars.CommitDelay, commitVars, s.breakWith)
		s.mu.Lock()
		s.vars = vars
		s.mu.Unlock()
		open.add("UEFI variables", vars.Close)
		nbd := &uefivars.Server{Store: vars, Broken: s.breakWith}
		if err := s.serve(client.VarsSocket, open, nbd.Close, func(l *net.UnixListener) error { return nbd.Serve(l) }); err != nil {
			return err
		}
		open.add("vTPM's last state", s.gate.Finish)
		socket := &vtpm.Socket{Gate: s.gate, Broken: s.breakWith}
		return s.serve(client.TPMSocket, open, socket.Close, func(l *net.UnixListener) error { return socket.Serve(ctx, l) })
	})
}

// serve listens in RunDir until the session ends. Nobody but owner and group may connect.
func (s *Session) serve(name string, open *resources, hangUp func(), serve func(*net.UnixListener) error) error {
	l, err := Listen(filepath.Join(s.Config.RunDir, name))
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(l); err != nil {
			s.breakWith(err)
		}
	}()
	open.add(name, func() error {
		err := l.Close()
		hangUp()
		<-done
		return err
	})
	return nil
}

// Listen makes a unix socket of mode 0660. A socket that an earlier process left is replaced.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replacing an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
