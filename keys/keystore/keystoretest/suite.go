// Package keystoretest is what every backend of keystore must pass.
package keystoretest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"sync"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/keystore"
)

// Run tests a backend. Reopen opens the same store again, after the one before was closed; the first call opens a new one.
func Run(t *testing.T, reopen func(t *testing.T) keystore.Backend) {
	ctx := t.Context()
	b := reopen(t)
	id := keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "Key"}
	put := func(k *keystore.Key) keystore.Change {
		return func(*keystore.Key) (*keystore.Key, error) { return k, nil }
	}
	t.Run("records", func(t *testing.T) {
		if _, err := b.Get(ctx, id); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a key that is not there: %v", err)
		}
		must(t, b.Update(ctx, id, put(&keystore.Key{ID: id, GuestState: &keystore.GuestState{Confirmed: 1}})))
		k, err := b.Get(ctx, keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "V"}, Name: "kEY"})
		if err != nil || k.ID != id {
			t.Fatalf("names have no case, and keep it: %v %v", k, err)
		}
		k.GuestState.Confirmed = 99
		if again, err := b.Get(ctx, id); err != nil || again.GuestState.Confirmed != 1 {
			t.Errorf("a change to a copy reached the record: %v", err)
		}
		if list, err := b.List(ctx, keystore.VaultID{Tenant: "t", Name: "w"}); err != nil || len(list) != 0 {
			t.Errorf("another vault: %v %v", list, err)
		}
		wrong := errors.New("wrong")
		if err := b.Update(ctx, id, func(k *keystore.Key) (*keystore.Key, error) { k.GuestState.Confirmed = 7; return k, wrong }); !errors.Is(err, wrong) {
			t.Errorf("the change's error: %v", err)
		}
		if err := b.Update(ctx, id, put(&keystore.Key{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "other"}})); err == nil {
			t.Error("a record under another name was taken")
		}
		if list, err := b.List(ctx, keystore.VaultID{Tenant: "t", Name: "v"}); err != nil || len(list) != 1 || list[0].GuestState.Confirmed != 1 {
			t.Errorf("a refused change left a trace: %v %v", list, err)
		}
	})
	t.Run("SVC-14 changes in parallel follow each other", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				err := b.Update(ctx, id, func(k *keystore.Key) (*keystore.Key, error) { k.GuestState.Confirmed++; return k, nil })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if k, err := b.Get(ctx, id); err != nil || k.GuestState.Confirmed != 21 {
			t.Errorf("after 20 increments: %+v %v", k, err)
		}
	})
	for _, spec := range []keystore.Spec{{Kty: "RSA", Bits: 1024}, {Kty: "EC", Crv: "P-256K"}, {Kty: "oct", Bits: 100}, {Kty: "ed", Bits: 256}, {}} {
		if _, err := b.Generate(ctx, keystore.Address{Key: id, Version: "1"}, spec); evidence.CodeOf(err) != evidence.CodeUnsupported {
			t.Errorf("spec %+v: %v", spec, err)
		}
	}
	t.Run("material", func(t *testing.T) { material(ctx, t, b, id) })
	t.Run("brought material", func(t *testing.T) { brought(ctx, t, b, id) })
	at := keystore.Address{Key: id, Version: "kept"}
	m, err := b.Generate(ctx, at, keystore.Spec{Kty: "oct", Bits: 256})
	must(t, err)
	before := export(ctx, t, b, at, m)
	must(t, b.Close())
	b = reopen(t)
	defer func() { must(t, b.Close()) }()
	t.Run("after a restart", func(t *testing.T) {
		if k, err := b.Get(ctx, id); err != nil || k.GuestState.Confirmed != 21 {
			t.Errorf("the record: %+v %v", k, err)
		}
		if !bytes.Equal(before, export(ctx, t, b, at, m)) {
			t.Error("the material is another")
		}
		must(t, b.Update(ctx, id, put(nil)))
		if _, err := b.Get(ctx, id); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a removed record: %v", err)
		}
	})
}

