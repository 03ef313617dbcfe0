// Package tpmseal keeps a keystore's passphrase under the TPM of the machine that serves it.
//
// The secret is sealed to the TPM's storage key and to the values that PCRs have at the time: another machine, or this one
// booted differently, does not get it. Sessions are salted to the storage key that the file names, so that nobody on the
// way to the TPM reads the secret or stands in for the TPM. Root on the running machine can unseal as the key keeper does.
package tpmseal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"cloister.dev/cloister/evidence"
)

// Device is the kernel's resource-managed TPM.
const Device = "/dev/tpmrm0"

// The file: the magic line, then JSON (sealed).
const (
	magic   = "CLOISTER TPM SEALED 1\n"
	maxFile = 16 << 10 // bytes
)

// maxSecret bounds what is sealed, in bytes: the TPM's limit for sealed data.
const maxSecret = 128

const (
	nonceSize  = 16
	aesKeyBits = 128
)

// sealed holds no secret: without the TPM it is worth nothing.
type sealed struct {
	PCRs    []int  `json:"pcrs"`    // of the SHA-256 bank, ascending
	Values  []byte `json:"values"`  // SHA-256 of their values, in that order
	Storage []byte `json:"storage"` // TPM2B_PUBLIC of the storage key
	Public  []byte `json:"public"`  // TPM2B_PUBLIC
	Private []byte `json:"private"` // TPM2B_PRIVATE
}

// Open opens a TPM: a character device, or the socket of a software TPM.
func Open(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM: %w", err)
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return linuxudstpm.Open(path)
	}
	return linuxtpm.Open(path)
}

// Seal binds a secret of 1 to 128 bytes to this TPM and to the values that the PCRs have now. PCRs that were never extended
// are refused: sealing to them would bind to nothing.
func Seal(t transport.TPM, pcrs []int, secret []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > maxSecret {
		return nil, evidence.Refuse(evidence.CodePolicy, "secret", fmt.Sprintf("%d bytes", len(secret)), fmt.Sprintf("1 to %d", maxSecret))
	}
	pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	if err := checkPCRs(pcrs); err != nil {
		return nil, err
	}
	values, err := read(t, pcrs)
	if err != nil {
		return nil, err
	}
	storage, err := storageKey(t)
	if err != nil {
		return nil, err
	}
	defer flush(t, storage.handle)
	policy := policyOf(pcrs, values)
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: storage.handle, Name: storage.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Salted(storage.handle, storage.public), tpm2.AESEncryption(aesKeyBits, tpm2.EncryptIn))},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true}, // no userWithAuth: the policy is the only way
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		}),
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	raw, err := json.Marshal(sealed{PCRs: pcrs, Values: values, Storage: tpm2.Marshal(tpm2.New2B(storage.public)), Public: tpm2.Marshal(r.OutPublic), Private: tpm2.Marshal(r.OutPrivate)})
	return append([]byte(magic), raw...), err
}

// Unseal gives the secret back, on the same TPM with the same PCR values. Errors: refuse/parse for another kind of file,
// refuse/binding for another TPM's, refuse/measurement where the machine booted differently.
func Unseal(t transport.TPM, file []byte) ([]byte, error) {
	s, err := parse(file)
	if err != nil {
		return nil, err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](s.Public)
	if err != nil {
		return nil, malformed("public", err.Error())
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](s.Private)
	if err != nil {
		return nil, malformed("private", err.Error())
	}
	storage, err := storageKey(t)
	if err != nil {
		return nil, err
	}
	defer flush(t, storage.handle)
	if !bytes.Equal(tpm2.Marshal(tpm2.New2B(storage.public)), s.Storage) {
		return nil, evidence.Refuse(evidence.CodeBinding, "storage key", "of another TPM", "of the TPM that sealed")
	}
	values, err := read(t, s.PCRs)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(values, s.Values) {
		return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCRs %v", s.PCRs), "digest "+hex.EncodeToString(values), hex.EncodeToString(s.Values)).By("as when the passphrase was sealed")
	}
	salted := tpm2.Salted(storage.handle, storage.public)
	obj, err := tpm2.Load{ParentHandle: tpm2.AuthHandle{Handle: storage.handle, Name: storage.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, salted)}, InPrivate: *private, InPublic: *public}.Execute(t)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "sealed passphrase", "does not load: "+err.Error(), "what this TPM sealed")
	}
	defer flush(t, obj.ObjectHandle)
	callback := func(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyPCR{PolicySession: session, PcrDigest: tpm2.TPM2BDigest{Buffer: values}, Pcrs: selection(s.PCRs)}.Execute(t)
		return err
	}
	r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: obj.ObjectHandle, Name: obj.Name,
		Auth: tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, callback, salted, tpm2.AESEncryption(aesKeyBits, tpm2.EncryptOut))}}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	return r.OutData.Buffer, nil
}

func parse(file []byte) (*sealed, error) {
	rest, ok := bytes.CutPrefix(file, []byte(magic))
	if !ok || len(file) > maxFile {
		return nil, malformed("file", "another kind of file")
	}
	var s sealed
	if err := json.Unmarshal(rest, &s); err != nil {
		return nil, malformed("file", err.Error())
	}
	if !slices.IsSorted(s.PCRs) {
		return nil, malformed("pcrs", fmt.Sprint(s.PCRs))
	}
	return &s, checkPCRs(s.PCRs)
}

func malformed(field, got string) error {
	return evidence.Refuse(evidence.CodeParse, "sealed passphrase: "+field, got, "what cloister-keys seal-passphrase wrote")
}

func checkPCRs(pcrs []int) error {
	if len(pcrs) == 0 || slices.Min(pcrs) < 0 || slices.Max(pcrs) > 23 {
		return evidence.Refuse(evidence.CodePolicy, "PCRs", fmt.Sprint(pcrs), "at least one, of 0 to 23")
	}
	return nil
}

type storage struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// storageKey makes the TPM's storage key, the same each time.
func storageKey(t transport.TPM) (*storage, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("making the TPM's storage key: %w", err)
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		flush(t, r.ObjectHandle)
		return nil, fmt.Errorf("reading the TPM's storage key: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		flush(t, r.ObjectHandle)
		return nil, err
	}
	return &storage{r.ObjectHandle, *name, *public}, nil
}

// flush forgets a transient object. A failure costs a slot until the next boot, nothing else.
func flush(t transport.TPM, h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t) }

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3)
	for _, p := range pcrs {
		bits[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits}}}
}

// read gives SHA-256 of the values of PCRs, ascending. One that was never extended is refused.
func read(t transport.TPM, pcrs []int) ([]byte, error) {
	h := sha256.New()
	for _, p := range pcrs {
		r, err := tpm2.PCRRead{PCRSelectionIn: selection([]int{p})}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading PCR %d: %w", p, err)
		}
		if len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, evidence.Refuse(evidence.CodeUnsupported, fmt.Sprintf("PCR %d", p), "not there", "a PCR of the SHA-256 bank")
		}
		v := r.PCRValues.Digests[0].Buffer
		if bytes.Count(v, []byte{0}) == len(v) || bytes.Count(v, []byte{0xff}) == len(v) {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("PCR %d", p), "never extended", "a measured boot")
		}
		h.Write(v)
	}
	return h.Sum(nil), nil
}

// policyOf is the digest of PolicyPCR over the PCRs (TPM 2.0 part 3, section 23.7).
func policyOf(pcrs []int, values []byte) []byte {
	h := sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCPolicyPCR)))
	h.Write(tpm2.Marshal(selection(pcrs)))
	h.Write(values)
	return h.Sum(nil)
}
