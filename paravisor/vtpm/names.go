package vtpm

import "github.com/google/go-tpm/tpm2"

// Handles and indexes of the vTPM of a confidential VM.
const (
	nvHCLReport    tpm2.TPMHandle = 0x01400001
	nvUserData     tpm2.TPMHandle = 0x01400002
	nvAKCert       tpm2.TPMHandle = 0x01C101D0
	nvProvisioned  tpm2.TPMHandle = 0x01500010
	nvVolumeDigest tpm2.TPMHandle = 0x01500011
	handleAK       tpm2.TPMHandle = 0x81000003
	handleEK       tpm2.TPMHandle = 0x81010001
)

func ekTemplate() tpm2.TPMTPublic { return tpm2.RSAEKTemplate }

func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme:  tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})},
			KeyBits: 2048,
		}),
	}
}
