package vtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

var testTime = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// maker is a TPM maker's root and intermediate. Both carry the purpose of EK certificates, as real ones do.
type maker struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey *ecdsa.PrivateKey
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{}
	var err error
	if m.rootKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if m.issuerKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: testTime.AddDate(-1, 0, 0), NotAfter: testTime.AddDate(9, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate, oidAKCertificate}}
	}
	m.root = sign(t, ca("maker root"), nil, &m.rootKey.PublicKey, m.rootKey)
	m.issuer = sign(t, ca("maker issuer"), m.root, &m.issuerKey.PublicKey, m.rootKey)
	return m
}

func (m *maker) leaf(t testing.TB, purpose asn1.ObjectIdentifier, pub crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	name, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}}}) // an empty directory name
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: testTime.AddDate(-1, 0, 0), NotAfter: testTime.AddDate(1, 0, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageKeyEncipherment, UnknownExtKeyUsage: []asn1.ObjectIdentifier{purpose},
		ExtraExtensions: []pkix.Extension{{Id: oidAltName, Critical: true, Value: name}}}
	if change != nil {
		change(tmpl)
	}
	return sign(t, tmpl, m.issuer, pub, m.issuerKey)
}

func TestEKCertificates(t *testing.T) {
	m, other := newMaker(t), newMaker(t)
	ek, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := m.leaf(t, oidEKCertificate, &ek.PublicKey, nil)
	o := CertificateOptions{Roots: []*x509.Certificate{m.root}, Intermediates: []*x509.Certificate{m.issuer}, At: testTime}
	if key, err := VerifyEKCertificate(good, o); err != nil || !ek.PublicKey.Equal(key) {
		t.Fatalf("positive twin: %v", err)
	}
	for _, r := range []struct {
		name   string
		cert   *x509.Certificate
		change func(*CertificateOptions)
		want   evidence.Code
	}{
		{"TPM-10 the issuing authority itself", m.issuer, nil, evidence.CodeChain},
		{"TPM-10 the root itself", m.root, nil, evidence.CodeChain},
		{"TPM-10 an authority without key usage", m.leaf(t, oidEKCertificate, &ek.PublicKey, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, 0 }), nil, evidence.CodeChain},
		{"TPM-10 a certificate that may sign others", m.leaf(t, oidEKCertificate, &ek.PublicKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), nil, evidence.CodeChain},
		{"the purpose of an AK", m.leaf(t, oidAKCertificate, &ek.PublicKey, nil), nil, evidence.CodeChain},
		{"any purpose", m.leaf(t, asn1.ObjectIdentifier{2, 5, 29, 37, 0}, &ek.PublicKey, nil), nil, evidence.CodeChain},
		{"no purpose", m.leaf(t, oidEKCertificate, &ek.PublicKey, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), nil, evidence.CodeChain},
		{"another maker", other.leaf(t, oidEKCertificate, &ek.PublicKey, nil), nil, evidence.CodeChain},
		{"another maker's root beside it", other.leaf(t, oidEKCertificate, &ek.PublicKey, nil), func(o *CertificateOptions) {
			o.Intermediates = []*x509.Certificate{other.issuer, other.root}
		}, evidence.CodeChain},
		{"SVC-09 issuer not given, and not fetched", good, func(o *CertificateOptions) { o.Intermediates = nil }, evidence.CodeChain},
		{"SVC-03 no root named", good, func(o *CertificateOptions) { o.Roots = nil }, evidence.CodeChain},
		{"SVC-18 a thousand intermediates", good, func(o *CertificateOptions) { o.Intermediates = make([]*x509.Certificate, 1000) }, evidence.CodeChain},
		{"expired", good, func(o *CertificateOptions) { o.At = testTime.AddDate(2, 0, 0) }, evidence.CodeChain},
		{"not valid yet", good, func(o *CertificateOptions) { o.At = testTime.AddDate(-2, 0, 0) }, evidence.CodeChain},
		{"no time", good, func(o *CertificateOptions) { o.At = time.Time{} }, evidence.CodeUnavailable},
		{"no certificate", nil, nil, evidence.CodeChain},
		{"a critical extension that nobody knows", m.leaf(t, oidEKCertificate, &ek.PublicKey, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), nil, evidence.CodeChain},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := o
			if r.change != nil {
				r.change(&o)
			}
			if _, err := VerifyEKCertificate(r.cert, o); evidence.CodeOf(err) != r.want {
				t.Errorf("got %v, want %s", err, r.want)
			}
		})
	}
}

func TestAKCertificates(t *testing.T) {
	m := newMaker(t)
	o := CertificateOptions{Roots: []*x509.Certificate{m.root}, Intermediates: []*x509.Certificate{m.issuer}, At: testTime}
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := m.leaf(t, oidAKCertificate, &ak.PublicKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	if err := VerifyAKCertificate(cert, &ak.PublicKey, o); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	for name, key := range map[string]crypto.PublicKey{"another key": &m.rootKey.PublicKey, "no key": nil, "another kind": &rsa.PublicKey{N: big.NewInt(15), E: 3}} {
		if err := VerifyAKCertificate(cert, key, o); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("TPM-07 %s: %v", name, err)
		}
	}
	if err := VerifyAKCertificate(m.leaf(t, oidEKCertificate, &ak.PublicKey, nil), &ak.PublicKey, o); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("the certificate of an EK is taken: %v", err)
	}
}

func TestNVCertificate(t *testing.T) {
	m := newMaker(t)
	der := m.leaf(t, oidAKCertificate, &m.rootKey.PublicKey, nil).Raw
	padded := append(append([]byte(nil), der...), make([]byte, 4096-len(der))...)
	for _, raw := range [][]byte{der, padded} {
		if c, err := ParseNVCertificate(raw); err != nil || len(c.Raw) != len(der) {
			t.Fatalf("positive twin: %v", err)
		}
	}
	behind := append([]byte(nil), padded...)
	behind[4095] = 1
	for name, raw := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096), "ones": {0xff, 0xff, 0xff, 0xff}, "cut": der[:len(der)-1],
		"bytes behind the padding": behind, "two certificates": append(append([]byte(nil), der...), der...), "too long": append(padded, make([]byte, 5000)...),
		"TDX-25 a length beyond the buffer": {0x30, 0x82, 0xff, 0xff}, "a marker and no certificate": append([]byte{0x30, 0x82, 1, 0}, make([]byte, 4000)...)} {
		if _, err := ParseNVCertificate(raw); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzNVCertificate(f *testing.F) {
	f.Add(newMaker(f).issuer.Raw)
	f.Add([]byte{0x30, 0x82, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ParseNVCertificate(raw); err == nil {
			if _, err := VerifyEKCertificate(c, CertificateOptions{Roots: []*x509.Certificate{c}, At: testTime}); err == nil && c.IsCA {
				t.Fatal("an authority is an EK")
			}
		}
	})
}
