package hcl

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"cloister.dev/cloister/evidence"
)

// Names of the keys in runtime claims.
const (
	KeyAK       = "HCLAkPub"       // the vTPM's attestation key
	KeyEK       = "HCLEkPub"       // the vTPM's endorsement key
	KeyTransfer = "HCLTransferKey" // the key that a guest-state key is wrapped to
)

// JWK is a key of the runtime claims, with base64url numbers without padding. Keys are picked by KID: in the
// oldest form, the operations of HCLAkPub are wrong.
type JWK struct {
	KID    string
	KeyOps []string
	KTY    string
	E, N   string

	extra []member
}

// JWKFromRSA describes an RSA key; op is "sign" or "encrypt".
func JWKFromRSA(kid, op string, pub *rsa.PublicKey) JWK {
	b64 := base64.RawURLEncoding
	return JWK{KID: kid, KeyOps: []string{op}, KTY: "RSA", E: b64.EncodeToString(big.NewInt(int64(pub.E)).Bytes()), N: b64.EncodeToString(pub.N.Bytes())}
}

func (k *JWK) fields() []field {
	return []field{{"kid", &k.KID}, {"key_ops", &k.KeyOps}, {"kty", &k.KTY}, {"e", &k.E}, {"n", &k.N}}
}

// MarshalJSON writes kid, key_ops, kty, e, n and then what is not known here.
func (k JWK) MarshalJSON() ([]byte, error) {
	var w writer
	for _, f := range k.fields() {
		switch x := f.to.(type) {
		case *string:
			if *x != "" {
				w.add(f.name, *x)
			}
		case *[]string:
			if *x != nil {
				w.add(f.name, *x)
			}
		}
	}
	w.addRaw(k.extra)
	return w.bytes("key " + k.KID)
}

// parseKeys reads the keys. Every key has a name of its own.
func parseKeys(raw json.RawMessage) ([]JWK, error) {
	var list []json.RawMessage
	if err := decode("keys", raw, &list); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	keys := make([]JWK, 0, len(list))
	for _, one := range list {
		members, err := split("runtime claims key", one)
		if err != nil {
			return nil, err
		}
		var k JWK
		if k.extra, err = fill("key", members, k.fields(), map[string]bool{}); err != nil {
			return nil, err
		}
		if k.KID == "" || seen[k.KID] {
			return nil, evidence.Refuse(evidence.CodeParse, "runtime claims key kid", fmt.Sprintf("%q", k.KID), "a name, once")
		}
		seen[k.KID] = true
		keys = append(keys, k)
	}
	return keys, nil
}

// RSAKey is the RSA key of that name: 2048 to 8192 bits.
func (c *RuntimeClaims) RSAKey(kid string) (*rsa.PublicKey, error) {
	for _, k := range c.Keys {
		if k.KID != kid {
			continue
		}
		bad := func(what, got, want string) (*rsa.PublicKey, error) {
			return nil, evidence.Refuse(evidence.CodeParse, "runtime claims key "+kid+" "+what, got, want)
		}
		if k.KTY != "RSA" {
			return nil, evidence.Refuse(evidence.CodeUnsupported, "runtime claims key "+kid+" kty", k.KTY, "RSA")
		}
		n, err := base64.RawURLEncoding.Strict().DecodeString(k.N)
		if err != nil {
			return bad("n", err.Error(), "base64url without padding")
		}
		e, err := base64.RawURLEncoding.Strict().DecodeString(k.E)
		if err != nil {
			return bad("e", err.Error(), "base64url without padding")
		}
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
		if bits := pub.N.BitLen(); bits < 2048 || bits > 8192 || pub.N.Bit(0) == 0 {
			return bad("n", fmt.Sprintf("%d bits", bits), "an odd number of 2048 to 8192 bits")
		}
		exp := new(big.Int).SetBytes(e)
		if exp.BitLen() > 31 || exp.Int64() < 3 || exp.Bit(0) == 0 {
			return bad("e", fmt.Sprintf("%d bits", exp.BitLen()), "an odd number from 3 to 2^31-1")
		}
		pub.E = int(exp.Int64())
		return pub, nil
	}
	return nil, evidence.Refuse(evidence.CodeBinding, "runtime claims key "+kid, "absent", "present")
}
