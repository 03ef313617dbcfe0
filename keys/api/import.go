package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

// importBody is a key that its owner brings, in clear inside TLS. Key Vault's other form, a key wrapped to a key of the vault
// (key_hsm), is not offered.
type importBody struct {
	Key           importJWK             `json:"key"`
	HSM           *bool                 `json:"hsm"`
	Attributes    *attributes           `json:"attributes"`
	Tags          map[string]string     `json:"tags"`
	ReleasePolicy *client.ReleasePolicy `json:"release_policy"`
}

type importJWK struct {
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	D      string   `json:"d"`
	P      string   `json:"p"`
	Q      string   `json:"q"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	K      string   `json:"k"`
	KeyHSM string   `json:"key_hsm"`
}

var importCurves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// importKey answers PUT /keys/NAME.
func (c *call) importKey(name string) (any, error) {
	if err := c.may("import/action", name); err != nil {
		return nil, err
	}
	if isGuestState(name) {
		return nil, badParameter("a guest-state key is made here; it can't be brought")
	}
	var in importBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	spec, plain, err := in.Key.material(in.HSM != nil && *in.HSM)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if err := c.fits(name, spec); err != nil {
		return nil, err
	}
	v := keystore.Version{Spec: spec, Enabled: true, Tags: in.Tags}
	if err := c.apply(&v, in.Key.KeyOps, in.Attributes, in.Tags); err != nil {
		return nil, err
	}
	policy, err := parsePolicy(in.ReleasePolicy)
	if err != nil {
		return nil, err
	}
	var exportable *bool
	if in.Attributes != nil {
		exportable = in.Attributes.Exportable
	}
	return c.addVersion(name, v, exportable, policy, func(at keystore.Address) (made, error) {
		m, err := c.Backend.Import(c.req.Context(), at, spec, plain)
		return made{material: m}, err
	})
}

// material reads the private parts of a key: PKCS #8 of RSA and EC, the bytes of an AES key. The caller clears it.
func (j importJWK) material(hsm bool) (keystore.Spec, []byte, error) {
	spec := keystore.Spec{Kty: j.Kty, Crv: j.Crv}
	if hsm && spec.Family() == spec.Kty {
		spec.Kty += "-HSM"
	}
	if j.KeyHSM != "" {
		return spec, nil, badParameter("key.key_hsm: keys wrapped to a key of the vault are not taken here")
	}
	bad := func(got, want string) (keystore.Spec, []byte, error) {
		return spec, nil, evidence.Refuse(evidence.CodeParse, "key", got, want)
	}
	parts := map[string]*big.Int{}
	for name, text := range map[string]string{"n": j.N, "e": j.E, "d": j.D, "p": j.P, "q": j.Q, "x": j.X, "y": j.Y} {
		raw, err := decode("key."+name, text)
		if err != nil {
			return spec, nil, err
		}
		if len(raw) > 1024 {
			return bad(fmt.Sprintf("%s of %d bytes", name, len(raw)), "at most 1024")
		}
		parts[name] = new(big.Int).SetBytes(raw)
		clear(raw)
	}
	switch spec.Family() {
	case "RSA":
		spec.Crv, spec.Bits = "", parts["n"].BitLen()
		if err := keystore.CheckSpec(spec); err != nil {
			return spec, nil, err
		}
		if !parts["e"].IsInt64() || parts["e"].Int64() != 65537 {
			return bad("another public exponent", "65537")
		}
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: parts["n"], E: 65537}, D: parts["d"], Primes: []*big.Int{parts["p"], parts["q"]}}
		key.Precompute()
		if err := key.Validate(); err != nil {
			return bad("parts that don't belong together", "n, e, d, p and q of one key")
		}
		plain, err := x509.MarshalPKCS8PrivateKey(key)
		return spec, plain, err
	case "EC":
		if err := keystore.CheckSpec(spec); err != nil {
			return spec, nil, err
		}
		curve := importCurves[j.Crv]
		size := (curve.Params().BitSize + 7) / 8
		d := parts["d"]
		if d.BitLen() > 8*size {
			return bad("a private part that is too long", "one of the curve")
		}
		key, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, size)))
		if err != nil {
			return bad("a private part that is not of the curve", "1 to n-1")
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return spec, nil, err
		}
		given := append(append([]byte{4}, parts["x"].FillBytes(make([]byte, max(size, (parts["x"].BitLen()+7)/8)))...), parts["y"].FillBytes(make([]byte, max(size, (parts["y"].BitLen()+7)/8)))...)
		if !slices.Equal(point, given) {
			return bad("a public part that does not belong to the private one", "x and y of one key")
		}
		plain, err := x509.MarshalPKCS8PrivateKey(key)
		return spec, plain, err
	case "oct":
		plain, err := decode("key.k", j.K)
		if err != nil {
			return spec, nil, err
		}
		spec.Crv, spec.Bits = "", 8*len(plain)
		return spec, plain, keystore.CheckSpec(spec)
	}
	return spec, nil, keystore.CheckSpec(spec)
}
