package hsm

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/hsm/softhsmtest"
	"cloister.dev/cloister/keys/keystore/keystoretest"
)

func records(t *testing.T, path string) *keystore.Software {
	t.Helper()
	r, err := keystore.OpenSoftware(keystore.In(path), []byte("a passphrase of tests"), keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func config(token softhsmtest.Token) Config {
	return Config{Module: token.Module, Token: token.Label, PIN: []byte(token.PIN), InMemory: []InMemory{OAEPPadding, ReleaseWrapping}}
}

func open(t *testing.T, token softhsmtest.Token, path string) *Backend {
	t.Helper()
	b, err := Open(config(token), records(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	token := softhsmtest.New(t)
	path := filepath.Join(t.TempDir(), "records")
	keystoretest.Run(t, func(t *testing.T) keystore.Backend { return open(t, token, path) })
}

func TestOpenRefuses(t *testing.T) {
	token := softhsmtest.New(t)
	for _, r := range []struct {
		name   string
		change func(*Config)
		want   evidence.Code
	}{
		{"another PIN", func(c *Config) { c.PIN = []byte("999999") }, evidence.CodeAuthz},
		{"no PIN", func(c *Config) { c.PIN = nil }, evidence.CodePolicy},
		{"no label", func(c *Config) { c.Token = "" }, evidence.CodePolicy},
		{"a token that is not there", func(c *Config) { c.Token = "other" }, evidence.CodeUnavailable},
		{"a module that is not there", func(c *Config) { c.Module = "/nowhere.so" }, evidence.CodeUnavailable},
		{"nothing may be done in memory", func(c *Config) { c.InMemory = nil }, evidence.CodeUnsupported},
		{"padding may not be taken off in memory", func(c *Config) { c.InMemory = []InMemory{ReleaseWrapping} }, evidence.CodeUnsupported},
		{"an unknown exception", func(c *Config) { c.InMemory = append(c.InMemory, "everything") }, evidence.CodePolicy},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := config(token)
			r.change(&c)
			kept := records(t, filepath.Join(t.TempDir(), "records"))
			defer kept.Close()
			if _, err := Open(c, kept); evidence.CodeOf(err) != r.want {
				t.Errorf("error %v, want code %s", err, r.want)
			}
		})
	}
	b := open(t, token, filepath.Join(t.TempDir(), "records"))
	if got := b.Instead(); len(got) != 2 {
		t.Errorf("done in memory: %q, want both: SoftHSM has no OAEP with SHA-256", got)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// objects counts what the token holds under our labels.
func objects(t *testing.T, b *Backend) (n int) {
	t.Helper()
	err := b.with(t.Context(), func(s pkcs11.SessionHandle) error {
		if err := b.ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}); err != nil {
			return err
		}
		found, _, err := b.ctx.FindObjects(s, 100)
		n = len(found)
		return errors.Join(err, b.ctx.FindObjectsFinal(s))
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMaterialOfARemovedKeyIsDestroyed(t *testing.T) {
	token := softhsmtest.New(t)
	b := open(t, token, filepath.Join(t.TempDir(), "records"))
	defer b.Close()
	id := keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "k"}
	key := &keystore.Key{ID: id}
	for _, version := range []string{"1", "2"} {
		m, err := b.Generate(t.Context(), keystore.Address{Key: id, Version: version}, keystore.Spec{Kty: "RSA-HSM", Bits: 2048})
		if err != nil {
			t.Fatal(err)
		}
		key.Versions = append(key.Versions, keystore.Version{ID: version, Material: m})
	}
	put := func(k *keystore.Key) {
		t.Helper()
		if err := b.Update(t.Context(), id, func(*keystore.Key) (*keystore.Key, error) { return k, nil }); err != nil {
			t.Fatal(err)
		}
	}
	put(key)
	if n := objects(t, b); n != 2 {
		t.Fatalf("%d objects, want two private keys", n)
	}
	one := key.Clone()
	one.Versions = one.Versions[1:]
	put(one)
	if n := objects(t, b); n != 1 {
		t.Errorf("%d objects after a version was removed, want 1", n)
	}
	if _, err := b.Sign(t.Context(), keystore.Address{Key: id, Version: "1"}, key.Versions[0].Material, "RS256", make([]byte, 32)); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("a destroyed version signed: %v", err)
	}
	put(nil)
	if n := objects(t, b); n != 0 {
		t.Errorf("%d objects after the key was removed, want none", n)
	}
}

func TestNothingLeavesInClear(t *testing.T) {
	token := softhsmtest.New(t)
	b := open(t, token, filepath.Join(t.TempDir(), "records"))
	defer b.Close()
	at := keystore.Address{Key: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "k"}, Version: "1"}
	for _, spec := range []keystore.Spec{{Kty: "RSA-HSM", Bits: 2048}, {Kty: "oct-HSM", Bits: 256}} {
		m, err := b.Generate(t.Context(), at, spec)
		if err != nil {
			t.Fatal(err)
		}
		err = b.with(t.Context(), func(s pkcs11.SessionHandle) error {
			o, err := b.object(s, at, m)
			if err != nil {
				return err
			}
			for _, secret := range []uint{pkcs11.CKA_VALUE, pkcs11.CKA_PRIVATE_EXPONENT} {
				if a, err := b.ctx.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(secret, nil)}); err == nil {
					t.Errorf("%s: attribute %#x was read: %d bytes", spec.Kty, secret, len(a[0].Value))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnpadOAEP(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("thirty-two bytes of a wrapped key")
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	block := rawRSA(key, c)
	if got, err := unpadOAEP(sha256.New(), block, key.Size()); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%q %v", got, err)
	}
	if got, err := unpadOAEP(sha256.New(), bytes.TrimLeft(block, "\x00"), key.Size()); err != nil || !bytes.Equal(got, message) {
		t.Errorf("without leading zeros: %q %v", got, err)
	}
	refused := map[string]int{}
	for bit := range 8 * len(block) {
		wrong := bytes.Clone(block)
		wrong[bit/8] ^= 1 << (bit % 8)
		_, err := unpadOAEP(sha256.New(), wrong, key.Size())
		if err == nil {
			t.Fatalf("bit %d flipped, and taken", bit)
		}
		refused[err.Error()]++
	}
	if len(refused) != 1 {
		t.Errorf("wrong blocks get %d different answers, want one: %v", len(refused), refused)
	}
	for _, n := range []int{0, 65, 257} {
		if _, err := unpadOAEP(sha256.New(), make([]byte, n), min(n, 256)); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("%d zero bytes: %v", n, err)
		}
	}
}
