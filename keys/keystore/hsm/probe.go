package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

// abilities are what a token was seen to do. Lists of mechanisms are not believed: SoftHSM lists OAEP and takes SHA-1 only.
type abilities struct{ oaep256 bool }

// needed are the mechanisms that nothing stands in for.
var needed = map[uint]string{
	pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN: "RSA key generation", pkcs11.CKM_EC_KEY_PAIR_GEN: "EC key generation", pkcs11.CKM_AES_KEY_GEN: "AES key generation",
	pkcs11.CKM_RSA_PKCS: "RSASSA-PKCS1-v1_5", pkcs11.CKM_RSA_PKCS_PSS: "RSASSA-PSS", pkcs11.CKM_RSA_PKCS_OAEP: "RSAES-OAEP", pkcs11.CKM_ECDSA: "ECDSA",
	pkcs11.CKM_AES_GCM: "AES-GCM", pkcs11.CKM_AES_KEY_WRAP: "AES key wrap", pkcs11.CKM_AES_KEY_WRAP_PAD: "AES key wrap with padding",
}

// probe tries what tokens are known to lack, with a key of the session.
func (b *Backend) probe() (abilities, error) {
	list, err := b.ctx.GetMechanismList(b.slot)
	if err != nil {
		return abilities{}, fmt.Errorf("listing the token's mechanisms: %w", err)
	}
	has := map[uint]bool{}
	for _, m := range list {
		has[m.Mechanism] = true
	}
	var errs []error
	for m, name := range needed {
		if !has[m] {
			errs = append(errs, evidence.Refuse(evidence.CodeUnsupported, "token", "no "+name, "a token with it"))
		}
	}
	if len(errs) > 0 {
		return abilities{}, errors.Join(errs...)
	}
	var a abilities
	err = b.with(context.Background(), func(s pkcs11.SessionHandle) error {
		id := []byte("cloister-probe-0")
		der, err := b.generate(s, id, prefix+"probe", keystore.Spec{Kty: "RSA", Bits: 2048}, false)
		if err != nil {
			return fmt.Errorf("making a key to try the token with: %w", err)
		}
		pub, err := keystore.PublicKey(keystore.Material{Public: der})
		if err != nil {
			return err
		}
		found, err := b.search(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id)})
		if err != nil || len(found) == 0 {
			return fmt.Errorf("finding the key to try the token with: %w", err)
		}
		rsaPub, ok := pub.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("the token made %T", pub)
		}
		ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, rsaPub, []byte("probe"), nil)
		if err != nil {
			return err
		}
		err = b.ctx.DecryptInit(s, mechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil)), found[0])
		if err == nil {
			var plain []byte
			plain, err = b.ctx.Decrypt(s, ciphertext)
			a.oaep256 = err == nil && string(plain) == "probe"
		}
		return b.destroy(s, id)
	})
	return a, err
}

// Missing names what the token lacks and the configuration does not allow to be done in memory.
func (b *Backend) Missing() []InMemory {
	var out []InMemory
	if !b.has.oaep256 && !b.may[OAEPPadding] {
		out = append(out, OAEPPadding)
	}
	if !b.may[ReleaseWrapping] {
		out = append(out, ReleaseWrapping)
	}
	return out
}

// Instead says what is done in memory, for the log at start.
func (b *Backend) Instead() []InMemory {
	out := []InMemory{ReleaseWrapping}
	if !b.has.oaep256 {
		out = append(out, OAEPPadding)
	}
	return out
}
