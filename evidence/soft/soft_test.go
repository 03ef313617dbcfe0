package soft_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/softchip"
)

func certificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestParseRoot(t *testing.T) {
	dir := t.TempDir()
	if err := softchip.Init(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "ark.pem"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := soft.ParseRoot(good)
	if err != nil || len(r.Fingerprint()) != 64 {
		t.Fatalf("the good twin: %v", err)
	}
	chain, err := os.ReadFile(filepath.Join(dir, "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing":                              nil,
		"no PEM":                               []byte("x"),
		"a key":                                []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"),
		"a certificate that can't be read":     []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
		"SVC-22 a certificate of another kind": certificate(t, "somebody"),
		"SVC-22 one that has AMD's name":       certificate(t, "ARK-Milan"),
		"a leaf":                               chain,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := soft.ParseRoot(text); err == nil {
				t.Error("accepted")
			}
		})
	}
}
