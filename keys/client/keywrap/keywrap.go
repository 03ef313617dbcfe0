// Package keywrap puts a key into the form in which a key keeper gives it away, and takes it out again.
//
// The form is that of Azure's key release (PKCS #11's CKM_RSA_AES_KEY_WRAP): an ephemeral 32-byte AES key under
// RSA-OAEP, as long as the RSA modulus, followed by the target key under AES key wrap with padding (RFC 5649).
package keywrap

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"cloister.dev/cloister/evidence"
)

// Form names the OAEP hash, which is also that of MGF1. The names are the wire's.
type Form string

// The forms.
const (
	SHA1   Form = "CKM_RSA_AES_KEY_WRAP"
	SHA256 Form = "RSA_AES_KEY_WRAP_256"
	SHA384 Form = "RSA_AES_KEY_WRAP_384"
)

// ParseForm reads the member "enc" of a release request; absent means SHA1, as in Azure.
func ParseForm(s string) (Form, error) {
	switch f := Form(s); f {
	case "":
		return SHA1, nil
	case SHA1, SHA256, SHA384:
		return f, nil
	}
	return "", evidence.Refuse(evidence.CodeUnsupported, "enc", s, fmt.Sprintf("%s, %s or %s", SHA1, SHA256, SHA384))
}

func (f Form) hash() (hash.Hash, error) {
	switch f {
	case SHA1:
		return sha1.New(), nil
	case SHA256:
		return sha256.New(), nil
	case SHA384:
		return sha512.New384(), nil
	}
	return nil, evidence.Refuse(evidence.CodeUnsupported, "enc", string(f), "a known wrapping form")
}

// The bounds of an RSA key that a key may be wrapped to.
const (
	minBits = 2048
	maxBits = 4096
)

// CheckKey refuses RSA keys that are weak or made to burn time.
func CheckKey(kek *rsa.PublicKey) error {
	switch bits := kek.N.BitLen(); {
	case bits < minBits || bits > maxBits || bits%8 != 0:
		return evidence.Refuse(evidence.CodeUnsupported, "wrapping key", fmt.Sprintf("RSA of %d bits", bits), fmt.Sprintf("%d to %d", minBits, maxBits))
	case kek.E != 65537:
		return evidence.Refuse(evidence.CodeUnsupported, "wrapping key", fmt.Sprintf("exponent %d", kek.E), "65537")
	}
	return nil
}

// Wrap wraps target to kek.
func Wrap(form Form, kek *rsa.PublicKey, target []byte) ([]byte, error) {
	return WrapUnder(form, kek, func(ephemeral []byte) ([]byte, error) { return WrapPadded(ephemeral, target) })
}

// WrapUnder is Wrap for a target that is kept elsewhere: wrap gives it under AES key wrap with padding and the ephemeral key.
func WrapUnder(form Form, kek *rsa.PublicKey, wrap func(ephemeral []byte) ([]byte, error)) ([]byte, error) {
	h, err := form.hash()
	if err != nil {
		return nil, err
	}
	if err := CheckKey(kek); err != nil {
		return nil, err
	}
	aesKey := make([]byte, 32)
	defer clear(aesKey)
	if _, err := rand.Read(aesKey); err != nil {
		return nil, fmt.Errorf("making the ephemeral AES key: %w", err)
	}
	head, err := rsa.EncryptOAEP(h, rand.Reader, kek, aesKey, nil)
	if err != nil {
		return nil, fmt.Errorf("wrapping the ephemeral AES key: %w", err)
	}
	tail, err := wrap(aesKey)
	if err != nil {
		return nil, err
	}
	return append(head, tail...), nil
}

// Unwrap takes out what Wrap put in.
func Unwrap(form Form, key *rsa.PrivateKey, wrapped []byte) ([]byte, error) {
	h, err := form.hash()
	if err != nil {
		return nil, err
	}
	n := key.Size()
	if len(wrapped) <= n {
		return nil, evidence.Refuse(evidence.CodeParse, "wrapped key", fmt.Sprintf("%d bytes", len(wrapped)), fmt.Sprintf("more than %d", n))
	}
	aesKey, err := rsa.DecryptOAEP(h, nil, key, wrapped[:n], nil)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "wrapped key", "not wrapped to this key", "wrapped to this key")
	}
	defer clear(aesKey)
	if len(aesKey) != 32 {
		return nil, evidence.Refuse(evidence.CodeParse, "wrapped key", fmt.Sprintf("an AES key of %d bytes", len(aesKey)), "32")
	}
	return UnwrapPadded(aesKey, wrapped[n:])
}
