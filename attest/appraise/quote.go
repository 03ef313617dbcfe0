package appraise

import (
	"bytes"
	"crypto/rsa"
	"encoding/hex"
	"maps"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/vtpm"
)

// ephemeral checks the key that the answer is encrypted to: made inside this TPM, certified by the
// attestation key, and usable only while the registers have the values in the quote.
func ephemeral(public, certify, signature []byte, ak *rsa.PublicKey, pcrs vtpm.PCRs) (*rsa.PublicKey, error) {
	name, err := vtpm.CertifiedName("EncKeyCertifyInfo", certify, signature, ak)
	if err != nil {
		return nil, err
	}
	pub, key, err := publicArea("EncKeyPub", public, vtpm.EphemeralKey)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(name, pub.Name) {
		return nil, evidence.Refuse(evidence.CodeBinding, "EncKeyCertifyInfo name", hex.EncodeToString(name), hex.EncodeToString(pub.Name)).By("the name of EncKeyPub")
	}
	if pub.Area.ObjectAttributes.UserWithAuth {
		return nil, evidence.Refuse(evidence.CodeConfig, "EncKeyPub userWithAuth", "true", "false: only the policy may authorise its use")
	}
	want, err := vtpm.PolicyPCRDigest([32]byte{}, slices.Collect(maps.Keys(pcrs)), pcrs)
	if err != nil {
		return nil, err
	}
	if policy := pub.Area.AuthPolicy.Buffer; !bytes.Equal(policy, want[:]) {
		return nil, evidence.Refuse(evidence.CodeBinding, "EncKeyPub policy", hex.EncodeToString(policy), hex.EncodeToString(want[:])).By("PolicyPCR over the quoted registers")
	}
	return key, nil
}
