// Package dcaptest is a stand-in for Intel in tests: a root, PCK CAs, platforms with PCKs and quoting enclaves, signature
// sections of quotes, TCB info, QE identities and revocation lists, all made on the spot. Everything takes a testing.TB, so
// that no product can use it.
package dcaptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Now is a time at which everything a Vendor makes is valid.
var Now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Authority is a certificate with its key.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Options are what a platform is. The zero value is an up-to-date one with a certificate of the platform CA.
type Options struct {
	Software bool // names and quoting enclaves of a software root, and not Intel's
	CA       string
	FMSPC    [6]byte // zero: 00806f050000
	PCEID    [2]byte
	SGXTCB   [16]uint8 // zero: 2, 2, 2, 2, 3, 1, 0, 5
	PCESVN   uint16    // zero: 11
	// EditPCK changes the PCK certificate before it is signed; its extension is Extension's.
	EditPCK   func(*x509.Certificate)
	Extension func(*SGXExtension)
}

// Vendor is a root, its CAs, and one platform. Tests may change what is exported before they make evidence with it.
type Vendor struct {
	Root, CA, Signer, PCK Authority // CA issued PCK; Signer signs collateral
	AttestationKey        *ecdsa.PrivateKey
	TDQE, QE              dcap.QEReport // the quoting enclaves of TDs and of SGX, without report data
	AuthData              []byte
	Options               Options

	anchor anchor.DCAP
}

// New makes a vendor with keys of its own.
func New(t testing.TB, o Options) *Vendor {
	t.Helper()
	if o.CA == "" {
		o.CA = dcap.Platform
	}
	if o.FMSPC == [6]byte{} {
		o.FMSPC = [6]byte{0, 0x80, 0x6f, 5, 0, 0}
	}
	if o.SGXTCB == [16]uint8{} {
		o.SGXTCB = [16]uint8{2, 2, 2, 2, 3, 1, 0, 5}
	}
	if o.PCESVN == 0 {
		o.PCESVN = 11
	}
	v := &Vendor{Options: o, AttestationKey: Key(t), AuthData: make([]byte, 32)}
	// Names and quoting enclaves are those of the software root, or Intel's, so that a test's evidence looks like the real one.
	v.anchor = anchor.SoftwareDCAP()
	if !o.Software {
		v.anchor = anchor.DCAP{Kind: evidence.RootIntel, Prefix: "Intel SGX", QEs: []anchor.QE{{MRSigner: sha256.Sum256([]byte("QE of a test")), ISVProdID: 1}, {MRSigner: sha256.Sum256([]byte("TD QE of a test")), ISVProdID: 2}}}
	}
	v.Root = v.Issue(t, nil, v.Template(anchor.RootCA, true))
	v.anchor.RootSPKI = [][32]byte{sha256.Sum256(v.Root.Cert.RawSubjectPublicKeyInfo)}
	v.CA = v.NewCA(t, o.CA)
	v.Signer = v.Issue(t, &v.Root, v.Template(anchor.TCBSigning, false))
	v.PCK = v.NewPCK(t, v.CA)
	v.QE, v.TDQE = v.enclave(0), v.enclave(1)
	v.QE.ISVSVN, v.TDQE.ISVSVN = 8, 4
	return v
}

func (v *Vendor) enclave(i int) dcap.QEReport {
	return dcap.QEReport{CPUSVN: v.Options.SGXTCB, Attributes: [16]byte{0x15, 8: 0xe7}, MREnclave: sha256.Sum256([]byte{byte(i)}),
		MRSigner: v.anchor.QEs[i].MRSigner, ISVProdID: v.anchor.QEs[i].ISVProdID}
}

// Key makes a P-256 key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 152))
	if err != nil {
		t.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// Template is a certificate of the vendor's, to be changed and issued. The name is what comes after the prefix: " Root CA",
// " PCK Platform CA", " PCK Processor CA", " PCK Certificate", " TCB Signing".
func (v *Vendor) Template(name string, ca bool) *x509.Certificate {
	c := &x509.Certificate{
		Subject:   pkix.Name{CommonName: v.anchor.Prefix + name, Organization: []string{"Intel Corporation"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Country: []string{"US"}},
		NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(6, 0, 0), BasicConstraintsValid: true, IsCA: ca,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return c
}

// Issue makes a certificate with a key of its own; without a parent, a self-signed one.
func (v *Vendor) Issue(t testing.TB, parent *Authority, c *x509.Certificate) Authority {
	t.Helper()
	key := Key(t)
	if c.SerialNumber == nil {
		c.SerialNumber = serial(t)
	}
	issuer, signer := c, key
	if parent != nil {
		issuer, signer = parent.Cert, parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Authority{cert, key}
}

// NewCA makes a PCK CA, dcap.Platform or dcap.Processor.
func (v *Vendor) NewCA(t testing.TB, kind string) Authority {
	t.Helper()
	name := anchor.PlatformCA
	if kind == dcap.Processor {
		name = anchor.ProcessorCA
	}
	return v.Issue(t, &v.Root, v.Template(name, true))
}

// NewPCK makes a PCK certificate as the options say.
func (v *Vendor) NewPCK(t testing.TB, ca Authority) Authority {
	t.Helper()
	c := v.Template(anchor.PCKLeaf, false)
	c.ExtraExtensions = []pkix.Extension{{Id: sgxOID(), Value: v.extension(t)}}
	if v.Options.EditPCK != nil {
		v.Options.EditPCK(c)
	}
	return v.Issue(t, &ca, c)
}

// PEM writes certificates.
func PEM(certs ...Authority) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Cert.Raw})...)
	}
	return out
}

// Anchor pins this vendor's root as the one of its kind. Its type is internal to evidence.
func (v *Vendor) Anchor(t testing.TB) anchor.DCAP {
	t.Helper()
	return v.anchor
}

// RootSPKI is the SHA-256 of the root key's SubjectPublicKeyInfo.
func (v *Vendor) RootSPKI() [32]byte { return v.anchor.RootSPKI[0] }

// Verify is dcap.Verify with this vendor's root pinned in place of Intel's.
func (v *Vendor) Verify(t testing.TB, signed []byte, s *dcap.SignatureData, o dcap.Options) (*dcap.Verified, error) {
	t.Helper()
	return dcap.VerifyUnder(signed, s, v.anchor, o)
}