func material(ctx context.Context, t *testing.T, b keystore.Backend, id keystore.ID) {
	at := keystore.Address{Key: id, Version: "1"}
	d256, d384 := sha256.Sum256([]byte("x")), sha512.Sum384([]byte("x"))
	for _, r := range []struct {
		spec keystore.Spec
		sign map[string][]byte
		enc  []string
		not  string
	}{
		{keystore.Spec{Kty: "RSA-HSM", Bits: 2048}, map[string][]byte{"PS256": d256[:], "RS256": d256[:], "PS384": d384[:]}, []string{"RSA-OAEP", "RSA-OAEP-256"}, "A256GCM"},
		{keystore.Spec{Kty: "EC", Crv: "P-256"}, map[string][]byte{"ES256": d256[:]}, nil, "RSA-OAEP"},
		{keystore.Spec{Kty: "EC-HSM", Crv: "P-384"}, map[string][]byte{"ES384": d384[:]}, nil, "A256KW"},
		{keystore.Spec{Kty: "oct-HSM", Bits: 256}, nil, []string{"A256GCM", "A256KW"}, "A128GCM"},
	} {
		m, err := b.Generate(ctx, at, r.spec)
		must(t, err)
		var pub any
		if len(m.Public) > 0 {
			pub, err = x509.ParsePKIXPublicKey(m.Public)
			must(t, err)
		}
		for alg, digest := range r.sign {
			sig, err := b.Sign(ctx, at, m, alg, digest)
			must(t, err)
			if ok, err := keystore.Verify(pub, alg, digest, sig); err != nil || !ok {
				t.Errorf("%s: own signature: %v", alg, err)
			}
			sig[0] ^= 1
			if ok, err := keystore.Verify(pub, alg, digest, sig); err != nil || ok {
				t.Errorf("%s: a changed signature: %v %v", alg, ok, err)
			}
			if _, err := b.Sign(ctx, at, m, alg, digest[1:]); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("%s: a short digest: %v", alg, err)
			}
		}
		if _, err := b.Sign(ctx, at, m, "none", d256[:]); err == nil {
			t.Error("SVC-04 alg none signed")
		}
		plain := bytes.Repeat([]byte{5}, 32)
		for _, alg := range r.enc {
			s, err := b.Encrypt(ctx, at, m, alg, plain, keystore.Sealed{})
			must(t, err)
			if got, err := b.Decrypt(ctx, at, m, alg, s); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s: %v", alg, err)
			}
			s.Ciphertext[len(s.Ciphertext)-1] ^= 1
			if _, err := b.Decrypt(ctx, at, m, alg, s); evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("%s: a changed ciphertext: %v", alg, err)
			}
		}
		if _, err := b.Encrypt(ctx, at, m, r.not, plain, keystore.Sealed{}); evidence.CodeOf(err) != evidence.CodeUnsupported {
			t.Errorf("%s with %s: %v", r.spec.Kty, r.not, err)
		}
		other := keystore.Address{Key: keystore.ID{Vault: id.Vault, Name: "other"}, Version: "1"}
		kek, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		if _, err := b.Export(ctx, other, m, keywrap.SHA256, &kek.PublicKey); err == nil {
			t.Error("material was used under another key's name")
		}
		raw := export(ctx, t, b, at, m)
		switch r.spec.Family() {
		case "oct":
			if len(raw) != r.spec.Bits/8 {
				t.Errorf("exported %d bytes", len(raw))
			}
		default:
			key, err := x509.ParsePKCS8PrivateKey(raw)
			must(t, err)
			switch k := key.(type) {
			case *rsa.PrivateKey:
				if !k.PublicKey.Equal(pub) {
					t.Error("exported another key")
				}
			case *ecdsa.PrivateKey:
				if !k.PublicKey.Equal(pub) {
					t.Error("exported another key")
				}
			}
		}
	}
}

// brought takes keys in and wants them to do what the originals do.
func brought(ctx context.Context, t *testing.T, b keystore.Backend, id keystore.ID) {
	at := keystore.Address{Key: id, Version: "brought"}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	secret := bytes.Repeat([]byte{9}, 32)
	pkcs8 := func(key any) []byte {
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		return raw
	}
	digest := sha256.Sum256([]byte("x"))
	for _, r := range []struct {
		spec  keystore.Spec
		plain []byte
		pub   any
		alg   string
	}{
		{keystore.Spec{Kty: "RSA-HSM", Bits: 2048}, pkcs8(rsaKey), &rsaKey.PublicKey, "PS256"},
		{keystore.Spec{Kty: "EC-HSM", Crv: "P-256"}, pkcs8(ecKey), &ecKey.PublicKey, "ES256"},
		{keystore.Spec{Kty: "oct-HSM", Bits: 256}, secret, nil, ""},
	} {
		m, err := b.Import(ctx, at, r.spec, r.plain)
		must(t, err)
		out := export(ctx, t, b, at, m)
		if r.pub == nil {
			if !bytes.Equal(r.plain, out) {
				t.Errorf("%s: another key came out", r.spec.Kty)
			}
			continue
		}
		// Tokens may encode a private key in another way: its public half tells.
		if key, err := x509.ParsePKCS8PrivateKey(out); err != nil || !samePublic(key, r.pub) {
			t.Errorf("%s: another key came out: %v", r.spec.Kty, err)
		}
		sig, err := b.Sign(ctx, at, m, r.alg, digest[:])
		must(t, err)
		if ok, err := keystore.Verify(r.pub, r.alg, digest[:], sig); err != nil || !ok {
			t.Errorf("%s: the original's public key does not verify: %v", r.spec.Kty, err)
		}
	}
	for name, r := range map[string]struct {
		spec  keystore.Spec
		plain []byte
	}{
		"an EC key as RSA":      {keystore.Spec{Kty: "RSA", Bits: 2048}, pkcs8(ecKey)},
		"another size":          {keystore.Spec{Kty: "RSA", Bits: 3072}, pkcs8(rsaKey)},
		"another curve":         {keystore.Spec{Kty: "EC", Crv: "P-384"}, pkcs8(ecKey)},
		"an AES key cut short":  {keystore.Spec{Kty: "oct", Bits: 256}, secret[1:]},
		"bytes that are no key": {keystore.Spec{Kty: "EC", Crv: "P-256"}, secret},
	} {
		if _, err := b.Import(ctx, at, r.spec, r.plain); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func samePublic(key, want any) bool {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(want)
}

func export(ctx context.Context, t *testing.T, b keystore.Backend, at keystore.Address, m keystore.Material) []byte {
	t.Helper()
	kek, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	wrapped, err := b.Export(ctx, at, m, keywrap.SHA256, &kek.PublicKey)
	must(t, err)
	raw, err := keywrap.Unwrap(keywrap.SHA256, kek, wrapped)
	must(t, err)
	return raw
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
