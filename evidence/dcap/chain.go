package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

const beginCertificate = "-----BEGIN CERTIFICATE-----"

func refuseChain(field, got, want string) error {
	return evidence.Refuse(evidence.CodeChain, field, got, want)
}

// parsePEM reads exactly n certificates in PEM, with white space between them and at most one NUL at the end, which
// quotes have where their text came from a C string.
func parsePEM(what string, text []byte, n int) ([]*x509.Certificate, error) {
	refuse := func(got string) ([]*x509.Certificate, error) {
		return nil, evidence.Refuse(evidence.CodeParse, what, got, fmt.Sprintf("%d certificates in PEM", n))
	}
	if len(text) > maxPEM {
		return refuse(fmt.Sprintf("%d bytes", len(text)))
	}
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(bytes.TrimSuffix(text, []byte{0})); len(rest) > 0; {
		if !bytes.HasPrefix(rest, []byte(beginCertificate)) {
			return refuse("text that is no certificate")
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return refuse("PEM that can't be read")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return refuse(err.Error())
		}
		if certs = append(certs, cert); len(certs) > n {
			return refuse("more certificates")
		}
		rest = bytes.TrimSpace(after)
	}
	if len(certs) != n {
		return refuse(fmt.Sprintf("%d certificates", len(certs)))
	}
	return certs, nil
}

// issuedBy checks a link without its signature: name, algorithm, and what both certificates may do.
func issuedBy(name string, child, parent *x509.Certificate, ca bool) error {
	switch {
	case !bytes.Equal(child.RawIssuer, parent.RawSubject):
		return refuseChain("issuer of the "+name, child.Issuer.CommonName, parent.Subject.CommonName)
	case !parent.IsCA || !parent.BasicConstraintsValid || parent.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuseChain("issuer of the "+name, "not a certificate authority", "a certificate authority")
	case ca && (!child.IsCA || !child.BasicConstraintsValid):
		return refuseChain(name, "not a certificate authority", "a certificate authority")
	case !ca && (child.IsCA || !child.BasicConstraintsValid || child.KeyUsage&x509.KeyUsageDigitalSignature == 0 || child.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0):
		return refuseChain("usage of the "+name, "another", "digital signature, and no certificate authority")
	case child.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return refuseChain("signature of the "+name, child.SignatureAlgorithm.String(), x509.ECDSAWithSHA256.String())
	case len(child.UnhandledCriticalExtensions) > 0:
		return refuseChain("critical extensions of the "+name, child.UnhandledCriticalExtensions[0].String(), "none that is not known")
	}
	if _, err := p256(name, child); err != nil {
		return err
	}
	return nil
}

func p256(name string, cert *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, refuseChain("key of the "+name, cert.PublicKeyAlgorithm.String(), "ECDSA on P-256")
	}
	return key, nil
}

// signedBy checks a link's signature. The parent's key was found to be on P-256 by issuedBy.
func signedBy(name string, child, parent *x509.Certificate) error {
	if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
		return refuseChain("signature of the "+name, err.Error(), "one by "+parent.Subject.CommonName)
	}
	return nil
}

// within checks a certificate's dates. Out of a quote, a certificate that is not valid has code refuse/chain; out of
// collateral, fresher collateral is wanted, and that is "unavailable".
func within(code evidence.Code, name string, cert *x509.Certificate, at time.Time) error {
	if at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
		return evidence.Refuse(code, "validity of the "+name, stamp(at), stamp(cert.NotBefore)+" to "+stamp(cert.NotAfter))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// named checks a certificate's common name.
func named(name string, cert *x509.Certificate, want ...string) error {
	for _, w := range want {
		if cert.Subject.CommonName == w {
			return nil
		}
	}
	return refuseChain("name of the "+name, cert.Subject.CommonName, fmt.Sprint(want))
}

// pinned checks that a root's key is one of the anchor's, and its name too.
func pinned(root *x509.Certificate, a anchor.DCAP) error {
	got := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	for _, want := range a.RootSPKI {
		if got == want {
			return named("root", root, a.Prefix+anchor.RootCA)
		}
	}
	return refuseChain("root key", hex.EncodeToString(got[:]), "a pinned key")
}

// pckChain is a PCK certificate with its issuers, whose signatures hold. Which root it ends at is judged at each use.
type pckChain struct {
	leaf, ca, root *x509.Certificate
	key            *ecdsa.PublicKey
	pck            PCK // its certificate is a copy, so that no caller can change the one that counts
}

// parsePCKChain reads a chain and checks everything that does not depend on the time or the roots.
func parsePCKChain(text []byte) (*pckChain, error) {
	certs, err := parsePEM("PCK certificate chain", text, 3)
	if err != nil {
		return nil, err
	}
	c := &pckChain{leaf: certs[0], ca: certs[1], root: certs[2]}
	for _, l := range c.links() {
		if err := issuedBy(l.name, l.child, l.parent, l.ca); err != nil {
			return nil, err
		}
		if err := signedBy(l.name, l.child, l.parent); err != nil {
			return nil, err
		}
	}
	if c.key, err = p256("PCK certificate", c.leaf); err != nil {
		return nil, err
	}
	shown, err := x509.ParseCertificate(c.leaf.Raw)
	if err != nil {
		return nil, refuseDER("PCK certificate", err.Error(), "a certificate")
	}
	p, err := ParsePCK(shown)
	if err != nil {
		return nil, err
	}
	c.pck = *p
	return c, nil
}

type link struct {
	name          string
	child, parent *x509.Certificate
	ca            bool
}

func (c *pckChain) links() []link {
	return []link{{"root", c.root, c.root, true}, {"PCK CA", c.ca, c.root, true}, {"PCK certificate", c.leaf, c.ca, false}}
}

// judge checks names, dates and the root.
func (c *pckChain) judge(a anchor.DCAP, at time.Time) error {
	if err := pinned(c.root, a); err != nil {
		return err
	}
	if err := named("PCK CA", c.ca, a.Prefix+anchor.PlatformCA, a.Prefix+anchor.ProcessorCA); err != nil {
		return err
	}
	if err := named("PCK certificate", c.leaf, a.Prefix+anchor.PCKLeaf); err != nil {
		return err
	}
	for _, l := range c.links() {
		if err := within(evidence.CodeChain, l.name, l.child, at); err != nil {
			return err
		}
	}
	return nil
}
