package dcap

import (
	"bytes"
	"crypto/x509"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Files are the parts of Intel's collateral as they are served: TCB info and QE identity in JSON with their
// signatures, issuer chains of two certificates in PEM (signer, root), revocation lists in DER, PEM or hexadecimal digits.
type Files struct {
	TCBInfo, TCBInfoIssuerChain       []byte
	QEIdentity, QEIdentityIssuerChain []byte
	PCKCRL, PCKCRLIssuerChain         []byte
	RootCRL                           []byte
}

// issuer is a certificate directly below a root.
type issuer struct {
	name       string
	cert, root *x509.Certificate
	ca         bool // issues certificates and lists; otherwise it signs documents
}

// Collateral is collateral that was parsed. Its signatures are verified once, when it is first used. It is immutable and
// safe for concurrent use.
type Collateral struct {
	tcb                        *tcbInfo
	qe                         *qeIdentity
	tcbSigner, qeSigner, pckCA issuer
	pckCRL, rootCRL            *crl

	signatures sync.Once
	forged     error // what signatures found
}

// ParseCollateral reads the bytes and trusts nothing yet. A part that is missing has the code "unavailable"; one that can't be
// read refuse/parse; a status that is not known refuse/tcb.
func ParseCollateral(f Files) (*Collateral, error) {
	for _, part := range []struct {
		what string
		raw  []byte
	}{{"TCB info", f.TCBInfo}, {"TCB info issuer chain", f.TCBInfoIssuerChain}, {"QE identity", f.QEIdentity}, {"QE identity issuer chain", f.QEIdentityIssuerChain},
		{"PCK CRL", f.PCKCRL}, {"PCK CRL issuer chain", f.PCKCRLIssuerChain}, {"root CRL", f.RootCRL}} {
		if len(part.raw) == 0 {
			return nil, evidence.Refuse(evidence.CodeUnavailable, "collateral", "no "+part.what, "all parts")
		}
	}
	c := &Collateral{}
	var err error
	if c.tcb, err = parseTCBInfo(f.TCBInfo); err != nil {
		return nil, err
	}
	if c.qe, err = parseQEIdentity(f.QEIdentity); err != nil {
		return nil, err
	}
	if c.tcbSigner, err = parseIssuer("TCB info signer", f.TCBInfoIssuerChain, false); err != nil {
		return nil, err
	}
	if c.qeSigner, err = parseIssuer("QE identity signer", f.QEIdentityIssuerChain, false); err != nil {
		return nil, err
	}
	if c.pckCA, err = parseIssuer("PCK CRL issuer", f.PCKCRLIssuerChain, true); err != nil {
		return nil, err
	}
	if c.pckCRL, err = parseCRL("PCK CRL", f.PCKCRL); err != nil {
		return nil, err
	}
	if c.rootCRL, err = parseCRL("root CRL", f.RootCRL); err != nil {
		return nil, err
	}
	return c, nil
}

func parseIssuer(name string, text []byte, ca bool) (issuer, error) {
	certs, err := parsePEM(name+" chain", text, 2)
	if err != nil {
		return issuer{}, err
	}
	return issuer{name, certs[0], certs[1], ca}, nil
}

func (c *Collateral) valid() bool { return c != nil && c.tcb != nil }

func (c *Collateral) issuers() []issuer { return []issuer{c.tcbSigner, c.qeSigner, c.pckCA} }

// checkSignatures verifies everything that depends on neither the time nor the roots.
func (c *Collateral) checkSignatures() error {
	for _, i := range c.issuers() {
		for _, l := range []link{{"root above the " + i.name, i.root, i.root, true}, {i.name, i.cert, i.root, i.ca}} {
			if err := issuedBy(l.name, l.child, l.parent, l.ca); err != nil {
				return err
			}
			if err := signedBy(l.name, l.child, l.parent); err != nil {
				return err
			}
		}
		if !bytes.Equal(i.root.RawSubjectPublicKeyInfo, c.tcbSigner.root.RawSubjectPublicKeyInfo) {
			return refuseChain("root above the "+i.name, "another than that of the TCB info", "one root")
		}
	}
	for _, d := range []struct {
		what string
		doc  *document
		by   issuer
	}{{"TCB info", c.tcb.doc, c.tcbSigner}, {"QE identity", c.qe.doc, c.qeSigner}} {
		key, err := p256(d.by.name, d.by.cert)
		if err != nil {
			return err
		}
		if err := checkSignature(d.what, key, d.doc.signed, d.doc.signature); err != nil {
			return err
		}
	}
	if err := c.pckCRL.signedBy("PCK CRL", c.pckCA.cert); err != nil {
		return err
	}
	return c.rootCRL.signedBy("root CRL", c.tcbSigner.root)
}

// authenticate checks that all parts end at a root of the anchor.
func (c *Collateral) authenticate(a anchor.DCAP) error {
	for _, i := range c.issuers() {
		if err := pinned(i.root, a); err != nil {
			return err
		}
		names := []string{a.Prefix + anchor.TCBSigning}
		if i.ca {
			names = []string{a.Prefix + anchor.PlatformCA, a.Prefix + anchor.ProcessorCA}
		}
		if err := named(i.name, i.cert, names...); err != nil {
			return err
		}
	}
	c.signatures.Do(func() { c.forged = c.checkSignatures() })
	return c.forged
}

// current checks the dates of all documents, lists and certificates.
func (c *Collateral) current(at time.Time) error {
	for _, p := range c.periods() {
		if err := p.period.current(p.what, at); err != nil {
			return err
		}
	}
	for _, i := range c.issuers() {
		if err := within(evidence.CodeUnavailable, i.name, i.cert, at); err != nil {
			return err
		}
		if err := within(evidence.CodeUnavailable, "root above the "+i.name, i.root, at); err != nil {
			return err
		}
	}
	return nil
}

type datedPart struct {
	what   string
	period period
}

func (c *Collateral) periods() []datedPart {
	return []datedPart{{"TCB info", c.tcb.period}, {"QE identity", c.qe.period}, {"PCK CRL", c.pckCRL.period()}, {"root CRL", c.rootCRL.period()}}
}

// TCBEvaluationNumber gives the numbers of TCB info and QE identity: Intel counts them up with each publication.
func (c *Collateral) TCBEvaluationNumber() (tcbInfo, qeIdentity uint32) {
	if !c.valid() {
		return 0, 0
	}
	return c.tcb.evaluation, c.qe.evaluation
}

// IssueDate is the earliest issue date of TCB info and QE identity.
func (c *Collateral) IssueDate() time.Time {
	if !c.valid() {
		return time.Time{}
	}
	return earlier(c.tcb.issued, c.qe.issued)
}

// Expiry is the earliest next update of all parts: from then on the collateral is of no use.
func (c *Collateral) Expiry() time.Time {
	if !c.valid() {
		return time.Time{}
	}
	out := c.tcb.next
	for _, p := range c.periods() {
		out = earlier(out, p.period.next)
	}
	return out
}

// Floor is this collateral as a floor for later ones.
func (c *Collateral) Floor() Floor {
	if !c.valid() {
		return Floor{}
	}
	return Floor{min(c.tcb.evaluation, c.qe.evaluation), c.tcb.issued, c.qe.issued, c.pckCRL.list.ThisUpdate, c.rootCRL.list.ThisUpdate}
}

// FMSPC is the kind of platform that the TCB info is of.
func (c *Collateral) FMSPC() [6]byte {
	if !c.valid() {
		return [6]byte{}
	}
	return c.tcb.fmspc
}

// ModuleIdentity finds the line of a TDX module by its major version, byte 1 of the TEE TCB SVN.
func (c *Collateral) ModuleIdentity(version uint8) (ModuleIdentity, bool) {
	if !c.valid() || c.tcb.tee != TDX {
		return ModuleIdentity{}, false
	}
	if version == 0 {
		return c.tcb.base, true
	}
	m, ok := c.tcb.modules[version]
	return m, ok
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
