// Package initdata reads and writes what a host gives a confidential VM before it starts.
//
// Init data are bytes. Their digest is bound into the hardware evidence (HOST_DATA of SEV-SNP,
// MRCONFIGID of TDX), so they are never parsed and written again: whoever needs the digest hashes the
// bytes that came. They hold no secrets: the host reads them.
package initdata

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"regexp"

	"cloister.dev/cloister/evidence"
)

// Version is the only form this package knows.
const Version = "cloister.initdata/1"

// MaxSize bounds init data, in bytes. They travel as user data of a VM, which Azure limits to 64 KiB in base64.
const MaxSize = 48 << 10

// What guest state and OS disk encryption a VM has; Azure's names.
const (
	ModeDiskWithVMGuestState = "DiskWithVMGuestState" // the OS disk is encrypted inside the VM
	ModeVMGuestStateOnly     = "VMGuestStateOnly"     // guest state is protected, the OS disk is not
	ModeNonPersistedTPM      = "NonPersistedTPM"      // no guest state; keys and disk encryption are the tenant's own
)

// DiskSerial is the serial number of the read-only virtio-blk disk that carries the exact bytes.
// The bytes are followed by zeros up to the size of the disk; JSON ends at its closing brace.
const DiskSerial = "cloister-init"

// InitData is the parsed form.
type InitData struct {
	Version          string   `json:"version"`
	VMID             string   `json:"vmId"` // UUID in lower case; names the guest-state key
	Name             string   `json:"name"` // host name inside the VM
	AdminUser        string   `json:"adminUser,omitempty"`
	SSHKeys          []string `json:"sshKeys,omitempty"`    // authorized_keys lines
	CustomData       []byte   `json:"customData,omitempty"` // base64 in JSON
	OSDiskEncryption string   `json:"osDiskEncryption"`     // DiskWithVMGuestState, VMGuestStateOnly or NonPersistedTPM
	Attest           Service  `json:"attest"`               // the verifier it may talk to
	Keys             Service  `json:"keys"`                 // the key keeper it may talk to
}

// Service is a service that a VM may talk to, pinned by its signing keys.
type Service struct {
	URL         string       `json:"url"`         // for attest also the issuer of its tokens
	SigningKeys []SigningKey `json:"signingKeys"` // what it signs tokens or answers with
	TLSCA       string       `json:"tlsCA"`       // PEM; transport only, never a reason to believe an answer
}

// SigningKey is a pinned public key.
type SigningKey struct {
	KID string `json:"kid"`
	PEM string `json:"pem"` // SubjectPublicKeyInfo
}

var (
	uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$`)
	userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// Parse reads init data. Trailing zeros (from a disk) must be cut first: see Trim.
// Errors: refuse/parse with the field.
func Parse(raw []byte) (*InitData, error) {
	if len(raw) == 0 || len(raw) > MaxSize {
		return nil, evidence.Refuse(evidence.CodeParse, "init data", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("1 to %d", MaxSize))
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var d InitData
	if err := dec.Decode(&d); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "init data", err.Error(), "JSON of "+Version)
	}
	if dec.More() {
		return nil, evidence.Refuse(evidence.CodeParse, "init data", "bytes after the object", "one JSON object")
	}
	return &d, d.validate()
}

func (d *InitData) validate() error {
	bad := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeParse, "init data "+field, got, want)
	}
	switch {
	case d.Version != Version:
		return bad("version", d.Version, Version)
	case !uuidForm.MatchString(d.VMID):
		return bad("vmId", d.VMID, "a UUID in lower case")
	case !nameForm.MatchString(d.Name):
		return bad("name", d.Name, "1 to 63 letters, digits and hyphens")
	case d.AdminUser != "" && !userForm.MatchString(d.AdminUser):
		return bad("adminUser", d.AdminUser, "a Linux user name")
	case d.OSDiskEncryption != ModeDiskWithVMGuestState && d.OSDiskEncryption != ModeVMGuestStateOnly && d.OSDiskEncryption != ModeNonPersistedTPM:
		return bad("osDiskEncryption", d.OSDiskEncryption, "DiskWithVMGuestState, VMGuestStateOnly or NonPersistedTPM")
	case len(d.Attest.SigningKeys) == 0:
		return bad("attest.signingKeys", "none", "at least one pinned key")
	case len(d.Keys.SigningKeys) == 0 && d.OSDiskEncryption != ModeNonPersistedTPM:
		return bad("keys.signingKeys", "none", "at least one pinned key")
	}
	return nil
}

// Marshal checks and writes init data. The result is the exact text whose digest counts from then on.
func Marshal(d InitData) ([]byte, error) {
	d.Version = Version
	if err := d.validate(); err != nil {
		return nil, err
	}
	return json.Marshal(d)
}

// Trim cuts the zeros that follow the bytes on a disk.
func Trim(disk []byte) []byte { return bytes.TrimRight(disk, "\x00") }

// SNPHostData is the digest that SEV-SNP evidence carries as HOST_DATA (32 bytes).
func SNPHostData(raw []byte) [32]byte { return sha256.Sum256(raw) }

// TDXConfigID is the digest that TDX evidence carries as MRCONFIGID (48 bytes).
func TDXConfigID(raw []byte) [48]byte { return sha512.Sum384(raw) }
