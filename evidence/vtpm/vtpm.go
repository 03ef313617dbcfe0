// Package vtpm judges what a TPM says: quotes, certifications, public areas, certificates, event logs and PCR policies.
// It is the one place for these; it does no I/O and asks no network. TPM numbers are big-endian, event logs little-endian.
//
// Sources: TCG, "Trusted Platform Module Library" 2.0, parts 1 and 2; "PC Client Platform Firmware Profile"; "EK
// Credential Profile" for TPM 2.0.
package vtpm

import (
	"crypto/sha256"

	"github.com/google/go-tpm/tpm2"
)

// Handles that paravisor, guest and verifier agree on. The first three NV indexes and the persistent
// handles are Azure's; the last two are ours, made by the platform and write-once.
const (
	NVHCLReport    = 0x01400001
	NVUserData     = 0x01400002 // 64 bytes
	NVAKCert       = 0x01C101D0
	HandleAK       = 0x81000003
	HandleEK       = 0x81010001
	NVProvisioned  = 0x01500010 // 1 byte
	NVVolumeDigest = 0x01500011 // 32 bytes
)

// NonceFor turns a challenge of any length into a quote's extra data (32 bytes), so that no TPM cuts it.
func NonceFor(challenge []byte) []byte {
	h := sha256.Sum256(challenge)
	return h[:]
}

// EKTemplate is the TCG's low-range RSA-2048 endorsement key.
func EKTemplate() tpm2.TPMTPublic { return tpm2.RSAEKTemplate }

// AKTemplate is a restricted RSA-2048 signing key, RSASSA with SHA-256, exponent 0 (65537).
func AKTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}),
	}
}
