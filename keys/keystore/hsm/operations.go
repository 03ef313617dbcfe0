package hsm

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/keystore"
)

// pss are the parameters of RSA-PSS by hash: the salt is as long as the digest.
var pss = map[crypto.Hash][2]uint{
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256}, crypto.SHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384}, crypto.SHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512},
}

// digestInfo is what PKCS #1 v1.5 puts before a digest. Source: RFC 8017, section 9.2, note 1.
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// Sign signs a digest in the token.
func (b *Backend) Sign(ctx context.Context, at keystore.Address, m keystore.Material, alg string, digest []byte) (out []byte, err error) {
	pub, err := public(m)
	if err != nil {
		return nil, err
	}
	scheme, err := keystore.SignatureScheme(pub, alg, digest)
	if err != nil {
		return nil, err
	}
	var mech []*pkcs11.Mechanism
	in := digest
	switch scheme.Kind {
	case "pss":
		p := pss[scheme.Hash]
		mech = mechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(p[0], p[1], uint(scheme.Hash.Size())))
	case "pkcs1":
		mech = mechanism(pkcs11.CKM_RSA_PKCS, nil)
		in = append(append([]byte(nil), digestInfo[scheme.Hash]...), digest...)
	default:
		mech = mechanism(pkcs11.CKM_ECDSA, nil) // R and S side by side, as Key Vault has them
	}
	err = b.with(ctx, func(s pkcs11.SessionHandle) error {
		key, err := b.object(s, at, m)
		if err != nil {
			return err
		}
		if err := b.ctx.SignInit(s, mech, key); err != nil {
			return fmt.Errorf("signing in the token: %w", err)
		}
		if out, err = b.ctx.Sign(s, in); err != nil {
			return fmt.Errorf("signing in the token: %w", err)
		}
		return nil
	})
	return out, err
}

// Encrypt encrypts one block, or wraps a key. With an RSA key that needs no secret, so it happens here.
func (b *Backend) Encrypt(ctx context.Context, at keystore.Address, m keystore.Material, alg string, plain []byte, in keystore.Sealed) (out keystore.Sealed, err error) {
	if len(m.Public) > 0 {
		pub, err := public(m)
		if err != nil {
			return out, err
		}
		out.Ciphertext, err = keystore.EncryptPublic(pub, alg, plain)
		return out, err
	}
	err = b.with(ctx, func(s pkcs11.SessionHandle) error {
		key, bits, err := b.secret(s, at, m)
		if err != nil {
			return err
		}
		gcm, err := keystore.SecretAlgorithm(alg, bits)
		if err != nil {
			return err
		}
		if gcm {
			out, err = b.sealGCM(s, key, plain, in.AAD)
			return err
		}
		out.Ciphertext, err = b.wrapBytes(s, key, plain)
		return err
	})
	return out, err
}

// Decrypt is the reverse of Encrypt.
func (b *Backend) Decrypt(ctx context.Context, at keystore.Address, m keystore.Material, alg string, in keystore.Sealed) (out []byte, err error) {
	err = b.with(ctx, func(s pkcs11.SessionHandle) error {
		if len(m.Public) > 0 {
			key, err := b.object(s, at, m)
			if err != nil {
				return err
			}
			out, err = b.decryptOAEP(s, key, m, alg, in.Ciphertext)
			return err
		}
		key, bits, err := b.secret(s, at, m)
		if err != nil {
			return err
		}
		gcm, err := keystore.SecretAlgorithm(alg, bits)
		if err != nil {
			return err
		}
		if gcm {
			out, err = b.openGCM(s, key, in)
			return err
		}
		out, err = b.unwrapBytes(s, key, in.Ciphertext)
		return err
	})
	return out, err
}

func public(m keystore.Material) (any, error) {
	pub, err := keystore.PublicKey(m)
	if err != nil {
		return nil, err
	}
	return pub, nil
}

// secret finds an AES key and its size in bits.
func (b *Backend) secret(s pkcs11.SessionHandle, at keystore.Address, m keystore.Material) (pkcs11.ObjectHandle, int, error) {
	key, err := b.object(s, at, m)
	if err != nil {
		return 0, 0, err
	}
	a, err := b.ctx.GetAttributeValue(s, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, uint(0))})
	if err != nil {
		return 0, 0, fmt.Errorf("reading the size of %s: %w", at, err)
	}
	n := 0
	for i, x := range a[0].Value { // a CK_ULONG of this machine: little-endian
		n |= int(x) << (8 * i)
	}
	return key, 8 * n, nil
}

// decryptOAEP decrypts in the token. Where the token has no OAEP with SHA-256 and the configuration says so, the padding alone
// is taken off here.
func (b *Backend) decryptOAEP(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, m keystore.Material, alg string, in []byte) ([]byte, error) {
	pub, err := public(m)
	if err != nil {
		return nil, err
	}
	rsaPub, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, keystore.Unsupported(alg, pub)
	}
	raw := false
	var mech []*pkcs11.Mechanism
	switch alg {
	case "RSA-OAEP":
		mech = mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil))
	case "RSA-OAEP-256":
		mech = mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))
		if raw = !b.has.oaep256; raw {
			mech = mechanism(pkcs11.CKM_RSA_X_509, nil)
		}
	default:
		return nil, keystore.Unsupported(alg, pub)
	}
	if len(in) != rsaPub.Size() {
		return nil, keystore.NotThisKey()
	}
	if err := b.ctx.DecryptInit(s, mech, key); err != nil {
		return nil, fmt.Errorf("decrypting in the token: %w", err)
	}
	out, err := b.ctx.Decrypt(s, in)
	if err != nil {
		return nil, whyNot(err)
	}
	if raw {
		defer clear(out)
		return unpadOAEP(sha256.New(), out, rsaPub.Size())
	}
	return out, nil
}

