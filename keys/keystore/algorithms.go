package keystore

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	_ "crypto/sha512" // the hashes that signatures name
	"fmt"
	"math/big"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client/keywrap"
)

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// CheckSpec refuses kinds and sizes that are not offered.
func CheckSpec(s Spec) error {
	bad := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeUnsupported, field, got, want)
	}
	switch s.Kty {
	case "RSA", "RSA-HSM":
		if s.Bits != 2048 && s.Bits != 3072 && s.Bits != 4096 {
			return bad("key_size", fmt.Sprint(s.Bits), "2048, 3072 or 4096")
		}
	case "EC", "EC-HSM":
		if curves[s.Crv] == nil {
			return bad("crv", s.Crv, "P-256, P-384 or P-521")
		}
	case "oct", "oct-HSM":
		if s.Bits != 128 && s.Bits != 192 && s.Bits != 256 {
			return bad("key_size", fmt.Sprint(s.Bits), "128, 192 or 256")
		}
	default:
		return bad("kty", s.Kty, "RSA, RSA-HSM, EC, EC-HSM, oct or oct-HSM")
	}
	return nil
}

type signature struct {
	hash crypto.Hash
	kind string // pss, pkcs1 or a curve
}

var signatures = map[string]signature{
	"PS256": {crypto.SHA256, "pss"}, "PS384": {crypto.SHA384, "pss"}, "PS512": {crypto.SHA512, "pss"},
	"RS256": {crypto.SHA256, "pkcs1"}, "RS384": {crypto.SHA384, "pkcs1"}, "RS512": {crypto.SHA512, "pkcs1"},
	"ES256": {crypto.SHA256, "P-256"}, "ES384": {crypto.SHA384, "P-384"}, "ES512": {crypto.SHA512, "P-521"},
}

func unsupported(alg string, key any) error {
	return evidence.Refuse(evidence.CodeUnsupported, "alg", alg, fmt.Sprintf("an algorithm for %T", key))
}

func lookupSignature(alg string, digest []byte) (signature, error) {
	s, ok := signatures[alg]
	if !ok {
		return s, evidence.Refuse(evidence.CodeUnsupported, "alg", alg, "PS, RS or ES with 256, 384 or 512")
	}
	if len(digest) != s.hash.Size() {
		return s, evidence.Refuse(evidence.CodeParse, "digest", fmt.Sprintf("%d bytes", len(digest)), fmt.Sprintf("%d for %s", s.hash.Size(), alg))
	}
	return s, nil
}

// sign signs a digest. ECDSA signatures are R and S side by side, each as long as the curve's field.
func sign(key any, alg string, digest []byte) ([]byte, error) {
	s, err := lookupSignature(alg, digest)
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		switch s.kind {
		case "pss":
			return rsa.SignPSS(rand.Reader, k, s.hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		case "pkcs1":
			return rsa.SignPKCS1v15(rand.Reader, k, s.hash, digest)
		}
	case *ecdsa.PrivateKey:
		if k.Curve.Params().Name != s.kind {
			break
		}
		r, t, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			return nil, err
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		out := make([]byte, 2*n)
		r.FillBytes(out[:n])
		t.FillBytes(out[n:])
		return out, nil
	}
	return nil, unsupported(alg, key)
}

// Verify tells whether a signature over a digest is by the private half of pub.
func Verify(pub any, alg string, digest, sig []byte) (bool, error) {
	s, err := lookupSignature(alg, digest)
	if err != nil {
		return false, err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		switch s.kind {
		case "pss":
			return rsa.VerifyPSS(k, s.hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil, nil
		case "pkcs1":
			return rsa.VerifyPKCS1v15(k, s.hash, digest, sig) == nil, nil
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().Name == s.kind {
			n := (k.Curve.Params().BitSize + 7) / 8
			return len(sig) == 2*n && ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])), nil
		}
	}
	return false, unsupported(alg, pub)
}

// encryptPublic encrypts to an RSA key. RSA1_5 is not offered: its decryption tells an attacker about padding.
func encryptPublic(pub *rsa.PublicKey, alg string, plain []byte) ([]byte, error) {
	var out []byte
	var err error
	switch alg {
	case "RSA-OAEP":
		out, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, plain, nil)
	case "RSA-OAEP-256":
		out, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, plain, nil)
	default:
		return nil, unsupported(alg, pub)
	}
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "value", fmt.Sprintf("%d bytes", len(plain)), "short enough for the key")
	}
	return out, nil
}

func decryptPrivate(key *rsa.PrivateKey, alg string, in []byte) ([]byte, error) {
	var out []byte
	var err error
	switch alg {
	case "RSA-OAEP":
		out, err = rsa.DecryptOAEP(sha1.New(), nil, key, in, nil)
	case "RSA-OAEP-256":
		out, err = rsa.DecryptOAEP(sha256.New(), nil, key, in, nil)
	default:
		return nil, unsupported(alg, key)
	}
	if err != nil {
		return nil, notThisKey()
	}
	return out, nil
}

func notThisKey() error {
	return evidence.Refuse(evidence.CodeBinding, "value", "does not decrypt", "what this key encrypted, unchanged")
}

var octAlgs = map[string]struct {
	bits int
	gcm  bool
}{
	"A128GCM": {128, true}, "A192GCM": {192, true}, "A256GCM": {256, true},
	"A128KW": {128, false}, "A192KW": {192, false}, "A256KW": {256, false},
}

func gcmOf(key []byte, alg string) (cipher.AEAD, error) {
	a, ok := octAlgs[alg]
	if !ok || a.bits != 8*len(key) {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "alg", alg, fmt.Sprintf("A%dGCM or A%dKW", 8*len(key), 8*len(key)))
	}
	if !a.gcm {
		return nil, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// encryptSecret encrypts with an AES key. The IV of GCM is made here, never taken: a repeated one gives the key away.
func encryptSecret(key []byte, alg string, plain, aad []byte) (Sealed, error) {
	gcm, err := gcmOf(key, alg)
	if err != nil {
		return Sealed{}, err
	}
	if gcm == nil {
		out, err := keywrap.WrapExact(key, plain)
		return Sealed{Ciphertext: out}, err
	}
	iv := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(iv); err != nil {
		return Sealed{}, err
	}
	out := gcm.Seal(nil, iv, plain, aad)
	cut := len(out) - gcm.Overhead()
	return Sealed{Ciphertext: out[:cut], Tag: out[cut:], IV: iv, AAD: aad}, nil
}

func decryptSecret(key []byte, alg string, s Sealed) ([]byte, error) {
	gcm, err := gcmOf(key, alg)
	if err != nil {
		return nil, err
	}
	if gcm == nil {
		return keywrap.UnwrapExact(key, s.Ciphertext)
	}
	if len(s.IV) != gcm.NonceSize() || len(s.Tag) != gcm.Overhead() {
		return nil, evidence.Refuse(evidence.CodeParse, "iv, tag", fmt.Sprintf("%d and %d bytes", len(s.IV), len(s.Tag)), "12 and 16")
	}
	out, err := gcm.Open(nil, s.IV, append(append([]byte(nil), s.Ciphertext...), s.Tag...), s.AAD)
	if err != nil {
		return nil, notThisKey()
	}
	return out, nil
}
