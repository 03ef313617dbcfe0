package anchor

import (
	"crypto/sha256"

	"cloister.dev/cloister/evidence"
)

// DCAP is a kind of root that Intel's provisioning certificates, or those of a software stand-in, may end at. The zero
// value accepts nothing.
type DCAP struct {
	Kind     evidence.RootKind
	RootSPKI [][32]byte // SHA-256 of the root key's SubjectPublicKeyInfo, any of these
	Prefix   string     // all common names begin so: "Intel SGX" of "Intel SGX Root CA"
	QEs      []QE       // the quoting enclaves that may certify attestation keys
}

// QE names a quoting enclave: who signed it, and which of the signer's products it is.
type QE struct {
	MRSigner  [32]byte
	ISVProdID uint16
}

// Names of certificates behind the prefix.
const (
	RootCA       = " Root CA"
	PlatformCA   = " PCK Platform CA"
	ProcessorCA  = " PCK Processor CA"
	PCKLeaf      = " PCK Certificate"
	TCBSigning   = " TCB Signing"
	softwareDCAP = "Cloister Software SGX"
)

// SoftwareDCAP are software roots, with names and quoting enclaves that are never Intel's: product 1 quotes enclaves and
// product 2 quotes TDs, as Intel numbers its own.
func SoftwareDCAP(rootSPKI ...[32]byte) DCAP {
	signer := sha256.Sum256([]byte("Cloister software quoting enclave"))
	return DCAP{Kind: evidence.RootSoftware, RootSPKI: rootSPKI, Prefix: softwareDCAP, QEs: []QE{{signer, 1}, {signer, 2}}}
}
