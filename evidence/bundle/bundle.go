// Package bundle holds all evidence of one VM in one file, and judges the whole: hardware report, the vTPM that it
// vouches for, the boot log, and the data that the guest chose.
//
// The file is JSON. Byte members are base64.
//
//	version        "cloister.evidence/1"
//	hclReport      HCL attestation report: hardware report and runtime claims
//	chain          PEM: endorsement key's certificate, intermediate, root
//	quote          TPMS_ATTEST over the SHA-256 bank
//	signature      RSASSA-PKCS1-v1_5 with SHA-256 over quote, the bare signature
//	akPublic       TPM2B_PUBLIC of the attestation key
//	akCertificate  DER, optional: the key counts because the HCL report names it, not because of this
//	pcrs           every quoted PCR: number in decimal to 64 hex digits
//	eventLog       TCG event log, raw
//	nonce          the verifier's challenge; the quote carries vtpm.NonceFor of it
//	sshHostKey     SSH host key in wire format; the user data in the HCL report are its digest
package bundle

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
	"cloister.dev/cloister/evidence/vtpm"
)

// Version is the only form that is known.
const Version = "cloister.evidence/1"

// MaxSize bounds a file, in bytes; an event log is by far the largest part.
const MaxSize = 4 << 20

// Bundle is the file.
type Bundle struct {
	Version       string            `json:"version"`
	HCLReport     []byte            `json:"hclReport"`
	Chain         string            `json:"chain"`
	Quote         []byte            `json:"quote"`
	Signature     []byte            `json:"signature"`
	AKPublic      []byte            `json:"akPublic"`
	AKCertificate []byte            `json:"akCertificate,omitempty"`
	PCRs          map[string]string `json:"pcrs"`
	EventLog      []byte            `json:"eventLog"`
	Nonce         []byte            `json:"nonce"`
	SSHHostKey    []byte            `json:"sshHostKey"`
}

// Parse reads a file strictly. It judges nothing.
func Parse(raw []byte) (Bundle, error) {
	if len(raw) == 0 || len(raw) > MaxSize {
		return Bundle{}, evidence.Refuse(evidence.CodeParse, "evidence bundle", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("1 to %d", MaxSize))
	}
	var b Bundle
	if err := strictjson.Decode("evidence bundle", raw, &b, "JSON of "+Version); err != nil {
		return Bundle{}, err
	}
	if b.Version != Version {
		return Bundle{}, evidence.Refuse(evidence.CodeUnsupported, "evidence bundle version", b.Version, Version)
	}
	for _, part := range []struct {
		name string
		size int
	}{{"hclReport", len(b.HCLReport)}, {"chain", len(b.Chain)}, {"quote", len(b.Quote)}, {"signature", len(b.Signature)}, {"akPublic", len(b.AKPublic)},
		{"pcrs", len(b.PCRs)}, {"eventLog", len(b.EventLog)}, {"nonce", len(b.Nonce)}, {"sshHostKey", len(b.SSHHostKey)}} {
		if part.size == 0 {
			return Bundle{}, evidence.Refuse(evidence.CodeParse, "evidence bundle "+part.name, "nothing", "evidence")
		}
	}
	return b, nil
}

// Marshal writes a file.
func (b Bundle) Marshal() ([]byte, error) {
	b.Version = Version
	return json.Marshal(b)
}

// Values reads the PCRs.
func (b Bundle) Values() (vtpm.PCRs, error) {
	out := vtpm.PCRs{}
	for name, text := range b.PCRs {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n > 23 || strconv.Itoa(n) != name {
			return nil, evidence.Refuse(evidence.CodeParse, "pcrs", name, "0 to 23")
		}
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != 32 {
			return nil, evidence.Refuse(evidence.CodeParse, "pcrs."+name, fmt.Sprintf("%d digits", len(text)), "64 hex digits")
		}
		out[n] = [32]byte(raw)
	}
	return out, nil
}
