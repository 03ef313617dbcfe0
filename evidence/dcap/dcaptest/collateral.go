package dcaptest

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence/dcap"
)

// Component is one of the 16 of a level.
type Component struct {
	SVN int `json:"svn"`
}

// Level is a level of a platform (components and PCESVN), or of an enclave or module (ISVSVN).
type Level struct {
	TCB        TCB      `json:"tcb"`
	Date       string   `json:"tcbDate"`
	Status     string   `json:"tcbStatus"`
	Advisories []string `json:"advisoryIDs,omitempty"`
}

// TCB is what a level asks for.
type TCB struct {
	SGX    []Component `json:"sgxtcbcomponents,omitempty"`
	TDX    []Component `json:"tdxtcbcomponents,omitempty"`
	PCESVN *int        `json:"pcesvn,omitempty"`
	ISVSVN *int        `json:"isvsvn,omitempty"`
}

// Module is tdxModule, or with an id and levels one of tdxModuleIdentities.
type Module struct {
	ID             string  `json:"id,omitempty"`
	MRSigner       string  `json:"mrsigner"`
	Attributes     string  `json:"attributes"`
	AttributesMask string  `json:"attributesMask"`
	Levels         []Level `json:"tcbLevels,omitempty"`
}

// TCBInfo is the document of that name, version 3.
type TCBInfo struct {
	ID         string   `json:"id"`
	Version    int      `json:"version"`
	IssueDate  string   `json:"issueDate"`
	NextUpdate string   `json:"nextUpdate"`
	FMSPC      string   `json:"fmspc"`
	PCEID      string   `json:"pceId"`
	Type       int      `json:"tcbType"`
	Evaluation uint32   `json:"tcbEvaluationDataNumber"`
	Module     *Module  `json:"tdxModule,omitempty"`
	Modules    []Module `json:"tdxModuleIdentities,omitempty"`
	Levels     []Level  `json:"tcbLevels"`
}

// QEIdentity is the document of that name, version 2.
type QEIdentity struct {
	ID             string  `json:"id"`
	Version        int     `json:"version"`
	IssueDate      string  `json:"issueDate"`
	NextUpdate     string  `json:"nextUpdate"`
	Evaluation     uint32  `json:"tcbEvaluationDataNumber"`
	MiscSelect     string  `json:"miscselect"`
	MiscSelectMask string  `json:"miscselectMask"`
	Attributes     string  `json:"attributes"`
	AttributesMask string  `json:"attributesMask"`
	MRSigner       string  `json:"mrsigner"`
	ISVProdID      int     `json:"isvprodid"`
	Levels         []Level `json:"tcbLevels"`
}

// CRL is a revocation list before it is signed.
type CRL struct {
	Template x509.RevocationList
	By       Authority
}

// Documents are collateral before it is signed. Tests change it to make bad collateral.
type Documents struct {
	TCBInfo                            TCBInfo
	QEIdentity                         QEIdentity
	TCBSigner, QESigner                Authority
	TCBInfoChain, QEChain, PCKCRLChain []byte // PEM; nil: as the signers are
	PCKCRL, RootCRL                    CRL
	EditTCBInfo, EditQEIdentity        func(string) string // changes the document's text before it is signed
}

