// Package tpm is the guest's side of its vTPM: matching the TPM to the hardware report, sealing the disk secret,
// the write-once marks, PCRs and quotes.
//
// The path between guest and TPM runs through the host. So, once the endorsement key in the TPM equals HCLEkPub of the
// HCL report, every command that matters runs in a session salted to that key: only the TPM that holds its private part
// can answer, and secrets travel encrypted. Error codes of a TPM are not authenticated, hence never taken as facts.
package tpm

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/vtpm"
)

// Handles and NV indexes that the platform makes.
const (
	NVHCLReport    = tpm2.TPMHandle(vtpm.NVHCLReport)
	NVUserData     = tpm2.TPMHandle(vtpm.NVUserData) // 64 bytes, writable by the guest
	NVAKCert       = tpm2.TPMHandle(vtpm.NVAKCert)
	NVProvisioned  = tpm2.TPMHandle(vtpm.NVProvisioned)  // 1 byte, write-once
	NVVolumeDigest = tpm2.TPMHandle(vtpm.NVVolumeDigest) // 32 bytes, write-once
	HandleAK       = tpm2.TPMHandle(vtpm.HandleAK)
	HandleEK       = tpm2.TPMHandle(vtpm.HandleEK)
)

const (
	nonceSize   = 16
	nvChunk     = 1024 // the smallest NV buffer in use
	maxNVSize   = 16 << 10
	aesKeyBits  = 128
	defaultExpo = 65537 // what exponent 0 means in TPM structures
)

// Device is a TPM whose endorsement and attestation keys were matched.
type Device struct {
	t      transport.TPM
	ek     tpm2.TPMTPublic
	ak     tpm2.TPMTPublic
	akName tpm2.TPM2BName
}

// Bind matches the TPM's EK and AK with the keys of a verified HCL report. Anything else: refuse/binding.
func Bind(t transport.TPM, ek, ak *rsa.PublicKey) (*Device, error) {
	d := &Device{t: t}
	var err error
	if d.ek, _, err = readKey(t, HandleEK, "endorsement key", ek); err != nil {
		return nil, err
	}
	if d.ak, d.akName, err = readKey(t, HandleAK, "attestation key", ak); err != nil {
		return nil, err
	}
	return d, nil
}

func readKey(t transport.TPM, handle tpm2.TPMHandle, what string, want *rsa.PublicKey) (tpm2.TPMTPublic, tpm2.TPM2BName, error) {
	var none tpm2.TPMTPublic
	if want == nil {
		return none, tpm2.TPM2BName{}, evidence.Refuse(evidence.CodeBinding, what, "none in the HCL report", "an RSA key")
	}
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t)
	if err != nil {
		return none, tpm2.TPM2BName{}, fmt.Errorf("reading the %s: %w", what, err)
	}
	pub, err := r.OutPublic.Contents()
	if err != nil {
		return none, tpm2.TPM2BName{}, fmt.Errorf("reading the %s: %w", what, err)
	}
	got, err := rsaKey(pub)
	if err != nil {
		return none, tpm2.TPM2BName{}, fmt.Errorf("reading the %s: %w", what, err)
	}
	if !got.Equal(want) {
		return none, tpm2.TPM2BName{}, evidence.Refuse(evidence.CodeBinding, what+" of the TPM", short(got), short(want)).By("the key in the HCL report")
	}
	name, err := tpm2.ObjectName(pub)
	if err != nil {
		return none, tpm2.TPM2BName{}, err
	}
	return *pub, *name, nil
}

func rsaKey(pub *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	params, err := pub.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	unique, err := pub.Unique.RSA()
	if err != nil {
		return nil, err
	}
	e := int(params.Exponent)
	if e == 0 {
		e = defaultExpo
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(unique.Buffer), E: e}, nil
}

func short(k *rsa.PublicKey) string {
	n := k.N.Bytes()
	return fmt.Sprintf("modulus %x…", n[:min(8, len(n))])
}

// session is a one-off HMAC session that only the matched TPM can take part in.
func (d *Device) session(more ...tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, append([]tpm2.AuthOption{tpm2.Salted(HandleEK, d.ek)}, more...)...)
}

// audit authenticates answers of commands that need no authorization.
func (d *Device) audit() tpm2.Session { return d.session(tpm2.Audit()) }

func (d *Device) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: d.session()}
}

// AKPublic is the attestation key as a TPM2B_PUBLIC.
func (d *Device) AKPublic() []byte { return tpm2.Marshal(tpm2.New2B(d.ak)) }

// EKPublic is the endorsement key as a TPM2B_PUBLIC.
func (d *Device) EKPublic() []byte { return tpm2.Marshal(tpm2.New2B(d.ek)) }

func isRC(err error, rc tpm2.TPMRC) bool { return errors.Is(err, rc) }
