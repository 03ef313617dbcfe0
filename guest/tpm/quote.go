package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Quote is signed by the attestation key.
type Quote struct {
	Message   []byte // TPMS_ATTEST
	Signature []byte // raw RSA signature, RSASSA PKCS #1 v1.5 with SHA-256
}

// Quote signs the given PCRs of the SHA-256 bank together with extraData.
func (d *Device) Quote(extraData []byte, pcrs ...int) (Quote, error) {
	r, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: HandleAK, Name: d.akName, Auth: d.session()},
		QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, // the key has its own
		PCRSelect:      selection(pcrs...),
	}.Execute(d.t)
	if err != nil {
		return Quote{}, fmt.Errorf("quoting: %w", err)
	}
	sig, err := r.Signature.Signature.RSASSA()
	if err != nil {
		return Quote{}, fmt.Errorf("reading the quote's signature: %w", err)
	}
	return Quote{Message: r.Quoted.Bytes(), Signature: sig.Sig.Buffer}, nil
}
