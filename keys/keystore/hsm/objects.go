package hsm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/keystore"
)

// idSize is the size of CKA_ID, which is the material's handle, in bytes.
const idSize = 16

// prefix marks the labels of what this service made in a token.
const prefix = "cloister/"

// label binds an object to the key and version that it belongs to: under another address it is not found.
func label(at keystore.Address) string { return prefix + at.String() }

var curveOIDs = map[string]asn1.ObjectIdentifier{"P-256": {1, 2, 840, 10045, 3, 1, 7}, "P-384": {1, 3, 132, 0, 34}, "P-521": {1, 3, 132, 0, 35}}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// Generate makes a key inside the token. It can leave it wrapped only: sensitive, and extractable for releases, whose
// policy the key service enforces.
func (b *Backend) Generate(ctx context.Context, at keystore.Address, spec keystore.Spec) (keystore.Material, error) {
	if err := keystore.CheckSpec(spec); err != nil {
		return keystore.Material{}, err
	}
	id := make([]byte, idSize)
	if _, err := rand.Read(id); err != nil {
		return keystore.Material{}, err
	}
	m := keystore.Material{Handle: id}
	err := b.with(ctx, func(s pkcs11.SessionHandle) (err error) {
		m.Public, err = b.generate(s, id, label(at), spec, true)
		return err
	})
	if err != nil {
		return keystore.Material{}, fmt.Errorf("making a key of kind %s in the token: %w", spec.Kty, err)
	}
	afterGenerate.Hit()
	return m, nil
}

// generate makes a key object, kept in the token or of the session only, and gives its public half (DER).
func (b *Backend) generate(s pkcs11.SessionHandle, id []byte, label string, spec keystore.Spec, kept bool) ([]byte, error) {
	common := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, kept), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	secret := append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)}, common...)
	// The public object is not kept: records hold the public key.
	public := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_ID, id)}
	with := func(base []*pkcs11.Attribute, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
		return append(base[:len(base):len(base)], more...)
	}
	yes := func(kind uint) *pkcs11.Attribute { return pkcs11.NewAttribute(kind, true) }
	switch spec.Family() {
	case "RSA":
		pub, _, err := b.ctx.GenerateKeyPair(s, mechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil),
			with(public, yes(pkcs11.CKA_VERIFY), yes(pkcs11.CKA_ENCRYPT), pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, spec.Bits), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})),
			with(secret, yes(pkcs11.CKA_SIGN), yes(pkcs11.CKA_DECRYPT)))
		if err != nil {
			return nil, err
		}
		return b.rsaPublic(s, pub)
	case "EC":
		params, err := asn1.Marshal(curveOIDs[spec.Crv])
		if err != nil {
			return nil, err
		}
		pub, _, err := b.ctx.GenerateKeyPair(s, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil),
			with(public, yes(pkcs11.CKA_VERIFY), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, params)), with(secret, yes(pkcs11.CKA_SIGN)))
		if err != nil {
			return nil, err
		}
		return b.ecPublic(s, pub, spec.Crv)
	}
	_, err := b.ctx.GenerateKey(s, mechanism(pkcs11.CKM_AES_KEY_GEN, nil), with(secret, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, spec.Bits/8),
		yes(pkcs11.CKA_ENCRYPT), yes(pkcs11.CKA_DECRYPT), yes(pkcs11.CKA_WRAP), yes(pkcs11.CKA_UNWRAP)))
	return nil, err
}

func mechanism(m uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, parameter)}
}

func (b *Backend) rsaPublic(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) ([]byte, error) {
	a, err := b.ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil)})
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(a[0].Value), E: int(new(big.Int).SetBytes(a[1].Value).Int64())})
}