// Date writes a time as collateral does.
func Date(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05Z") }

// Components gives 16 components; those not named are zero.
func Components(svn ...int) []Component {
	out := make([]Component, 16)
	for i, v := range svn {
		out[i].SVN = v
	}
	return out
}

// ISVSVN is a level of an enclave or module.
func ISVSVN(svn int, status string, advisories ...string) Level {
	return Level{TCB{ISVSVN: &svn}, "2026-03-11T00:00:00Z", status, advisories}
}

// Platform is a level of a platform; tdx is nil for SGX.
func Platform(sgx, tdx []Component, pcesvn int, status string, advisories ...string) Level {
	return Level{TCB{SGX: sgx, TDX: tdx, PCESVN: &pcesvn}, "2026-03-11T00:00:00Z", status, advisories}
}

// TEETCBSVN is that of a TD on an up-to-date platform: module 1.5, whose SVN is 5, and late microcode 2.
var TEETCBSVN = [16]byte{5, 1, 2}

// Documents makes good collateral for this platform, issued ten days before a time and good for 30 days. The platform's level
// is the first one; a second one, OutOfDate with INTEL-SA-00001, asks for one less of component 1.
func (v *Vendor) Documents(tee dcap.TEE, at time.Time) *Documents {
	issued, next := Date(at.AddDate(0, 0, -10)), Date(at.AddDate(0, 0, 20))
	qe, id, qeID := v.QE, "SGX", "QE"
	sgx, below := make([]Component, 16), make([]Component, 16)
	for i, svn := range v.Options.SGXTCB {
		sgx[i].SVN, below[i].SVN = int(svn), int(svn)
	}
	below[0].SVN = max(below[0].SVN-1, 0)
	var tdx []Component
	d := &Documents{TCBSigner: v.Signer, QESigner: v.Signer, PCKCRL: list(v.CA, at), RootCRL: list(v.Root, at)}
	if tee == dcap.TDX {
		qe, id, qeID, tdx = v.TDQE, "TDX", "TD_QE", Components(5, 0, 2)
		module := Module{MRSigner: strings.Repeat("00", 48), Attributes: strings.Repeat("00", 8), AttributesMask: strings.Repeat("FF", 8)}
		one, three := module, module
		one.ID, one.Levels = "TDX_01", []Level{ISVSVN(5, "UpToDate"), ISVSVN(4, "OutOfDate", "INTEL-SA-00003")}
		three.ID, three.Levels = "TDX_03", []Level{ISVSVN(3, "UpToDate")}
		d.TCBInfo.Module, d.TCBInfo.Modules = &module, []Module{three, one}
	}
	pcesvn := int(v.Options.PCESVN)
	info := TCBInfo{ID: id, Version: 3, IssueDate: issued, NextUpdate: next, FMSPC: hex.EncodeToString(v.Options.FMSPC[:]), PCEID: hex.EncodeToString(v.Options.PCEID[:]),
		Evaluation: 20, Module: d.TCBInfo.Module, Modules: d.TCBInfo.Modules,
		Levels: []Level{Platform(sgx, tdx, pcesvn, "UpToDate"), Platform(below, tdx, pcesvn, "OutOfDate", "INTEL-SA-00001")}}
	d.TCBInfo = info
	d.QEIdentity = QEIdentity{ID: qeID, Version: 2, IssueDate: issued, NextUpdate: next, Evaluation: 20, MiscSelect: "00000000", MiscSelectMask: "FFFFFFFF",
		Attributes: "11000000000000000000000000000000", AttributesMask: "FBFFFFFFFFFFFFFF0000000000000000", MRSigner: strings.ToUpper(hex.EncodeToString(qe.MRSigner[:])),
		ISVProdID: int(qe.ISVProdID), Levels: []Level{ISVSVN(int(qe.ISVSVN), "UpToDate"), ISVSVN(max(int(qe.ISVSVN)-1, 0), "OutOfDate", "INTEL-SA-00002")}}
	return d
}

func list(by Authority, at time.Time) CRL {
	return CRL{x509.RevocationList{Number: big.NewInt(1), ThisUpdate: at.AddDate(0, 0, -10), NextUpdate: at.AddDate(0, 0, 20), SignatureAlgorithm: x509.ECDSAWithSHA256}, by}
}

// Revoke puts a certificate on a list.
func (c *CRL) Revoke(certs ...Authority) {
	for _, a := range certs {
		c.Template.RevokedCertificateEntries = append(c.Template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: a.Cert.SerialNumber, RevocationTime: c.Template.ThisUpdate})
	}
}

// Sign makes the list.
func (c *CRL) Sign(t testing.TB) []byte {
	t.Helper()
	// Authorities of tests may lack what a list's issuer needs; what they are is for the verifier to find.
	issuer := *c.By.Cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	if len(issuer.SubjectKeyId) == 0 {
		issuer.SubjectKeyId = []byte{1, 2, 3, 4}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &c.Template, &issuer, c.By.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Files makes the collateral of this platform for a kind of quote: what Documents gives, changed by edits and signed.
func (v *Vendor) Files(t testing.TB, tee dcap.TEE, at time.Time, edits ...func(*Documents)) dcap.Files {
	t.Helper()
	d := v.Documents(tee, at)
	for _, edit := range edits {
		edit(d)
	}
	or := func(chain []byte, signer Authority) []byte {
		if chain != nil {
			return chain
		}
		return PEM(signer, v.Root)
	}
	return dcap.Files{
		TCBInfo: signedJSON(t, "tcbInfo", d.TCBInfo, d.EditTCBInfo, d.TCBSigner), TCBInfoIssuerChain: or(d.TCBInfoChain, d.TCBSigner),
		QEIdentity: signedJSON(t, "enclaveIdentity", d.QEIdentity, d.EditQEIdentity, d.QESigner), QEIdentityIssuerChain: or(d.QEChain, d.QESigner),
		PCKCRL: d.PCKCRL.Sign(t), PCKCRLIssuerChain: or(d.PCKCRLChain, d.PCKCRL.By), RootCRL: d.RootCRL.Sign(t),
	}
}

func signedJSON(t testing.TB, name string, doc any, edit func(string) string, by Authority) []byte {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		text = []byte(edit(string(text)))
	}
	sig := Signature(t, by.Key, text)
	return []byte(`{"` + name + `":` + string(text) + `,"signature":"` + hex.EncodeToString(sig[:]) + `"}`)
}

// Collateral is Files, parsed.
func (v *Vendor) Collateral(t testing.TB, tee dcap.TEE, at time.Time, edits ...func(*Documents)) *dcap.Collateral {
	t.Helper()
	c, err := dcap.ParseCollateral(v.Files(t, tee, at, edits...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
