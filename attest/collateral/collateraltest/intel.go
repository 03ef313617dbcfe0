package collateraltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// Intel is a stand-in for Intel as an issuer of collateral: a root, its CA for PCKs, and its signer of documents. The
// documents have what is needed to find and keep them; those that quotes can be judged by are dcaptest's.
type Intel struct {
	Root, CA, Signer          *x509.Certificate
	rootKey, caKey, signerKey *ecdsa.PrivateKey
}

// NewIntel makes one, whose certificates hold for a year around a time.
func NewIntel(t testing.TB, at time.Time) *Intel {
	t.Helper()
	i := &Intel{}
	i.Root, i.rootKey = issue(t, "Intel SGX Root CA", at, nil, nil)
	i.CA, i.caKey = issue(t, "Intel SGX PCK Platform CA", at, i.Root, i.rootKey)
	i.Signer, i.signerKey = issue(t, "Intel SGX TCB Signing", at, i.Root, i.rootKey)
	return i
}

func issue(t testing.TB, cn string, at time.Time, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	ca := cn != "Intel SGX TCB Signing"
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: []string{"Intel Corporation"}}, SerialNumber: serial,
		NotBefore: at.AddDate(0, -6, 0), NotAfter: at.AddDate(0, 6, 0), IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// Check stands for dcap.CheckRoot with this root pinned.
func (i *Intel) Check(root *x509.Certificate) error {
	if root.Equal(i.Root) {
		return nil
	}
	return evidence.Refuse(evidence.CodeChain, "root key", "another", "the pinned one")
}

// Version describes collateral.
type Version struct {
	FMSPC      string // 12 hex digits
	Evaluation int
	CRLNumber  int64
	From, Next time.Time
}

// Files makes collateral for TDs of platforms with that FMSPC.
func (i *Intel) Files(t testing.TB, v Version) dcap.Files {
	t.Helper()
	common := fmt.Sprintf(`"issueDate":%q,"nextUpdate":%q,"tcbEvaluationDataNumber":%d`, v.From.Format(time.RFC3339), v.Next.Format(time.RFC3339), v.Evaluation)
	chain := pemOf(i.Signer, i.Root)
	return dcap.Files{
		TCBInfo:            i.sign(t, "tcbInfo", fmt.Sprintf(`{"id":"TDX","version":3,%s,"fmspc":%q,"pceId":"0000"}`, common, v.FMSPC)),
		TCBInfoIssuerChain: chain,
		QEIdentity:         i.sign(t, "enclaveIdentity", fmt.Sprintf(`{"id":"TD_QE","version":2,%s}`, common)), QEIdentityIssuerChain: chain,
		PCKCRL: list(t, i.CA, i.caKey, v), PCKCRLIssuerChain: pemOf(i.CA, i.Root),
		RootCRL: list(t, i.Root, i.rootKey, v),
	}
}

func (i *Intel) sign(t testing.TB, member, document string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(document))
	r, s, err := ecdsa.Sign(rand.Reader, i.signerKey, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return []byte(`{"` + member + `":` + document + `,"signature":"` + hex.EncodeToString(sig) + `"}`)
}

func list(t testing.TB, by *x509.Certificate, key *ecdsa.PrivateKey, v Version) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(v.CRLNumber), ThisUpdate: v.From, NextUpdate: v.Next}, by, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
