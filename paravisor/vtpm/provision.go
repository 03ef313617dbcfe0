package vtpm

import (
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	evtpm "cloister.dev/cloister/evidence/vtpm"
)

// Identity is what the vTPM is known by, read from the TPM itself.
type Identity struct {
	EKPublic, AKPublic []byte // TPM2B_PUBLIC
	EK, AK             *rsa.PublicKey
}

// Provision gives a fresh vTPM its identity and ends with a power cycle, so that the firmware finds an
// untouched TPM. The keys come from the vTPM's own seeds: nobody chooses them.
func (s *Swtpm) Provision() error {
	if err := s.PowerOn(); err != nil {
		return fmt.Errorf("powering on a new vTPM: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func(transport.TPM) error
	}{
		{"starting", startup},
		{"making the endorsement key", func(t transport.TPM) error {
			return makePersistent(t, tpm2.TPMRHEndorsement, evtpm.EKTemplate(), handleEK)
		}},
		{"making the attestation key", func(t transport.TPM) error {
			return makePersistent(t, tpm2.TPMRHOwner, evtpm.AKTemplate(), handleAK)
		}},
		{"defining NV indexes", defineIndexes},
		{"shutting down", shutdown},
	} {
		if err := step.do(s); err != nil {
			return fmt.Errorf("provisioning the vTPM: %s: %w", step.name, err)
		}
	}
	return s.PowerCycle()
}

// PowerCycle resets the TPM.
func (s *Swtpm) PowerCycle() error {
	if err := s.PowerOff(); err != nil {
		return fmt.Errorf("powering off the vTPM: %w", err)
	}
	if err := s.PowerOn(); err != nil {
		return fmt.Errorf("powering on the vTPM: %w", err)
	}
	return nil
}

// ReadIdentity starts the TPM, reads the public parts of EK and AK, and resets it again. It refuses a
// TPM without them: such a state is not one that Provision left.
func (s *Swtpm) ReadIdentity() (*Identity, error) {
	if err := startup(s); err != nil {
		return nil, fmt.Errorf("starting the vTPM: %w", err)
	}
	var id Identity
	var err error
	if id.EKPublic, id.EK, err = readRSA(s, handleEK); err != nil {
		return nil, fmt.Errorf("reading the endorsement key: %w", err)
	}
	if id.AKPublic, id.AK, err = readRSA(s, handleAK); err != nil {
		return nil, fmt.Errorf("reading the attestation key: %w", err)
	}
	if err := shutdown(s); err != nil {
		return nil, fmt.Errorf("shutting the vTPM down: %w", err)
	}
	return &id, s.PowerCycle()
}

func startup(t transport.TPM) error {
	_, err := tpm2.Startup{StartupType: tpm2.TPMSUClear}.Execute(t)
	return err
}

func shutdown(t transport.TPM) error {
	_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(t)
	return err
}

func makePersistent(t transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, at tpm2.TPMHandle) (err error) {
	key, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		return err
	}
	defer func() {
		_, flushErr := tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(t)
		err = errors.Join(err, flushErr)
	}()
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
		PersistentHandle: at,
	}.Execute(t)
	return err
}

// The platform creates these indexes, so the guest's owner can't undefine them.
//
// The two served indexes hold one byte each, written once: the TPM lists the handles, refuses a second
// definition and judges who may read, while the proxy gives the contents. The two write-once indexes
// stay unwritten; the guest writes each and locks it for good (WRITEDEFINE).
func defineIndexes(t transport.TPM) error {
	served := tpm2.TPMANV{PlatformCreate: true, PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true}
	writeOnce := tpm2.TPMANV{PlatformCreate: true, WriteDefine: true, OwnerWrite: true, AuthWrite: true, OwnerRead: true, AuthRead: true, NoDA: true}
	for _, d := range []struct {
		index tpm2.TPMHandle
		attrs tpm2.TPMANV
		size  uint16
		mark  bool
	}{
		{nvHCLReport, served, 1, true},
		{nvAKCert, served, 1, true},
		{nvProvisioned, writeOnce, 1, false},
		{nvVolumeDigest, writeOnce, 32, false},
	} {
		if _, err := (tpm2.NVDefineSpace{
			AuthHandle: tpm2.TPMRHPlatform,
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: d.index, NameAlg: tpm2.TPMAlgSHA256, Attributes: d.attrs, DataSize: d.size}),
		}).Execute(t); err != nil {
			return fmt.Errorf("index 0x%x: %w", d.index, err)
		}
		if !d.mark {
			continue
		}
		public, err := tpm2.NVReadPublic{NVIndex: d.index}.Execute(t)
		if err != nil {
			return fmt.Errorf("index 0x%x: %w", d.index, err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    tpm2.NamedHandle{Handle: d.index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, d.size)},
		}).Execute(t); err != nil {
			return fmt.Errorf("index 0x%x: %w", d.index, err)
		}
	}
	return nil
}

func readRSA(t transport.TPM, handle tpm2.TPMHandle) ([]byte, *rsa.PublicKey, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t)
	if err != nil {
		return nil, nil, err
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		return nil, nil, err
	}
	parms, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, nil, err
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		return nil, nil, err
	}
	key, err := tpm2.RSAPub(parms, unique)
	if err != nil {
		return nil, nil, err
	}
	return tpm2.Marshal(r.OutPublic), key, nil
}
