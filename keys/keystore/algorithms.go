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
	"crypto/x509"
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

// Signature is a scheme: the digest's hash, and "pss", "pkcs1" or a curve.
type Signature struct {
	Hash crypto.Hash
	Kind string
}

var signatures = map[string]Signature{
	"PS256": {crypto.SHA256, "pss"}, "PS384": {crypto.SHA384, "pss"}, "PS512": {crypto.SHA512, "pss"},
	"RS256": {crypto.SHA256, "pkcs1"}, "RS384": {crypto.SHA384, "pkcs1"}, "RS512": {crypto.SHA512, "pkcs1"},
	"ES256": {crypto.SHA256, "P-256"}, "ES384": {crypto.SHA384, "P-384"}, "ES512": {crypto.SHA512, "P-521"},
}

// Unsupported refuses an algorithm that is not one for a kind of key.
func Unsupported(alg string, key any) error {
	return evidence.Refuse(evidence.CodeUnsupported, "alg", alg, fmt.Sprintf("an algorithm for %T", key))
}

func lookupSignature(alg string, digest []byte) (Signature, error) {
	s, ok := signatures[alg]
	if !ok {
		return s, evidence.Refuse(evidence.CodeUnsupported, "alg", alg, "PS, RS or ES with 256, 384 or 512")
	}
	if len(digest) != s.Hash.Size() {
		return s, evidence.Refuse(evidence.CodeParse, "digest", fmt.Sprintf("%d bytes", len(digest)), fmt.Sprintf("%d for %s", s.Hash.Size(), alg))
	}
	return s, nil
}

// SignatureScheme finds the scheme of an algorithm for a public key and a digest, and refuses those that do not fit.
func SignatureScheme(pub any, alg string, digest []byte) (Signature, error) {
	s, err := lookupSignature(alg, digest)
	if err != nil {
		return s, err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if s.Kind == "pss" || s.Kind == "pkcs1" {
			return s, nil
		}
	case *ecdsa.PublicKey:
		if s.Kind == k.Curve.Params().Name {
			return s, nil
		}
	}
	return s, Unsupported(alg, pub)
}

// PublicKey parses the public half of material; nil for AES keys.
func PublicKey(m Material) (any, error) {
	if len(m.Public) == 0 {
		return nil, nil
	}
	pub, err := x509.ParsePKIXPublicKey(m.Public)
	if err != nil {
		return nil, fmt.Errorf("public key of a record: %w", err)
	}
	return pub, nil
}

// sign signs a digest. ECDSA signatures are R and S side by side, each as long as the curve's field.
func sign(key any, alg string, digest []byte) ([]byte, error) {
	s, err := lookupSignature(alg, digest)
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		switch s.Kind {
		case "pss":
			return rsa.SignPSS(rand.Reader, k, s.Hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		case "pkcs1":
			return rsa.SignPKCS1v15(rand.Reader, k, s.Hash, digest)
		}
	case *ecdsa.PrivateKey:
		if k.Curve.Params().Name != s.Kind {
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
	return nil, Unsupported(alg, key)
}

// Verify tells whether a signature over a digest is by the private half of pub.
func Verify(pub any, alg string, digest, sig []byte) (bool, error) {
	s, err := lookupSignature(alg, digest)
	if err != nil {
		return false, err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		switch s.Kind {
		case "pss":
			return rsa.VerifyPSS(k, s.Hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil, nil
		case "pkcs1":
			return rsa.VerifyPKCS1v15(k, s.Hash, digest, sig) == nil, nil
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().Name == s.Kind {
			n := (k.Curve.Params().BitSize + 7) / 8
			return len(sig) == 2*n && ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])), nil
		}
	}
	return false, Unsupported(alg, pub)
}

// EncryptPublic encrypts to an RSA key. RSA1_5 is not offered: its decryption tells an attacker about padding.
func EncryptPublic(key any, alg string, plain []byte) ([]byte, error) {
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, Unsupported(alg, key)
	}
	var out []byte
	var err error
	switch alg {
	case "RSA-OAEP":
		out, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, plain, nil)
	case "RSA-OAEP-256":
		out, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, plain, nil)
	default:
		return nil, Unsupported(alg, pub)
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
		return nil, Unsupported(alg, key)
	}
	if err != nil {
		return nil, NotThisKey()
	}
	return out, nil
}

// NotThisKey is the one answer to every ciphertext that does not decrypt.
func NotThisKey() error {
	return evidence.Refuse(evidence.CodeBinding, "value", "does not decrypt", "what this key encrypted, unchanged")
}

var octAlgs = map[string]struct {
	bits int
	gcm  bool
}{
	"A128GCM": {128, true}, "A192GCM": {192, true}, "A256GCM": {256, true},
	"A128KW": {128, false}, "A192KW": {192, false}, "A256KW": {256, false},
}

// SecretAlgorithm tells whether an algorithm for an AES key of a size is GCM; otherwise it is AES key wrap.
func SecretAlgorithm(alg string, bits int) (gcm bool, err error) {
	a, ok := octAlgs[alg]
	if !ok || a.bits != bits {
		return false, evidence.Refuse(evidence.CodeUnsupported, "alg", alg, fmt.Sprintf("A%dGCM or A%dKW", bits, bits))
	}
	return a.gcm, nil
}

func gcmOf(key []byte, alg string) (cipher.AEAD, error) {
	gcm, err := SecretAlgorithm(alg, 8*len(key))
	if err != nil || !gcm {
		return nil, err
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
		return nil, NotThisKey()
	}
	return out, nil
}