func (b *Backend) ecPublic(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, crv string) ([]byte, error) {
	a, err := b.ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, err
	}
	// PKCS #11 wraps the point in a DER octet string.
	var point []byte
	if rest, err := asn1.Unmarshal(a[0].Value, &point); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("the token gave a point that is no DER octet string: %v", err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curves[crv], point)
	if err != nil {
		return nil, fmt.Errorf("the token gave a point that is not on its curve: %w", err)
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// class tells private keys from secret keys.
func class(m keystore.Material) uint {
	if len(m.Public) > 0 {
		return pkcs11.CKO_PRIVATE_KEY
	}
	return pkcs11.CKO_SECRET_KEY
}

// object finds material by its handle, its kind and the address it was made for.
func (b *Backend) object(s pkcs11.SessionHandle, at keystore.Address, m keystore.Material) (pkcs11.ObjectHandle, error) {
	if len(m.Handle) != idSize {
		return 0, evidence.Refuse(evidence.CodeBinding, "material of "+at.String(), fmt.Sprintf("a handle of %d bytes", len(m.Handle)), "one that this token gave")
	}
	found, err := b.search(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class(m)), pkcs11.NewAttribute(pkcs11.CKA_ID, m.Handle), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label(at)),
	})
	if err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, evidence.Refuse(evidence.CodeBinding, "material of "+at.String(), fmt.Sprintf("%d objects in the token", len(found)), "one, made for this key and version")
	}
	return found[0], nil
}

func (b *Backend) search(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	if err := b.ctx.FindObjectsInit(s, template); err != nil {
		return nil, fmt.Errorf("searching the token: %w", err)
	}
	found, _, err = b.ctx.FindObjects(s, 2)
	if endErr := b.ctx.FindObjectsFinal(s); err == nil {
		err = endErr
	}
	if err != nil {
		return nil, fmt.Errorf("searching the token: %w", err)
	}
	return found, nil
}

// destroy removes all objects of one handle. None is no error: a second try after a crash finds what is left.
func (b *Backend) destroy(s pkcs11.SessionHandle, handle []byte) error {
	for {
		found, err := b.search(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, handle)})
		if err != nil || len(found) == 0 {
			return err
		}
		for _, o := range found {
			if err := b.ctx.DestroyObject(s, o); err != nil {
				return fmt.Errorf("destroying a key in the token: %w", err)
			}
		}
	}
}

// Import takes key material into the token, wrapped on the way, so that the token treats it as it treats its own: sensitive from
// the first moment that it is there.
func (b *Backend) Import(ctx context.Context, at keystore.Address, spec keystore.Spec, plain []byte) (keystore.Material, error) {
	public, err := keystore.PublicOf(spec, plain)
	if err != nil {
		return keystore.Material{}, err
	}
	id, ephemeral := make([]byte, idSize), make([]byte, 32)
	defer clear(ephemeral)
	for _, r := range [][]byte{id, ephemeral} {
		if _, err := rand.Read(r); err != nil {
			return keystore.Material{}, err
		}
	}
	wrapped, err := keywrap.WrapPadded(ephemeral, plain)
	if err != nil {
		return keystore.Material{}, err
	}
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label(at)),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}
	uses := map[string][]uint{"RSA": {pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT}, "EC": {pkcs11.CKA_SIGN}, "oct": {pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}}
	for _, use := range uses[spec.Family()] {
		template = append(template, pkcs11.NewAttribute(use, true))
	}
	kinds := map[string][2]uint{"RSA": {pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA}, "EC": {pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC}, "oct": {pkcs11.CKO_SECRET_KEY, pkcs11.CKK_AES}}
	kind := kinds[spec.Family()]
	template = append(template, pkcs11.NewAttribute(pkcs11.CKA_CLASS, kind[0]), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind[1]))
	err = b.with(ctx, func(s pkcs11.SessionHandle) (err error) {
		o, err := b.transient(s, pkcs11.CKK_AES, ephemeral, pkcs11.CKA_UNWRAP)
		if err != nil {
			return err
		}
		defer b.forget(s, o, &err)
		_, err = b.ctx.UnwrapKey(s, mechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil), o, wrapped, template)
		return err
	})
	if err != nil {
		return keystore.Material{}, fmt.Errorf("taking a key of kind %s into the token: %w", spec.Kty, err)
	}
	afterGenerate.Hit()
	return keystore.Material{Handle: id, Public: public}, nil
}
