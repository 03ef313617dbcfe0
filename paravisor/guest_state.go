package paravisor

import (
	"context"
	"fmt"
	"os"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
	keys "cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/paravisor/client"
	"cloister.dev/cloister/paravisor/vmgs"
)

var (
	afterGeneration = failpoint.New("paravisor/generation-written")
	afterConfirm    = failpoint.New("paravisor/generation-confirmed")
)

// maxFirmwareVars bounds the image's variable store, in bytes: half a slot of the guest-state file.
const maxFirmwareVars = vmgs.SlotSize / 2

// guestState is what the VM starts with. file is nil with NonPersistedTPM.
type guestState struct {
	file     *vmgs.File
	vtpm     []byte // empty: to be provisioned
	uefiVars []byte
}

// openGuestState gets the guest-state key and opens the sealed file with it.
//
// The order is what makes a crash harmless: Open tells the key keeper which generation the file has and
// makes the next one pending; the file is authenticated; the next generation is written, durably; only
// then is it confirmed. Before the confirmation the old file still counts; after it, only the new one.
func (s *Session) openGuestState(ctx context.Context, in *input, host *hostAttested, open *resources) (*guestState, error) {
	if !in.persisted() {
		vars, err := s.firmwareVars()
		return &guestState{uefiVars: vars}, err
	}
	s.phase(client.PhaseReleasing)
	file, err := vmgs.Open(s.Config.GuestStateFile, in.vm)
	if err != nil {
		return nil, fmt.Errorf("opening the guest state: %w", err)
	}
	open.add("guest state", file.Close)
	err = s.step("guest-state-key", func(detail map[string]string) error { return s.unlock(ctx, in, host, file, detail) })
	if err != nil {
		return nil, err
	}
	c := file.Contents()
	return &guestState{file: file, vtpm: c.VTPM, uefiVars: c.UEFIVars}, nil
}

func (s *Session) unlock(ctx context.Context, in *input, host *hostAttested, file *vmgs.File, detail map[string]string) error {
	generation := file.Generation()
	session, err := s.randomHex()
	if err != nil {
		return err
	}
	nonce, err := s.randomHex()
	if err != nil {
		return err
	}
	request := KeyRequest{VMID: in.data.VMID, Generation: generation, Session: session, Token: host.token, Nonce: nonce}
	release, err := in.keys.Open(ctx, request)
	if err != nil {
		return fmt.Errorf("asking for the guest-state key at generation %d: %w", generation, err)
	}
	if !keys.Follows(release.Next, generation) {
		return evidence.Refuse(evidence.CodeBinding, "next generation", fmt.Sprint(release.Next), fmt.Sprintf("%d, or the first generation of a later owner epoch", generation+1))
	}
	key, err := release.Unwrap(host.transfer)
	if err != nil {
		return fmt.Errorf("unwrapping the guest-state key: %w", err)
	}
	defer clear(key)
	if generation == 0 {
		err = s.createGuestState(in, file, key, release.Next)
	} else {
		err = advance(in, file, key, release.Next)
	}
	if err != nil {
		return err
	}
	afterGeneration.Hit()
	request.Generation = release.Next
	if request.Nonce, err = s.randomHex(); err != nil {
		return err
	}
	if err := in.keys.Confirm(ctx, request); err != nil {
		return fmt.Errorf("confirming generation %d: %w", release.Next, err)
	}
	afterConfirm.Hit()
	s.change(func(st *client.Status) { st.Generation, st.OperatorTrusted = release.Next, release.OperatorTrusted })
	detail["generation"], detail["operatorTrusted"] = fmt.Sprint(release.Next), fmt.Sprint(release.OperatorTrusted)
	return nil
}

func (s *Session) createGuestState(in *input, file *vmgs.File, key []byte, next uint64) error {
	vars, err := s.firmwareVars()
	if err != nil {
		return err
	}
	return file.Create(key, vmgs.Contents{Generation: next, Mode: in.data.OSDiskEncryption, InitDataDigest: in.digest, UEFIVars: vars})
}

// advance authenticates the file, compares what it remembers of the first boot, and writes the next generation.
func advance(in *input, file *vmgs.File, key []byte, next uint64) error {
	c, err := file.Unlock(key)
	if err != nil {
		return fmt.Errorf("opening the guest state: %w", err)
	}
	if c.InitDataDigest != in.digest {
		return evidence.Refuse(evidence.CodeBinding, "init data", fmt.Sprintf("%x", in.digest), fmt.Sprintf("%x", c.InitDataDigest)).
			By("the init data of the first boot; a change needs the tenant's signature, which this version can't check")
	}
	if c.Mode != in.data.OSDiskEncryption {
		return evidence.Refuse(evidence.CodeBinding, "mode", in.data.OSDiskEncryption, c.Mode).By("the mode never changes after creation")
	}
	return file.Update(func(c *vmgs.Contents) { c.Generation = next })
}

// firmwareVars reads the image's variable store. It is host input: PCR 7 shows the guest what is in it.
func (s *Session) firmwareVars() ([]byte, error) {
	f, err := os.Open(s.Config.FirmwareVars)
	if err != nil {
		return nil, fmt.Errorf("reading the firmware's variables: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the firmware's variables: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > maxFirmwareVars || info.Size()%4096 != 0 {
		return nil, evidence.Refuse(evidence.CodeParse, "firmware variables", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprintf("a regular file of whole 4 KiB blocks, at most %d bytes", maxFirmwareVars))
	}
	vars := make([]byte, info.Size())
	if _, err := f.ReadAt(vars, 0); err != nil {
		return nil, fmt.Errorf("reading the firmware's variables: %w", err)
	}
	return vars, nil
}
