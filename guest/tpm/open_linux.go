package tpm

import (
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Path is the kernel's resource-managed TPM device.
const Path = "/dev/tpmrm0"

// Open opens the TPM device.
func Open() (transport.TPMCloser, error) { return linuxtpm.Open(Path) }
