// Package akca certifies attestation keys of vTPMs with a CA of the service's own.
//
// The certificate says that the service saw evidence which names the key. Verifiers do not need it: they
// compare the key with the hardware evidence. Tools that look for a chain find one.
package akca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

// MaxSize is the room for the certificate in the vTPM's NV index, in bytes.
const MaxSize = 4096

// Lives of the CA and of the certificates it signs. A VM gets a new certificate at each start.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
)

var afterCA = failpoint.New("attest/ak-ca")

// CA signs certificates of attestation keys.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads a CA from one PEM file with mode 0600 (certificate and key), or makes it. Name is its common name.
func Open(dir, file, name string, now time.Time) (*CA, error) {
	path := filepath.Join(dir, file)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, name, now)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, want 0600: others could certify keys", path, mode)
	}
	ca, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ca, nil
}

func parse(raw []byte) (*CA, error) {
	certBlock, rest := pem.Decode(raw)
	keyBlock, _ := pem.Decode(rest)
	if certBlock == nil || keyBlock == nil {
		return nil, errors.New("want a certificate and a private key in PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, errors.New("the key is not that of the CA certificate")
	}
	return &CA{cert, key}, nil
}

func create(path, name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 0, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := write(path, text); err != nil {
		return nil, err
	}
	afterCA.Hit()
	return parse(text)
}

func write(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return n, err
}

// Certificate is the CA's own certificate, DER.
func (c *CA) Certificate() []byte { return c.cert.Raw }

// Thumbprint is SHA-256 of the CA's certificate: what HCL claims carry as root-cert-thumbprint.
func (c *CA) Thumbprint() [32]byte { return sha256.Sum256(c.cert.Raw) }

// oidAKCertificate is TCG's extended key usage of attestation key certificates, tcg-kp-AIKCertificate.
var oidAKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

// Certify signs a certificate for a key that evidence names. The result is DER of at most MaxSize bytes.
func (c *CA) Certify(key *rsa.PublicKey, vmID string, now time.Time) ([]byte, error) {
	if now.Before(c.cert.NotBefore) || !now.Add(certLife).Before(c.cert.NotAfter) {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "AK CA", "valid until "+c.cert.NotAfter.UTC().Format(time.RFC3339), "a CA that outlives its certificates")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: vmID, OrganizationalUnit: []string{"vTPM attestation key"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAKCertificate},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
	if err != nil {
		return nil, err
	}
	if len(der) > MaxSize {
		return nil, fmt.Errorf("an AK certificate of %d bytes, at most %d fit", len(der), MaxSize)
	}
	return der, nil
}
