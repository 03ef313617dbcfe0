package pemkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse[*ecdsa.PrivateKey](text); err != nil || !got.Equal(key) {
		t.Fatalf("positive twin: %v", err)
	}
	if _, err := Parse[*rsa.PrivateKey](text); err == nil || !strings.Contains(err.Error(), "want *rsa.PrivateKey") {
		t.Errorf("a key of another kind: %v", err)
	}
	for name, bad := range map[string][]byte{
		"nothing":       nil,
		"text":          []byte("key"),
		"a certificate": bytes.ReplaceAll(text, []byte("PRIVATE KEY"), []byte("CERTIFICATE")),
		"two keys":      append(bytes.Clone(text), text...),
		"cut short":     append(bytes.Clone(text[:60]), []byte("\n-----END PRIVATE KEY-----\n")...),
	} {
		if _, err := Parse[*ecdsa.PrivateKey](bad); err == nil {
			t.Errorf("%s was read as a key", name)
		}
	}
	if _, err := Marshal("key"); err == nil {
		t.Error("a string was written as a key")
	}
}

func TestMarshalPublic(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := MarshalPublic(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		t.Fatalf("%s", text)
	}
	if got, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("%v", err)
	}
	if _, err := MarshalPublic("a key"); err == nil {
		t.Error("a text was written as a key")
	}
	if _, err := Parse[*ecdsa.PrivateKey](text); err == nil {
		t.Error("a public key was read as a private one")
	}
}
