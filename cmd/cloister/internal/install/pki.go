package install

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/internal/pemkey"
)

// Lifetimes of the installation's certificates. They secure transport on one machine; nobody believes an answer
// because of them.
const (
	caLifetime     = 10 * 365 * 24 * time.Hour
	serverLifetime = 2 * 365 * 24 * time.Hour
	renewBefore    = 30 * 24 * time.Hour
)

// pki is the installation's transport CA.
type pki struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

// openPKI loads the CA, or makes it once.
func openPKI(dir string, now time.Time) (*pki, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	p := &pki{dir: dir, now: now}
	certPEM, err := os.ReadFile(p.path("ca.crt"))
	if errors.Is(err, os.ErrNotExist) {
		return p, p.create()
	}
	if err != nil {
		return nil, err
	}
	if p.cert, err = parseCertificate(certPEM); err != nil {
		return nil, fmt.Errorf("%s: %w", p.path("ca.crt"), err)
	}
	if p.key, err = ReadKey[*ecdsa.PrivateKey](p.path("ca.key")); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Cloister installation CA", Organization: []string{"Cloister"}},
		NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(caLifetime), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.key = key
	if err := writeKey(p.path("ca.key"), key); err != nil {
		return err
	}
	return writeFile(p.path("ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// server makes the certificate of a service for some names, unless a good one is there.
func (p *pki) server(name string, hosts ...string) (certFile, keyFile string, err error) {
	certFile, keyFile = p.path(name+".crt"), p.path(name+".key")
	if p.good(certFile, keyFile, hosts) {
		return certFile, keyFile, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "cloister " + name, Organization: []string{"Cloister"}},
		NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(serverLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.cert, &key.PublicKey, p.key)
	if err != nil {
		return "", "", err
	}
	if err := writeKey(keyFile, key); err != nil {
		return "", "", err
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})...)
	return certFile, keyFile, writeFile(certFile, chain, 0o644)
}

func (p *pki) good(certFile, keyFile string, hosts []string) bool {
	raw, err := os.ReadFile(certFile)
	if err != nil {
		return false
	}
	cert, err := parseCertificate(raw)
	if err != nil || cert.CheckSignatureFrom(p.cert) != nil || p.now.After(cert.NotAfter.Add(-renewBefore)) {
		return false
	}
	for _, h := range hosts {
		if cert.VerifyHostname(h) != nil {
			return false
		}
	}
	_, err = ReadKey[*ecdsa.PrivateKey](keyFile)
	return err == nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func parseCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func writeKey(path string, key any) error {
	text, err := pemkey.Marshal(key)
	if err != nil {
		return err
	}
	return writeFile(path, text, 0o600)
}

// signingKey loads an RSA key for tokens, or makes it once.
func signingKey(path string) (*rsa.PrivateKey, error) {
	key, err := ReadKey[*rsa.PrivateKey](path)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	return key, writeKey(path, key)
}

// ReadKey reads a private key of one kind from a file.
func ReadKey[K any](path string) (K, error) {
	var none K
	raw, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	key, err := pemkey.Parse[K](raw)
	if err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// writeFile writes durably: the old content or the new one survives a crash, nothing between.
func writeFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(path+".part", path)
}
