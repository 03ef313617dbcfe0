package vtpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
)

// Sizes of RSA keys that are worked with, in bits: the upper end bounds a verifier's work.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Public is a TPM's public area that was read whole: the key, and how the TPM lets it be used.
type Public struct {
	Key  crypto.PublicKey // *rsa.PublicKey, or *ecdsa.PublicKey on P-256 or P-384
	Name []byte           // name algorithm (SHA-256) and digest, 34 bytes
	Area tpm2.TPMTPublic
}

// ParsePublic reads a TPM2B_PUBLIC and nothing behind it: an RSA key of 2048 to 8192 bits with exponent 65537, or an
// ECC key on P-256 or P-384; the name algorithm is SHA-256. what names the key in refusals.
func ParsePublic(what string, raw []byte) (*Public, error) {
	parse := func(got string) (*Public, error) {
		return nil, evidence.Refuse(evidence.CodeParse, what, got, "a TPM2B_PUBLIC and nothing else")
	}
	sized, err := tpm2.Unmarshal[tpm2.TPM2BPublic](raw)
	if err != nil {
		return parse(err.Error())
	}
	if !bytes.Equal(tpm2.Marshal(*sized), raw) {
		return parse("bytes behind the structure")
	}
	area, err := sized.Contents()
	if err != nil {
		return parse(err.Error())
	}
	if area.NameAlg != tpm2.TPMAlgSHA256 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, what+" name algorithm", fmt.Sprintf("%#04x", uint16(area.NameAlg)), "SHA-256")
	}
	p := &Public{Area: *area}
	switch area.Type {
	case tpm2.TPMAlgRSA:
		p.Key, err = rsaKey(area)
	case tpm2.TPMAlgECC:
		p.Key, err = eccKey(area)
	default:
		return nil, evidence.Refuse(evidence.CodeUnsupported, what+" type", fmt.Sprintf("%#04x", uint16(area.Type)), "RSA or ECC")
	}
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "an RSA key of 2048 to 8192 bits with exponent 65537, or a point on P-256 or P-384")
	}
	name, err := tpm2.ObjectName(area)
	if err != nil {
		return parse(err.Error())
	}
	p.Name = name.Buffer
	return p, nil
}

func rsaKey(area *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	detail, err := area.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	unique, err := area.Unique.RSA()
	if err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(unique.Buffer)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits || bits != int(detail.KeyBits) || len(unique.Buffer)*8 != bits || n.Bit(0) == 0 {
		return nil, fmt.Errorf("a modulus of %d bits for a key of %d", bits, detail.KeyBits)
	}
	if detail.Exponent != 0 && detail.Exponent != 65537 { // 0 is the TPM's form of 65537
		return nil, fmt.Errorf("exponent %d", detail.Exponent)
	}
	return &rsa.PublicKey{N: n, E: 65537}, nil
}

func eccKey(area *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	detail, err := area.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	unique, err := area.Unique.ECC()
	if err != nil {
		return nil, err
	}
	var curve elliptic.Curve
	switch detail.CurveID {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("curve %#04x", uint16(detail.CurveID))
	}
	size := (curve.Params().BitSize + 7) / 8
	x, y := unique.X.Buffer, unique.Y.Buffer
	if len(x) > size || len(y) > size { // a TPM may leave out leading zeros
		return nil, fmt.Errorf("coordinates of %d and %d bytes", len(x), len(y))
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	return ecdsa.ParseUncompressedPublicKey(curve, point) // refuses what is not on the curve
}

// Role says what a key is for, as the attributes of its public area must show it.
type Role struct {
	Restricted, Sign, Decrypt bool
	NoDA                      bool // demanded where set
}

// The roles. Whatever the role, the key was made inside the TPM and can't leave it.
var (
	AttestationKey = Role{Restricted: true, Sign: true}
	EndorsementKey = Role{Restricted: true, Decrypt: true}
	EphemeralKey   = Role{Decrypt: true, NoDA: true}
)

// Check refuses a key whose attributes are not those of the role.
func (p *Public) Check(what string, r Role) error {
	a := p.Area.ObjectAttributes
	bad := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeConfig, what+" "+field, got, want)
	}
	switch {
	case !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin:
		return bad("attributes", fmt.Sprintf("fixedTPM %t, fixedParent %t, sensitiveDataOrigin %t", a.FixedTPM, a.FixedParent, a.SensitiveDataOrigin), "all three")
	case a.Restricted != r.Restricted:
		return bad("restricted", fmt.Sprint(a.Restricted), fmt.Sprint(r.Restricted))
	case a.SignEncrypt != r.Sign:
		return bad("sign", fmt.Sprint(a.SignEncrypt), fmt.Sprint(r.Sign))
	case a.Decrypt != r.Decrypt:
		return bad("decrypt", fmt.Sprint(a.Decrypt), fmt.Sprint(r.Decrypt))
	case r.NoDA && !a.NoDA:
		return bad("noDA", "false", "true")
	}
	return nil
}

// RSAPublic reads a TPM2B_PUBLIC of an RSA key and gives its key and its name.
func RSAPublic(raw []byte) (*rsa.PublicKey, []byte, error) {
	p, err := ParsePublic("public area", raw)
	if err != nil {
		return nil, nil, err
	}
	key, ok := p.Key.(*rsa.PublicKey)
	if !ok {
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, "public area", "an ECC key", "an RSA key")
	}
	return key, p.Name, nil
}
