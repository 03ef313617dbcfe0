// Package sevsnptest is a stand-in for AMD in tests: a root, intermediates, VCEKs and VLEKs, revocation
// lists and signed reports, all made on the spot. Everything takes a testing.TB, so that no product can use it.
package sevsnptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Vendor holds the keys of one product line. RSA keys have 2048 bits, half of AMD's, to be made quickly, unless NewSized made them.
type Vendor struct {
	Product                 sevsnp.Product
	ARK, ASK, ASVK          *x509.Certificate
	ARKKey, ASKKey, ASVKKey *rsa.PrivateKey
	NotBefore, NotAfter     time.Time
}

// Now is a time at which everything a Vendor makes is valid.
var Now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// New makes a vendor with AMD's names and keys of its own.
func New(t testing.TB, p sevsnp.Product) *Vendor {
	t.Helper()
	return NewSized(t, p, 2048)
}

// NewSized is New with RSA keys of so many bits. AMD's have 4096: what is to be timed needs those.
func NewSized(t testing.TB, p sevsnp.Product, bits int) *Vendor {
	t.Helper()
	v := &Vendor{Product: p, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(5, 0, 0)}
	v.ARKKey, v.ASKKey, v.ASVKKey = rsaKey(t, bits), rsaKey(t, bits), rsaKey(t, bits)
	v.ARK = v.Authority(t, "ARK-"+string(p), 0x10000, &v.ARKKey.PublicKey, nil, v.ARKKey)
	v.ASK = v.Authority(t, "SEV-"+string(p), 0x10001, &v.ASKKey.PublicKey, v.ARK, v.ARKKey)
	v.ASVK = v.Authority(t, "SEV-VLEK-"+string(p), 0x10101, &v.ASVKKey.PublicKey, v.ARK, v.ARKKey)
	return v
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func name(cn string) pkix.Name {
	return pkix.Name{CommonName: cn, Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"}}
}

// Authority makes a certificate authority; without a parent, a self-signed one.
func (v *Vendor) Authority(t testing.TB, cn string, serial int64, pub crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{Subject: name(cn), SerialNumber: big.NewInt(serial), NotBefore: v.NotBefore, NotAfter: v.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	if parent == nil {
		parent = tmpl
	}
	return create(t, tmpl, parent, pub, signer)
}

// ListAddress is where AMD gives out the revocation list for VLEKs, or for VCEKs.
func (v *Vendor) ListAddress(vlek bool) string {
	kind := "vcek"
	if vlek {
		kind = "vlek"
	}
	return "https://kdsintf.amd.com/" + kind + "/v1/" + string(v.Product) + "/crl"
}

func create(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Chip is one chip, or for a VLEK one cloud provider, with its key.
type Chip struct {
	Vendor *Vendor
	Key    *ecdsa.PrivateKey
	Chain  sevsnp.Chain
	TCB    sevsnp.TCB
	HWID   [64]byte
	Kind   sevsnp.SigningKey
}

// Leaf describes a VCEK or VLEK before it is signed. Tests change it to make bad ones.
type Leaf struct {
	Extensions          []pkix.Extension
	NotBefore, NotAfter time.Time
	Serial              int64
}

// OID is one of AMD's extensions, below 1.3.6.1.4.1.3704.1.
func OID(tail ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, tail...)
}

// Set replaces the value of an extension, or adds it.
func (l *Leaf) Set(oid asn1.ObjectIdentifier, value []byte) {
	for i := range l.Extensions {
		if l.Extensions[i].Id.Equal(oid) {
			l.Extensions[i].Value = value
			return
		}
	}
	l.Extensions = append(l.Extensions, pkix.Extension{Id: oid, Value: value})
}

// Drop removes an extension.
func (l *Leaf) Drop(oid asn1.ObjectIdentifier) {
	var kept []pkix.Extension
	for _, e := range l.Extensions {
		if !e.Id.Equal(oid) {
			kept = append(kept, e)
		}
	}
	l.Extensions = kept
}

func integer(t testing.TB, v uint8) []byte {
	t.Helper()
	b, err := asn1.Marshal(int(v))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ia5(s string) []byte { return append([]byte{0x16, byte(len(s))}, s...) }

// Chip makes a chip with a VCEK for a TCB; change may be nil.
func (v *Vendor) Chip(t testing.TB, tcb sevsnp.TCB, change func(*Leaf)) *Chip {
	return v.leaf(t, sevsnp.SignedByVCEK, tcb, change)
}

// VLEK makes a provider's key for a TCB; change may be nil.
func (v *Vendor) VLEK(t testing.TB, tcb sevsnp.TCB, change func(*Leaf)) *Chip {
	return v.leaf(t, sevsnp.SignedByVLEK, tcb, change)
}

func (v *Vendor) leaf(t testing.TB, kind sevsnp.SigningKey, tcb sevsnp.TCB, change func(*Leaf)) *Chip {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &Chip{Vendor: v, Key: key, TCB: tcb, Kind: kind}
	l := &Leaf{NotBefore: v.NotBefore, NotAfter: v.NotAfter}
	l.Set(OID(1), integer(t, 0))
	l.Set(OID(3, 1), integer(t, tcb.BootLoader))
	l.Set(OID(3, 2), integer(t, tcb.TEE))
	l.Set(OID(3, 3), integer(t, tcb.SNP))
	for reserved := 4; reserved <= 7; reserved++ {
		l.Set(OID(3, reserved), integer(t, 0))
	}
	l.Set(OID(3, 8), integer(t, tcb.Microcode))
	if v.Product == sevsnp.Turin {
		l.Set(OID(3, 9), integer(t, tcb.FMC))
	}
	issuer, issuerKey := v.ASK, v.ASKKey
	if kind == sevsnp.SignedByVCEK {
		n := 64
		if v.Product == sevsnp.Turin {
			n = 8
		}
		if _, err := rand.Read(c.HWID[:n]); err != nil {
			t.Fatal(err)
		}
		l.Set(OID(2), ia5(string(v.Product)+"-B0"))
		l.Set(OID(4), c.HWID[:n])
	} else {
		l.Set(OID(2), ia5(string(v.Product)))
		l.Set(OID(5), ia5("CN=provider.example"))
		issuer, issuerKey = v.ASVK, v.ASVKKey
	}
	if change != nil {
		change(l)
	}
	tmpl := &x509.Certificate{Subject: name("SEV-" + kind.String()), SerialNumber: big.NewInt(l.Serial), NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: l.Extensions}
	c.Chain = sevsnp.Chain{Leaf: create(t, tmpl, issuer, &key.PublicKey, issuerKey), Intermediate: issuer, Root: v.ARK}
	return c
}

// Report is a good report of this chip, not signed yet: version 3, VMPL 0, policy 0x30000, all TCBs equal.
func (c *Chip) Report() *sevsnp.Report {
	r := &sevsnp.Report{Version: 3, Policy: 0x30000, SignatureAlgo: sevsnp.AlgoECDSAP384SHA384, ReportedTCB: c.TCB, CurrentTCB: c.TCB,
		CommittedTCB: c.TCB, LaunchTCB: c.TCB, ChipID: c.HWID}
	r.KeyInfo.SigningKey = c.Kind
	switch c.Vendor.Product {
	case sevsnp.Milan:
		r.CPUID = sevsnp.CPUID{Family: 0x19, Model: 0x01, Stepping: 1}
	case sevsnp.Genoa:
		r.CPUID = sevsnp.CPUID{Family: 0x19, Model: 0x11, Stepping: 1}
	case sevsnp.Turin:
		r.CPUID = sevsnp.CPUID{Family: 0x1a, Model: 0x02, Stepping: 1}
	}
	return r
}

// Sign signs a report in place, and gives it back.
func (c *Chip) Sign(t testing.TB, r *sevsnp.Report) *sevsnp.Report {
	t.Helper()
	sum := sha512.Sum384(r.SignedBytes())
	rr, s, err := ecdsa.Sign(rand.Reader, c.Key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = sevsnp.EncodeSignature(rr, s)
	return r
}

// CRL makes a revocation list, signed by the root unless by says otherwise.
func (v *Vendor) CRL(t testing.TB, by *rsa.PrivateKey, from, next time.Time, serials ...int64) *x509.RevocationList {
	t.Helper()
	return v.CRLWith(t, by, from, next, nil, serials...)
}

// CRLWith is CRL with extensions.
func (v *Vendor) CRLWith(t testing.TB, by *rsa.PrivateKey, from, next time.Time, extensions []pkix.Extension, serials ...int64) *x509.RevocationList {
	t.Helper()
	if by == nil {
		by = v.ARKKey
	}
	tmpl := &x509.RevocationList{ExtraExtensions: extensions, Number: big.NewInt(1), ThisUpdate: from, NextUpdate: next, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: from})
	}
	// A list of the root's name by another key: the issuer's certificate must hold that key to be created.
	issuer := *v.ARK
	issuer.PublicKey = by.Public()
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, &issuer, by)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Authenticate is sevsnp.Authenticate with the roots of these vendors pinned in place of AMD's.
func Authenticate(t testing.TB, r *sevsnp.Report, c sevsnp.Chain, o sevsnp.Options, vendors ...*Vendor) (*sevsnp.Authentic, error) {
	t.Helper()
	a := anchor.Anchor{Kind: evidence.RootAMD, Lines: map[string]anchor.Line{}}
	for _, v := range vendors {
		p := string(v.Product)
		a.Lines[p] = anchor.Line{RootSPKI: [][32]byte{sha256.Sum256(v.ARK.RawSubjectPublicKeyInfo)}, RootName: "ARK-" + p, ASKName: "SEV-" + p, ASVKName: "SEV-VLEK-" + p}
	}
	return sevsnp.AuthenticateUnder(r, c, a, o)
}
