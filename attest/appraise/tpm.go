package appraise

import (
	"crypto/rsa"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
)

// attributes says what a TPM key must be and must not be.
type attributes struct{ restricted, sign, decrypt, noDA bool }

var (
	akAttributes        = attributes{restricted: true, sign: true}
	ekAttributes        = attributes{restricted: true, decrypt: true}
	ephemeralAttributes = attributes{decrypt: true, noDA: true}
)

// publicArea reads a TPM2B_PUBLIC of an RSA-2048 key that was made inside a TPM and cannot leave it.
func publicArea(what string, raw []byte, want attributes) (*tpm2.TPMTPublic, *rsa.PublicKey, error) {
	bad := func(field, got, need string) error {
		return evidence.Refuse(evidence.CodeConfig, what+" "+field, got, need)
	}
	sized, err := tpm2.Unmarshal[tpm2.TPM2BPublic](raw)
	if err != nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "a TPM2B_PUBLIC")
	}
	if string(tpm2.Marshal(*sized)) != string(raw) {
		return nil, nil, evidence.Refuse(evidence.CodeParse, what, "bytes behind the structure", "a TPM2B_PUBLIC and nothing else")
	}
	pub, err := sized.Contents()
	if err != nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "a TPM2B_PUBLIC")
	}
	a := pub.ObjectAttributes
	switch {
	case pub.Type != tpm2.TPMAlgRSA:
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, what+" type", fmt.Sprintf("%#04x", uint16(pub.Type)), "RSA")
	case pub.NameAlg != tpm2.TPMAlgSHA256:
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, what+" name algorithm", fmt.Sprintf("%#04x", uint16(pub.NameAlg)), "SHA-256")
	case !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin:
		return nil, nil, bad("attributes", fmt.Sprintf("fixedTPM %t, fixedParent %t, sensitiveDataOrigin %t", a.FixedTPM, a.FixedParent, a.SensitiveDataOrigin), "all three")
	case a.Restricted != want.restricted:
		return nil, nil, bad("restricted", fmt.Sprint(a.Restricted), fmt.Sprint(want.restricted))
	case a.SignEncrypt != want.sign:
		return nil, nil, bad("sign", fmt.Sprint(a.SignEncrypt), fmt.Sprint(want.sign))
	case a.Decrypt != want.decrypt:
		return nil, nil, bad("decrypt", fmt.Sprint(a.Decrypt), fmt.Sprint(want.decrypt))
	case want.noDA && !a.NoDA:
		return nil, nil, bad("noDA", "false", "true")
	}
	key, err := rsaKey(pub)
	if err != nil {
		return nil, nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "an RSA key of 2048 bits with exponent 65537")
	}
	return pub, key, nil
}

func rsaKey(pub *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	detail, err := pub.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	unique, err := pub.Unique.RSA()
	if err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(unique.Buffer)
	if detail.KeyBits != 2048 || n.BitLen() != 2048 || len(unique.Buffer) != 256 {
		return nil, fmt.Errorf("a modulus of %d bits", n.BitLen())
	}
	if detail.Exponent != 0 && detail.Exponent != 65537 { // 0 is the TPM's form of 65537
		return nil, fmt.Errorf("exponent %d", detail.Exponent)
	}
	return &rsa.PublicKey{N: n, E: 65537}, nil
}

// sameKey reads a public area and compares its key with the one that the HCL claims name.
func sameKey(named *hcl.RuntimeClaims, kid string, raw []byte, want attributes) (*rsa.PublicKey, error) {
	genuine, err := named.RSAKey(kid)
	if err != nil {
		return nil, err
	}
	_, key, err := publicArea(kid, raw, want)
	if err != nil {
		return nil, err
	}
	if !key.Equal(genuine) {
		return nil, evidence.Refuse(evidence.CodeBinding, kid, "another key", "the key in the HCL claims").By("the vTPM is the one that the hardware evidence names")
	}
	return key, nil
}
