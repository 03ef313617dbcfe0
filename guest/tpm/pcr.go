package tpm

import (
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/launch"
)

// The PCRs of the SHA-256 bank that this package names.
const (
	PCRBootLoader = 4  // the UKI, by Authenticode hash
	PCRSecureBoot = 7  // Secure Boot state and the certificate that was used
	PCRUKI        = 11 // the sections of the UKI, then the phases
	PCRCmdline    = 12 // what the host added to the command line: must stay zero
	PCRExtensions = 13 // system extensions: must stay zero
	PCRVolume     = 15 // the OS volume that was opened
)

// LeaveInitrd is the event that goes into PCR 11 before the distribution starts. Nothing after it can unseal.
const LeaveInitrd = launch.LeaveInitrd

// PCRs holds SHA-256 PCR values by number.
type PCRs map[int][32]byte

func selection(pcrs ...int) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3)
	for _, p := range pcrs {
		bits[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}}
}

// ReadPCRs reads PCRs of the SHA-256 bank, each answer authenticated by the matched TPM.
func (d *Device) ReadPCRs(pcrs ...int) (PCRs, error) {
	out := PCRs{}
	for _, p := range pcrs {
		if p < 0 || p > 23 {
			return nil, fmt.Errorf("no PCR %d", p)
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: selection(p)}.Execute(d.t, d.audit())
		if err != nil {
			return nil, fmt.Errorf("reading PCR %d: %w", p, err)
		}
		if len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCR %d", p), "no SHA-256 value", "the SHA-256 bank").By("TPM-12")
		}
		out[p] = [32]byte(r.PCRValues.Digests[0].Buffer)
	}
	return out, nil
}

// Measure extends all banks of a PCR with the digest of data.
func (d *Device) Measure(pcr int, data []byte) error {
	_, err := tpm2.PCREvent{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: d.session()}, EventData: tpm2.TPM2BEvent{Buffer: data}}.Execute(d.t)
	if err != nil {
		return fmt.Errorf("extending PCR %d: %w", pcr, err)
	}
	return nil
}

// VolumeEvent is what PCR 15 is extended with (by its SHA-256) when the volume of this key digest was opened.
func VolumeEvent(keyDigest [32]byte) []byte {
	return append([]byte("cloister.volume/1\x00"), keyDigest[:]...)
}

// PlainVolumeEvent is the same for an OS disk without encryption in the VM.
var PlainVolumeEvent = []byte("cloister.volume/1\x00plain")

// policyPCR is the digest of a policy that consists of PolicyPCR only (TPM 2.0 part 3, PolicyPCR).
func policyPCR(pcrs []int, values PCRs) (policy, pcrDigest []byte) {
	h := sha256.New()
	for _, p := range pcrs { // ascending, as a TPM concatenates them
		v := values[p]
		h.Write(v[:])
	}
	pcrDigest = h.Sum(nil)
	h = sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write([]byte{0, 0, 1, 0x7f}) // TPM_CC_PolicyPCR
	h.Write(tpm2.Marshal(selection(pcrs...)))
	h.Write(pcrDigest)
	return h.Sum(nil), pcrDigest
}
