package appraise

import (
	"crypto/rsa"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/vtpm"
)

// The roles of a vTPM's named keys.
var (
	akAttributes = vtpm.AttestationKey
	ekAttributes = vtpm.EndorsementKey
)

// publicArea reads a TPM2B_PUBLIC of an RSA-2048 key that was made inside a TPM and cannot leave it.
func publicArea(what string, raw []byte, role vtpm.Role) (*vtpm.Public, *rsa.PublicKey, error) {
	pub, err := vtpm.ParsePublic(what, raw)
	if err != nil {
		return nil, nil, err
	}
	if err := pub.Check(what, role); err != nil {
		return nil, nil, err
	}
	key, ok := pub.Key.(*rsa.PublicKey)
	if !ok || key.N.BitLen() != 2048 {
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, what, fmt.Sprintf("%T", pub.Key), "an RSA key of 2048 bits")
	}
	return pub, key, nil
}

// sameKey reads a public area and compares its key with the one that the HCL claims name.
func sameKey(named *hcl.RuntimeClaims, kid string, raw []byte, role vtpm.Role) (*rsa.PublicKey, error) {
	genuine, err := named.RSAKey(kid)
	if err != nil {
		return nil, err
	}
	_, key, err := publicArea(kid, raw, role)
	if err != nil {
		return nil, err
	}
	if !key.Equal(genuine) {
		return nil, evidence.Refuse(evidence.CodeBinding, kid, "another key", "the key in the HCL claims").By("the vTPM is the one that the hardware evidence names")
	}
	return key, nil
}
