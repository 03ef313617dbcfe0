package release

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys/client"
)

func jwk(kid string, n *big.Int, e int64, ops ...any) map[string]any {
	b64 := func(i *big.Int) string { return base64.RawURLEncoding.EncodeToString(i.Bytes()) }
	return map[string]any{"kid": kid, "kty": "RSA", "n": b64(n), "e": b64(big.NewInt(e)), "key_ops": ops}
}

func TestWrappingKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	transfer := jwk(TransferKey, key.N, 65537, "encrypt")
	use := jwk("own", key.N, 65537)
	use["key_use"] = "enc"
	for _, r := range []struct {
		name   string
		claims map[string]any
		kid    string
		want   evidence.Code
	}{
		{"operation encrypt", runtime(transfer), TransferKey, ""},
		{"use enc", runtime(use), "own", ""},
		{"the first for encryption", runtime(jwk("HCLAkPub", key.N, 65537, "sign"), use, transfer), "own", ""},
		{"HCLEkPub is passed over", runtime(jwk("HCLEkPub", key.N, 65537, "encrypt"), transfer), TransferKey, ""},
		{"SVC-32 HCLEkPub alone", runtime(jwk("HCLEkPub", key.N, 65537, "encrypt")), "", evidence.CodeBinding},
		{"SVC-32 only below x-ms-isolation-tee", map[string]any{"x-ms-isolation-tee": runtime(transfer)}, "", evidence.CodeBinding},
		{"SVC-32 a signing key", runtime(jwk("s", key.N, 65537, "sign")), "", evidence.CodeBinding},
		{"no runtime data", map[string]any{}, "", evidence.CodeBinding},
		{"an empty list", runtime(), "", evidence.CodeBinding},
		{"keys is no list", map[string]any{"x-ms-runtime": map[string]any{"keys": "x"}}, "", evidence.CodeBinding},
		{"SVC-18 a giant modulus", runtime(jwk("g", new(big.Int).Lsh(big.NewInt(1), 65535), 65537, "encrypt")), "", evidence.CodeParse},
		{"a weak modulus", runtime(jwk("w", new(big.Int).Lsh(big.NewInt(1), 1023), 65537, "encrypt")), "", evidence.CodeUnsupported},
		{"exponent 1", runtime(jwk("e", key.N, 1, "encrypt")), "", evidence.CodeUnsupported},
	} {
		t.Run(r.name, func(t *testing.T) {
			_, kid, err := WrappingKey(&token.Token{Claims: r.claims})
			if evidence.CodeOf(err) != r.want || kid != r.kid {
				t.Errorf("%q, %v", kid, err)
			}
		})
	}
}

func runtime(keys ...map[string]any) map[string]any {
	list := make([]any, len(keys))
	for i, k := range keys {
		list[i] = k
	}
	return map[string]any{"x-ms-runtime": map[string]any{"keys": list}}
}

func TestSigner(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	chain, err := NewSignerChain(&key.PublicKey, "vault.cloister.test", now)
	if err != nil {
		t.Fatal(err)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	roots, mids := x509.NewCertPool(), x509.NewCertPool()
	mids.AddCert(certs[1])
	roots.AddCert(certs[2])
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: mids, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("the chain: %v", err)
	}
	s, err := NewSigner(ResponseKey{Public: &key.PublicKey, Sign: func(digest []byte) ([]byte, error) {
		return rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest)
	}}, chain)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := s.Public()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.NewAuthority(initdata.Service{URL: "x", SigningKeys: []initdata.SigningKey{pub}}); err != nil {
		t.Errorf("the pinned form: %v", err)
	}
	if payload, err := client.VerifyAnswer(jws, []*rsa.PublicKey{&key.PublicKey}); err != nil || string(payload) != `{"a":"b"}` {
		t.Errorf("%s, %v", payload, err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.VerifyAnswer(jws, []*rsa.PublicKey{&other.PublicKey}); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("another key: %v", err)
	}
}
