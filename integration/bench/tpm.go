package main

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/paravisor/vtpm"
)

// gated sends commands through the gate, as QEMU does.
type gated struct {
	ctx  context.Context
	gate *vtpm.Gate
}

func (g gated) Send(command []byte) ([]byte, error) { return g.gate.Exchange(g.ctx, command) }

// tpmProxy compares commands through the paravisor's gate with the same commands given to swtpm itself.
func tpmProxy(ctx context.Context, _ cli, _ string) (rows []row, err error) {
	scratch, err := os.MkdirTemp("/dev/shm", "cloister-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	tpm, err := vtpm.Start(vtpm.Process{Scratch: scratch})
	if err != nil {
		return nil, err
	}
	defer func() {
		if killErr := tpm.Kill(); err == nil {
			err = killErr
		}
	}()
	if err := tpm.Provision(); err != nil {
		return nil, err
	}
	state, err := tpm.State()
	if err != nil {
		return nil, err
	}
	commits := 0
	gate := &vtpm.Gate{TPM: tpm, Commit: func([]byte) error { commits++; return nil }, Report: func(context.Context, [vtpm.UserDataSize]byte) ([]byte, error) {
		return nil, fmt.Errorf("nobody reads the report here")
	}}
	if err := gate.Prepare(bytes.Repeat([]byte{1}, 1300), [vtpm.UserDataSize]byte{}, []byte("certificate"), state); err != nil {
		return nil, err
	}
	if err := tpm.PowerOn(); err != nil {
		return nil, err
	}
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(tpm); err != nil {
		return nil, err
	}
	for _, command := range []struct {
		name string
		run  func(transport.TPM) error
	}{
		{"vTPM: 32 random bytes", func(t transport.TPM) error {
			_, err := tpm2.GetRandom{BytesRequested: 32}.Execute(t)
			return err
		}},
		{"vTPM: PCR extended", func(t transport.TPM) error {
			_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(16), Auth: tpm2.PasswordAuth(nil)},
				Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}}}.Execute(t)
			return err
		}},
	} {
		// Each pair twice in turn, so that both see the same machine.
		var ours, alone float64
		for range 2 {
			a, err := mean(rounds*4, func(int) error { return command.run(tpm) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", command.name, err)
			}
			b, err := mean(rounds*4, func(int) error { return command.run(gated{ctx, gate}) })
			if err != nil {
				return nil, fmt.Errorf("%s through the gate: %w", command.name, err)
			}
			alone, ours = alone+ms(a)/2, ours+ms(b)/2
		}
		rows = append(rows, row{Name: command.name, Ours: ours, Reference: alone, Unit: "ms", Target: "-", Beside: "swtpm without the gate"})
	}
	return rows, nil
}
