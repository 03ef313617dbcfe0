package akca

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func TestCertify(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, "ca.pem", "CA", now); err != nil {
		t.Fatal(err)
	}
	ca, err := Open(dir, "ca.pem", "CA", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Certify(&key.PublicKey, "B6C98C3B-4EC7-4DA6-BD2F-7D98D20D7B75", now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if len(der) > MaxSize || cert.IsCA || string(cert.RawSubject) == string(cert.RawIssuer) || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("certificate of %d bytes: CA %t, %s by %s", len(der), cert.IsCA, cert.Subject, cert.Issuer)
	}
	if err := cert.CheckSignatureFrom(cert); err == nil {
		t.Error("self-signed")
	}
	if _, err := ca.Certify(&key.PublicKey, "x", now.Add(caLife)); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("by an expired CA: %v", err)
	}
	path := filepath.Join(dir, "ca.pem")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "ca.pem", "CA", now); err == nil {
		t.Error("a CA key that others may read was taken")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "ca.pem", "CA", now); err == nil {
		t.Error("a broken CA file was taken or replaced")
	}
}
