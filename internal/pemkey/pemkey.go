// Package pemkey reads and writes private keys as PEM blocks "PRIVATE KEY" (PKCS #8, RFC 5958), and writes public ones.
package pemkey

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const blockType = "PRIVATE KEY"

// Parse reads one private key of one kind, such as *ecdsa.PrivateKey.
func Parse[K any](text []byte) (K, error) {
	var none K
	block, rest := pem.Decode(text)
	if block == nil {
		return none, errors.New("no PEM key")
	}
	if block.Type != blockType || len(bytes.TrimSpace(rest)) > 0 {
		return none, fmt.Errorf("PEM block %q and %d bytes after it, want one block %q", block.Type, len(rest), blockType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, err
	}
	wanted, ok := key.(K)
	if !ok {
		return none, fmt.Errorf("a key of the kind %T, want %T", key, none)
	}
	return wanted, nil
}

// Marshal writes a private key of any kind that PKCS #8 has a form for.
func Marshal(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}), nil
}

// MarshalPublic writes a public key as a block "PUBLIC KEY" (RFC 5280's SubjectPublicKeyInfo).
func MarshalPublic(key any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
