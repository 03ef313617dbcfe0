// Package hosts is the API that host agents use: join, watch, report, VM identities, answers.
//
// Nothing a host says decides about evidence or keys. It decides where VMs are placed and what their tenants see.
package hosts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"cloister.dev/cloister/evidence"
)

// CA signs the client certificates of host agents. It serves nothing else.
type CA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// How long certificates are good for. Agents renew after half of theirs.
const (
	caLife   = 20 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
)

// HostName is the form of a host's name.
var HostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// LoadCA reads the agent CA from a folder, or makes it there.
func LoadCA(dir string, now time.Time) (*CA, error) {
	path := filepath.Join(dir, "agent-ca.pem") // key and certificate in one file: written once, whole or not at all
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeCA(path, now)
	} else if err != nil {
		return nil, fmt.Errorf("reading the agent CA: %w", err)
	}
	keyBlock, rest := pem.Decode(raw)
	certBlock, _ := pem.Decode(rest)
	if keyBlock == nil || certBlock == nil {
		return nil, fmt.Errorf("reading the agent CA: %s holds no key and certificate", path)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the agent CA's key: %w", err)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the agent CA's certificate: %w", err)
	}
	return &CA{cert, key}, nil
}

func makeCA(path string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Cloister host agents"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("making the agent CA: %w", err)
	}
	return &CA{cert, key}, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	return n, nil
}

// PEM is the CA's certificate.
func (c *CA) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Cert.Raw}))
}

// parseCSR reads a request and the host name in it. Only the name and the key are taken over.
func parseCSR(text string) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, evidence.Refuse(evidence.CodeParse, "csr", "no PEM", "one PEM block CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "csr", err.Error(), "a certificate request")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, evidence.Refuse(evidence.CodeChain, "csr", err.Error(), "a request signed with its own key")
	}
	if !HostName.MatchString(csr.Subject.CommonName) {
		return nil, evidence.Refuse(evidence.CodeParse, "csr common name", fmt.Sprintf("%q", csr.Subject.CommonName), "a host name: lower-case letters, digits, '-' and '.', at most 63")
	}
	return csr, nil
}

func (c *CA) sign(csr *x509.CertificateRequest, now time.Time) (string, error) {
	serial, err := newSerial()
	if err != nil {
		return "", err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: csr.Subject.CommonName}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, t, c.Cert, csr.PublicKey, c.key)
	if err != nil {
		return "", fmt.Errorf("signing an agent's certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}
