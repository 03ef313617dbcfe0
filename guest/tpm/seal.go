package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cloister.dev/cloister/evidence"
)

// The PCRs that a secret is sealed to, ascending. 12 and 13 always count as zero.
var sealPCRs = []int{PCRSecureBoot, PCRUKI, PCRCmdline, PCRExtensions}

// purpose goes into the creation data of sealed objects.
const purpose = "cloister os volume secret/1"

// maxSecret bounds what is sealed, in bytes: the TPM's limit for sealed data.
const maxSecret = 128

// sealValues reads the PCRs and refuses states in which sealing would protect nothing.
func (d *Device) sealValues() (PCRs, error) {
	v, err := d.ReadPCRs(append([]int{PCRBootLoader}, sealPCRs...)...)
	if err != nil {
		return nil, err
	}
	var zero [32]byte
	for _, p := range []int{PCRBootLoader, PCRSecureBoot, PCRUKI} {
		if v[p] == zero {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCR %d", p), "never extended", "a measured boot").By("TPM-13")
		}
	}
	for _, p := range []int{PCRCmdline, PCRExtensions} {
		if got := v[p]; got != zero {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCR %d", p), hex.EncodeToString(got[:]), "zero").By("nothing added to the signed image")
		}
	}
	return v, nil
}

// parent makes the storage key, the same each time, in the session of the matched TPM.
func (d *Device) parent() (tpm2.NamedHandle, func(), error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: d.owner(), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(d.t)
	if err != nil {
		return tpm2.NamedHandle{}, nil, fmt.Errorf("making the storage key: %w", err)
	}
	return tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}, d.flusher(r.ObjectHandle), nil
}

// flusher forgets a transient object. A failure costs a slot until the next boot, nothing else.
func (d *Device) flusher(h tpm2.TPMHandle) func() {
	return func() { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(d.t) }
}

// Seal binds a secret to this TPM, PCR 7 and PCR 11 as they are, and PCR 12 and 13 being zero. The result holds no secret.
func (d *Device) Seal(secret []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > maxSecret {
		return nil, fmt.Errorf("secret of %d bytes, want 1 to %d", len(secret), maxSecret)
	}
	values, err := d.sealValues()
	if err != nil {
		return nil, err
	}
	policy, _ := policyPCR(sealPCRs, values)
	parent, flush, err := d.parent()
	if err != nil {
		return nil, err
	}
	defer flush()
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: d.session(tpm2.AESEncryption(aesKeyBits, tpm2.EncryptIn))},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true}, // no userWithAuth: the policy is the only way
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		}),
		OutsideInfo: tpm2.TPM2BData{Buffer: []byte(purpose)},
		CreationPCR: selection(sealPCRs...),
	}.Execute(d.t)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	creation, err := r.CreationData.Contents()
	if err != nil {
		return nil, err
	}
	return encodeParts(tpm2.Marshal(r.OutPublic), tpm2.Marshal(r.OutPrivate), tpm2.Marshal(creation), tpm2.Marshal(r.CreationTicket)), nil
}

// Unseal gives the secret back. Besides the TPM's own policy it asks who sealed: a policy restricts use, not creation, so
// a host that boots a system of its own on this vTPM could seal a secret of its own under the good policy. The
// creation ticket proves that the object was made while PCR 7 and 11 already had their present values.
func (d *Device) Unseal(sealed []byte) ([]byte, error) {
	parts, err := decodeParts(sealed, 4)
	if err != nil {
		return nil, err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](parts[0])
	if err != nil {
		return nil, foreign("public area", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](parts[1])
	if err != nil {
		return nil, foreign("private area", err)
	}
	creation, err := tpm2.Unmarshal[tpm2.TPMSCreationData](parts[2])
	if err != nil {
		return nil, foreign("creation data", err)
	}
	ticket, err := tpm2.Unmarshal[tpm2.TPMTTKCreation](parts[3])
	if err != nil {
		return nil, foreign("creation ticket", err)
	}
	values, err := d.sealValues()
	if err != nil {
		return nil, err
	}
	policy, pcrDigest := policyPCR(sealPCRs, values)
	area, err := public.Contents()
	if err != nil {
		return nil, foreign("public area", err)
	}
	want := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true}
	switch {
	case area.Type != tpm2.TPMAlgKeyedHash || area.ObjectAttributes != want:
		return nil, foreign("public area", fmt.Errorf("another kind of object"))
	case !bytes.Equal(area.AuthPolicy.Buffer, policy):
		return nil, evidence.Refuse(evidence.CodeMeasurement, "sealed policy", hex.EncodeToString(area.AuthPolicy.Buffer), hex.EncodeToString(policy)).By("PCR 7 and 11 now, 12 and 13 zero")
	case string(creation.OutsideInfo.Buffer) != purpose:
		return nil, foreign("creation data", fmt.Errorf("made for something else"))
	case !bytes.Equal(tpm2.Marshal(creation.PCRSelect), tpm2.Marshal(selection(sealPCRs...))) || !bytes.Equal(creation.PCRDigest.Buffer, pcrDigest):
		return nil, evidence.Refuse(evidence.CodeMeasurement, "PCRs when the secret was sealed", hex.EncodeToString(creation.PCRDigest.Buffer), hex.EncodeToString(pcrDigest)).By("sealed by this image")
	}

	parent, flush, err := d.parent()
	if err != nil {
		return nil, err
	}
	defer flush()
	obj, err := tpm2.Load{ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: d.session()}, InPrivate: *private, InPublic: *public}.Execute(d.t)
	if err != nil {
		return nil, fmt.Errorf("loading the sealed secret: %w", err)
	}
	defer d.flusher(obj.ObjectHandle)()
	hash := sha256.Sum256(parts[2])
	_, err = tpm2.CertifyCreation{
		SignHandle:     tpm2.AuthHandle{Handle: HandleAK, Name: d.akName, Auth: d.session()},
		ObjectHandle:   tpm2.NamedHandle{Handle: obj.ObjectHandle, Name: obj.Name},
		CreationHash:   tpm2.TPM2BDigest{Buffer: hash[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		CreationTicket: *ticket,
	}.Execute(d.t)
	if err != nil {
		return nil, foreign("creation ticket", err)
	}
	callback := func(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyPCR{PolicySession: session, PcrDigest: tpm2.TPM2BDigest{Buffer: pcrDigest}, Pcrs: selection(sealPCRs...)}.Execute(t)
		return err
	}
	r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: obj.ObjectHandle, Name: obj.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, callback, tpm2.Salted(HandleEK, d.ek), tpm2.AESEncryption(aesKeyBits, tpm2.EncryptOut))}}.Execute(d.t)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	return r.OutData.Buffer, nil
}

func foreign(field string, err error) error {
	return evidence.Refuse(evidence.CodeBoot, "sealed secret: "+field, err.Error(), "what this guest sealed on this vTPM")
}

// encodeParts joins byte strings, each after its length (2 bytes, big-endian).
func encodeParts(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(p))), p...)
	}
	return out
}

func decodeParts(b []byte, n int) ([][]byte, error) {
	var parts [][]byte
	for range n {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, foreign("form", fmt.Errorf("cut short"))
		}
		size := int(binary.BigEndian.Uint16(b))
		parts, b = append(parts, b[2:2+size]), b[2+size:]
	}
	if len(b) != 0 {
		return nil, foreign("form", fmt.Errorf("%d bytes too many", len(b)))
	}
	return parts, nil
}
