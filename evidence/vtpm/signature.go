package vtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that signatures name
	_ "crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/big"

	"cloister.dev/cloister/evidence"
)

// Signature schemes of TPMT_SIGNATURE (TPM 2.0 part 2, TPM_ALG_ID).
const (
	algRSASSA = 0x14
	algRSAPSS = 0x16
	algECDSA  = 0x18
)

// CheckSignature verifies a TPM's signature over a message, in one of these forms:
//
//   - TPMT_SIGNATURE: RSASSA or RSAPSS with SHA-256, SHA-384 or SHA-512; ECDSA with SHA-256 on P-256, SHA-384 on P-384;
//   - bare RSA, as long as the modulus: RSASSA-PKCS1-v1_5 with SHA-256, which is what Azure's clients send;
//   - bare ECDSA: r and s of the curve's size, or DER; SHA-256 on P-256, SHA-384 on P-384.
//
// The key's kind and size decide how a signature is read, so no signature chooses a weaker reading of itself.
func CheckSignature(message, sig []byte, key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k != nil && k.N != nil {
			return checkRSA(message, sig, k)
		}
	case *ecdsa.PublicKey:
		if k != nil && k.Curve != nil {
			return checkECDSA(message, sig, k)
		}
	}
	return evidence.Refuse(evidence.CodeUnsupported, "ak", fmt.Sprintf("%T", key), "an RSA key, or an ECC key on P-256 or P-384")
}

func badSignature(got string) error {
	return evidence.Refuse(evidence.CodeChain, "signature", got, "a signature by the attestation key")
}

func checkRSA(message, sig []byte, key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return evidence.Refuse(evidence.CodeUnsupported, "ak", fmt.Sprintf("RSA of %d bits", bits), "2048 to 8192")
	}
	scheme, hash := uint16(algRSASSA), crypto.SHA256
	switch len(sig) {
	case key.Size():
	case key.Size() + 6: // algorithm, hash, size
		var err error
		scheme = binary.BigEndian.Uint16(sig)
		if hash, err = hashOf(Bank(binary.BigEndian.Uint16(sig[2:]))); err != nil {
			return err
		}
		if int(binary.BigEndian.Uint16(sig[4:])) != key.Size() {
			return badSignature("a size that is not that of the key")
		}
		sig = sig[6:]
	default:
		return badSignature(fmt.Sprintf("%d bytes", len(sig)))
	}
	h := hash.New()
	h.Write(message)
	var err error
	switch scheme {
	case algRSASSA:
		err = rsa.VerifyPKCS1v15(key, hash, h.Sum(nil), sig)
	case algRSAPSS: // TPMs differ in the length of their salt
		err = rsa.VerifyPSS(key, hash, h.Sum(nil), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
	default:
		return evidence.Refuse(evidence.CodeUnsupported, "signature scheme", fmt.Sprintf("%#04x", scheme), "RSASSA or RSAPSS")
	}
	if err != nil {
		return badSignature("one that does not verify")
	}
	return nil
}

func hashOf(b Bank) (crypto.Hash, error) {
	switch b {
	case SHA256, SHA384, SHA512:
		return bankHash[b], nil
	}
	return 0, evidence.Refuse(evidence.CodeUnsupported, "signature hash", fmt.Sprintf("%#04x", uint16(b)), "SHA-256, SHA-384 or SHA-512")
}

func checkECDSA(message, sig []byte, key *ecdsa.PublicKey) error {
	var bank Bank
	switch key.Curve {
	case elliptic.P256():
		bank = SHA256
	case elliptic.P384():
		bank = SHA384
	default:
		return evidence.Refuse(evidence.CodeUnsupported, "ak", key.Curve.Params().Name, "P-256 or P-384")
	}
	h := bankHash[bank].New()
	h.Write(message)
	digest, size := h.Sum(nil), (key.Params().BitSize+7)/8
	good := false
	switch {
	case len(sig) == 2*size:
		good = ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
	case len(sig) > 0 && sig[0] == 0x30:
		good = ecdsa.VerifyASN1(key, digest, sig)
	default:
		r, s, err := eccSignature(sig, bank, size)
		if err != nil {
			return err
		}
		good = ecdsa.Verify(key, digest, r, s)
	}
	if !good {
		return badSignature("one that does not verify")
	}
	return nil
}

// eccSignature reads a TPMT_SIGNATURE of ECDSA: algorithm, hash, then r and s, each behind its size.
func eccSignature(sig []byte, bank Bank, size int) (r, s *big.Int, err error) {
	if len(sig) < 4 {
		return nil, nil, badSignature(fmt.Sprintf("%d bytes", len(sig)))
	}
	if alg, hash := binary.BigEndian.Uint16(sig), binary.BigEndian.Uint16(sig[2:]); alg != algECDSA || Bank(hash) != bank {
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, "signature scheme", fmt.Sprintf("%#04x with hash %#04x", alg, hash), "ECDSA with SHA-256 on P-256, SHA-384 on P-384")
	}
	sig = sig[4:]
	next := func() *big.Int {
		if len(sig) < 2 || int(binary.BigEndian.Uint16(sig)) > size || int(binary.BigEndian.Uint16(sig)) > len(sig)-2 {
			err = badSignature("numbers that do not fit")
			return new(big.Int)
		}
		n := int(binary.BigEndian.Uint16(sig))
		out := new(big.Int).SetBytes(sig[2 : 2+n])
		sig = sig[2+n:]
		return out
	}
	r, s = next(), next()
	if err == nil && len(sig) > 0 {
		err = badSignature("bytes behind it")
	}
	return r, s, err
}
