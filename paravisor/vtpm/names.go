package vtpm

import (
	"github.com/google/go-tpm/tpm2"

	evtpm "cloister.dev/cloister/evidence/vtpm"
)

// Handles and indexes that paravisor, guest and verifier agree on.
const (
	nvHCLReport    tpm2.TPMHandle = evtpm.NVHCLReport
	nvUserData     tpm2.TPMHandle = evtpm.NVUserData
	nvAKCert       tpm2.TPMHandle = evtpm.NVAKCert
	nvProvisioned  tpm2.TPMHandle = evtpm.NVProvisioned
	nvVolumeDigest tpm2.TPMHandle = evtpm.NVVolumeDigest
	handleAK       tpm2.TPMHandle = evtpm.HandleAK
	handleEK       tpm2.TPMHandle = evtpm.HandleEK
)