// whyNot keeps a ciphertext that is not this key's apart from a token that is in trouble. All kinds of wrong ciphertext
// give the same answer.
func whyNot(err error) error {
	for _, code := range []uint{pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED} {
		if is(err, code) {
			return keystore.NotThisKey()
		}
	}
	return fmt.Errorf("decrypting in the token: %w", err)
}

// gcmTag is the size of a tag, gcmIV that of an IV, in bytes.
const gcmTag, gcmIV = 16, 12

// sealGCM encrypts. The IV is made here, never taken: a repeated one gives the key away.
func (b *Backend) sealGCM(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, plain, aad []byte) (keystore.Sealed, error) {
	iv, err := b.ctx.GenerateRandom(s, gcmIV)
	if err != nil {
		return keystore.Sealed{}, fmt.Errorf("making an IV in the token: %w", err)
	}
	p := pkcs11.NewGCMParams(iv, aad, 8*gcmTag)
	defer p.Free()
	if err := b.ctx.EncryptInit(s, mechanism(pkcs11.CKM_AES_GCM, p), key); err != nil {
		return keystore.Sealed{}, fmt.Errorf("encrypting in the token: %w", err)
	}
	out, err := b.ctx.Encrypt(s, plain)
	if err != nil || len(out) != len(plain)+gcmTag {
		return keystore.Sealed{}, fmt.Errorf("encrypting in the token: %d bytes: %w", len(out), err)
	}
	cut := len(out) - gcmTag
	return keystore.Sealed{Ciphertext: out[:cut], Tag: out[cut:], IV: p.IV(), AAD: aad}, nil
}

func (b *Backend) openGCM(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, in keystore.Sealed) ([]byte, error) {
	if len(in.IV) != gcmIV || len(in.Tag) != gcmTag {
		return nil, evidence.Refuse(evidence.CodeParse, "iv, tag", fmt.Sprintf("%d and %d bytes", len(in.IV), len(in.Tag)), "12 and 16")
	}
	p := pkcs11.NewGCMParams(in.IV, in.AAD, 8*gcmTag)
	defer p.Free()
	if err := b.ctx.DecryptInit(s, mechanism(pkcs11.CKM_AES_GCM, p), key); err != nil {
		return nil, fmt.Errorf("decrypting in the token: %w", err)
	}
	out, err := b.ctx.Decrypt(s, append(append([]byte(nil), in.Ciphertext...), in.Tag...))
	if err != nil {
		return nil, whyNot(err)
	}
	return out, nil
}

// transient makes a key of the session out of bytes, for the time of use.
func (b *Backend) transient(s pkcs11.SessionHandle, kind uint, value []byte, uses ...uint) (pkcs11.ObjectHandle, error) {
	a := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	}
	for _, u := range uses {
		a = append(a, pkcs11.NewAttribute(u, true))
	}
	return b.ctx.CreateObject(s, a)
}

// wrapBytes wraps bytes by AES key wrap (RFC 3394): 16 bytes or more, a multiple of 8.
func (b *Backend) wrapBytes(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, plain []byte) (_ []byte, err error) {
	if len(plain) < 16 || len(plain)%8 != 0 {
		return nil, evidence.Refuse(evidence.CodeParse, "value", fmt.Sprintf("%d bytes", len(plain)), "16 or more, a multiple of 8")
	}
	o, err := b.transient(s, pkcs11.CKK_GENERIC_SECRET, plain)
	if err != nil {
		return nil, fmt.Errorf("taking a key into the token: %w", err)
	}
	defer b.forget(s, o, &err)
	out, err := b.ctx.WrapKey(s, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), key, o)
	if err != nil {
		return nil, fmt.Errorf("wrapping in the token: %w", err)
	}
	return out, nil
}

func (b *Backend) unwrapBytes(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, wrapped []byte) (_ []byte, err error) {
	if len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, keystore.NotThisKey()
	}
	o, err := b.ctx.UnwrapKey(s, mechanism(pkcs11.CKM_AES_KEY_WRAP, nil), key, wrapped, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	})
	if err != nil {
		return nil, whyNot(err)
	}
	defer b.forget(s, o, &err)
	a, err := b.ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil {
		return nil, fmt.Errorf("reading an unwrapped key: %w", err)
	}
	return a[0].Value, nil
}

// forget removes an object of a session: sessions live as long as the service.
func (b *Backend) forget(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, err *error) {
	if e := b.ctx.DestroyObject(s, o); e != nil && *err == nil {
		*err = fmt.Errorf("removing a key of the session: %w", e)
	}
}

// Export wraps material to a key: the token wraps it under an ephemeral AES key, which is wrapped by RSA-OAEP here.
func (b *Backend) Export(ctx context.Context, at keystore.Address, m keystore.Material, form keywrap.Form, kek *rsa.PublicKey) ([]byte, error) {
	var out []byte
	err := b.with(ctx, func(s pkcs11.SessionHandle) error {
		target, err := b.object(s, at, m)
		if err != nil {
			return err
		}
		out, err = keywrap.WrapUnder(form, kek, func(ephemeral []byte) (_ []byte, err error) {
			o, err := b.transient(s, pkcs11.CKK_AES, ephemeral, pkcs11.CKA_WRAP)
			if err != nil {
				return nil, fmt.Errorf("taking the ephemeral key into the token: %w", err)
			}
			defer b.forget(s, o, &err)
			return b.ctx.WrapKey(s, mechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil), o, target)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrapping %s in the token: %w", at, err)
	}
	return out, nil
}
