package sevsnp

import (
	"bytes"
	"crypto/x509"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Leaf is what a VCEK or VLEK says of its chip. Nothing in it is authenticated: it serves to find the certificate that a
// report needs among others.
type Leaf struct {
	Kind    SigningKey
	Product Product
	TCB     TCB
	HWID    []byte // VCEK: 64 bytes, on Turin 8; VLEK: none
	CSP     string // VLEK: the provider's id
}

// ReadLeaf reads a VCEK or VLEK; which one it is, its hardware id tells.
func ReadLeaf(cert *x509.Certificate) (Leaf, error) {
	if cert == nil {
		return Leaf{}, evidence.Refuse(evidence.CodeParse, "SNP certificate", "none", "a VCEK or VLEK")
	}
	kind := SignedByVLEK
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidHWID) {
			kind = SignedByVCEK
		}
	}
	c, err := parseLeaf(cert, kind)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Kind: kind, Product: c.product, TCB: c.tcb, HWID: bytes.Clone(c.hwid), CSP: c.csp}, nil
}

// Endorses tells whether the leaf is about the chip, the kind of key and the reported TCB of a report.
func (l Leaf) Endorses(r *Report) bool {
	if r == nil || l.Kind != r.KeyInfo.SigningKey || l.TCB != r.ReportedTCB {
		return false
	}
	if p, err := r.Product(); err != nil || p != "" && p != l.Product {
		return false
	}
	n := len(l.HWID)
	return l.Kind != SignedByVCEK || n <= len(r.ChipID) && bytes.Equal(r.ChipID[:n], l.HWID) && bytes.Equal(r.ChipID[n:], make([]byte, len(r.ChipID)-n))
}

// IsPinned tells whether a certificate holds one of AMD's pinned root keys under the root's name.
func IsPinned(root *x509.Certificate) bool {
	if root == nil {
		return false
	}
	for _, line := range amd.Lines {
		if pinned(root, line) == nil {
			return true
		}
	}
	return false
}

// CheckChain follows a chain to AMD's pinned root and looks it up in the revocation lists, without a report.
func CheckChain(c Chain, kind SigningKey, o Options) error {
	_, err := verifyChain(c, kind, amd, o)
	return err
}

// CheckAuthorities checks what certificates a product's key distribution service gives out: an intermediate (ASK for a
// VCEK, ASVK for a VLEK) under the pinned root of the product. The lists are looked up as in CheckChain.
func CheckAuthorities(p Product, kind SigningKey, intermediate, root *x509.Certificate, o Options) error {
	return checkAuthorities(p, kind, intermediate, root, amd, o)
}

// CheckAuthoritiesUnder is CheckAuthorities under other roots; see AuthenticateUnder.
func CheckAuthoritiesUnder(p Product, kind SigningKey, intermediate, root *x509.Certificate, a anchor.Anchor, o Options) error {
	return checkAuthorities(p, kind, intermediate, root, a, o)
}

// CheckChainUnder is CheckChain under other roots; see AuthenticateUnder.
func CheckChainUnder(c Chain, kind SigningKey, a anchor.Anchor, o Options) error {
	_, err := verifyChain(c, kind, a, o)
	return err
}

func checkAuthorities(p Product, kind SigningKey, intermediate, root *x509.Certificate, a anchor.Anchor, o Options) error {
	if intermediate == nil || root == nil {
		return refuseChain("certificate chain", "incomplete", "intermediate and root")
	}
	if o.At.IsZero() {
		return evidence.Refuse(evidence.CodeUnavailable, "time", "none", "the time to judge certificates at")
	}
	line, ok := a.Lines[string(p)]
	if !ok {
		return refuseChain("product", string(p), "a product with a pinned root")
	}
	if err := pinned(root, line); err != nil {
		return err
	}
	want := line.ASKName
	if kind == SignedByVLEK {
		want = line.ASVKName
	}
	if want == "" || intermediate.Subject.CommonName != want {
		return refuseChain("issuer of the "+kind.String(), intermediate.Subject.CommonName, want)
	}
	for _, link := range []struct {
		name  string
		child *x509.Certificate
	}{{"root", root}, {"intermediate", intermediate}} {
		if err := issuedBy(link.name, link.child, root, true); err != nil {
			return err
		}
		if err := root.CheckSignature(link.child.SignatureAlgorithm, link.child.RawTBSCertificate, link.child.Signature); err != nil {
			return refuseChain("signature of the "+link.name, err.Error(), "one by "+root.Subject.CommonName)
		}
		if o.At.Before(link.child.NotBefore) || o.At.After(link.child.NotAfter) {
			return refuseChain("validity of the "+link.name, o.At.UTC().Format(time.RFC3339),
				link.child.NotBefore.UTC().Format(time.RFC3339)+" to "+link.child.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	_, err := checkRevocation(Chain{Leaf: intermediate, Intermediate: intermediate, Root: root}, kind, p, o)
	return err
}
