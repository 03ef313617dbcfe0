package customerkey

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

const vm, other = "0e4a1b7c-0000-4000-8000-000000000001", "0e4a1b7c-0000-4000-8000-000000000002"

func TestSealOpenRewrap(t *testing.T) {
	b, err := keystore.OpenSoftware(keystore.In(filepath.Join(t.TempDir(), "k")), []byte("a passphrase of tests"), keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, spec := range []keystore.Spec{{Kty: "RSA-HSM", Bits: 2048}, {Kty: "oct-HSM", Bits: 256}} {
		t.Run(spec.Kty, func(t *testing.T) {
			alg, err := Algorithm(spec)
			if err != nil {
				t.Fatal(err)
			}
			version := func(id string) (Wrapper, Unwrapper) {
				at := keystore.Address{Key: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "customer"}, Version: id}
				m, err := b.Generate(t.Context(), at, spec)
				if err != nil {
					t.Fatal(err)
				}
				return func(dataKey, associated []byte) (keystore.Sealed, error) {
						return b.Encrypt(t.Context(), at, m, alg, dataKey, keystore.Sealed{AAD: associated})
					}, func(s keystore.Sealed, associated []byte) ([]byte, error) {
						s.AAD = associated
						return b.Decrypt(t.Context(), at, m, alg, s)
					}
			}
			wrap, unwrap := version("1")
			secret := bytes.Repeat([]byte{7}, 32)
			e, err := Seal(vm, secret, wrap)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Open(vm, e, unwrap); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("%x %v", got, err)
			}
			if bytes.Contains(e.Data, secret) || bytes.Contains(e.Wrapped.Ciphertext, secret) {
				t.Error("the secret is in the envelope")
			}
			newWrap, newUnwrap := version("2")
			rotated, err := Rewrap(vm, e, unwrap, newWrap)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Open(vm, rotated, newUnwrap); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("after a rotation: %x %v", got, err)
			}
			cut := func(b []byte) []byte { return b[:len(b)-1] }
			flip := func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 1; return c }
			for name, bad := range map[string]struct {
				vm string
				e  keystore.Envelope
			}{
				"SVC-13 another VM's":             {other, e},
				"a version that was rotated away": {vm, rotated},
				"changed data":                    {vm, keystore.Envelope{Wrapped: e.Wrapped, Data: flip(e.Data)}},
				"cut data":                        {vm, keystore.Envelope{Wrapped: e.Wrapped, Data: cut(e.Data)}},
				"no data":                         {vm, keystore.Envelope{Wrapped: e.Wrapped}},
				"a changed data key":              {vm, keystore.Envelope{Wrapped: keystore.Sealed{Ciphertext: flip(e.Wrapped.Ciphertext), IV: e.Wrapped.IV, Tag: e.Wrapped.Tag}, Data: e.Data}},
				"another envelope's key for these": {vm, func() keystore.Envelope {
					x, _ := Seal(vm, secret, wrap)
					return keystore.Envelope{Wrapped: x.Wrapped, Data: e.Data}
				}()},
			} {
				if got, err := Open(bad.vm, bad.e, unwrap); evidence.CodeOf(err) != evidence.CodeBinding {
					t.Errorf("%s: opened %x, %v", name, got, err)
				}
				if _, err := Rewrap(bad.vm, bad.e, unwrap, newWrap); evidence.CodeOf(err) != evidence.CodeBinding {
					t.Errorf("%s: rewrapped, %v", name, err)
				}
			}
			no := errors.New("the token is away")
			if _, err := Seal(vm, secret, func([]byte, []byte) (keystore.Sealed, error) { return keystore.Sealed{}, no }); !errors.Is(err, no) {
				t.Errorf("a wrapper that fails: %v", err)
			}
			if _, err := Open(vm, e, func(keystore.Sealed, []byte) ([]byte, error) { return make([]byte, 16), nil }); evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("a short data key: %v", err)
			}
		})
	}
}

func TestAlgorithmRefuses(t *testing.T) {
	for _, s := range []keystore.Spec{{Kty: "EC-HSM", Crv: "P-256"}, {Kty: "oct-HSM", Bits: 128}, {Kty: "RSA", Bits: 1024}, {}} {
		if _, err := Algorithm(s); evidence.CodeOf(err) != evidence.CodeUnsupported {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
