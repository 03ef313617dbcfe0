package sevsnp

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

// Chain is the certificates of a report: leaf (VCEK or VLEK), intermediate (ASK or ASVK), root (ARK).
type Chain struct{ Leaf, Intermediate, Root *x509.Certificate }

// maxChainPEM bounds a chain's text, in bytes.
const maxChainPEM = 64 << 10

// ParseChain reads exactly three certificates in PEM: leaf, intermediate, root. Nothing in it is trusted yet.
func ParseChain(text []byte) (Chain, error) {
	refuse := func(got string) (Chain, error) {
		return Chain{}, evidence.Refuse(evidence.CodeParse, "SNP certificate chain", got, "three certificates in PEM: leaf, ASK or ASVK, ARK")
	}
	if len(text) > maxChainPEM {
		return refuse(fmt.Sprintf("%d bytes", len(text)))
	}
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			return refuse("text that is not a certificate")
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return refuse("PEM that can't be read")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return refuse(err.Error())
		}
		if certs = append(certs, cert); len(certs) > 3 {
			return refuse("more than three certificates")
		}
		rest = bytes.TrimSpace(after)
	}
	if len(certs) != 3 {
		return refuse(fmt.Sprintf("%d certificates", len(certs)))
	}
	return Chain{certs[0], certs[1], certs[2]}, nil
}

// PEM writes the chain: leaf, intermediate, root.
func (c Chain) PEM() []byte {
	var out []byte
	for _, cert := range []*x509.Certificate{c.Leaf, c.Intermediate, c.Root} {
		if cert != nil {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
	}
	return out
}

func refuseChain(field, got, want string) error {
	return evidence.Refuse(evidence.CodeChain, field, got, want)
}

// verified is a chain that ends at an anchor, with what its leaf says.
type verified struct {
	key               *ecdsa.PublicKey
	leaf              leafClaims
	kind              SigningKey
	root              evidence.RootKind
	product           Product
	revocationChecked bool
}

// verifyChain follows a chain to a root that the anchor names.
func verifyChain(c Chain, kind SigningKey, a anchor.Anchor, o Options) (*verified, error) {
	if c.Leaf == nil || c.Intermediate == nil || c.Root == nil {
		return nil, refuseChain("certificate chain", "incomplete", "leaf, intermediate and root")
	}
	if o.At.IsZero() {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "time", "none", "the time to judge certificates at")
	}
	claims, err := parseLeaf(c.Leaf, kind)
	if err != nil {
		return nil, err
	}
	line, ok := a.Lines[string(claims.product)]
	if !ok {
		return nil, refuseChain("product of the "+kind.String(), string(claims.product), "a product with a pinned root")
	}
	if err := pinned(c.Root, line); err != nil {
		return nil, err
	}
	issuer := line.ASKName
	if kind == SignedByVLEK {
		issuer = line.ASVKName
	}
	if issuer == "" || c.Intermediate.Subject.CommonName != issuer {
		return nil, refuseChain("issuer of the "+kind.String(), c.Intermediate.Subject.CommonName, issuer)
	}
	known := o.Chains.holds(c)
	for _, link := range []struct {
		name          string
		child, parent *x509.Certificate
		ca            bool
	}{{"root", c.Root, c.Root, true}, {"intermediate", c.Intermediate, c.Root, true}, {kind.String(), c.Leaf, c.Intermediate, false}} {
		if err := issuedBy(link.name, link.child, link.parent, link.ca); err != nil {
			return nil, err
		}
		if !known {
			if err := link.parent.CheckSignature(link.child.SignatureAlgorithm, link.child.RawTBSCertificate, link.child.Signature); err != nil {
				return nil, refuseChain("signature of the "+link.name, err.Error(), "one by "+link.parent.Subject.CommonName)
			}
		}
		if o.At.Before(link.child.NotBefore) || o.At.After(link.child.NotAfter) {
			return nil, refuseChain("validity of the "+link.name, o.At.UTC().Format(time.RFC3339),
				link.child.NotBefore.UTC().Format(time.RFC3339)+" to "+link.child.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	key, ok := c.Leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, refuseChain("key of the "+kind.String(), c.Leaf.PublicKeyAlgorithm.String(), "ECDSA on P-384")
	}
	o.Chains.keep(c)
	checked, err := checkRevocation(c, kind, claims.product, o)
	if err != nil {
		return nil, err
	}
	return &verified{key: key, leaf: claims, kind: kind, root: a.Kind, product: claims.product, revocationChecked: checked}, nil
}

func pinned(root *x509.Certificate, line anchor.Line) error {
	got := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	for _, want := range line.RootSPKI {
		if got == want {
			if root.Subject.CommonName != line.RootName {
				return refuseChain("name of the root", root.Subject.CommonName, line.RootName)
			}
			return nil
		}
	}
	return refuseChain("root key", hex.EncodeToString(got[:]), "a pinned key")
}

// issuedBy checks everything about a link but its signature: name, algorithm (RSASSA-PSS with SHA-384, salt 48), and what
// both certificates may do.
func issuedBy(name string, child, parent *x509.Certificate, ca bool) error {
	switch {
	case !bytes.Equal(child.RawIssuer, parent.RawSubject):
		return refuseChain("issuer of the "+name, child.Issuer.CommonName, parent.Subject.CommonName)
	case !parent.IsCA || !parent.BasicConstraintsValid || parent.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuseChain("issuer of the "+name, "not a certificate authority", "a certificate authority")
	case ca && (!child.IsCA || !child.BasicConstraintsValid):
		return refuseChain(name, "not a certificate authority", "a certificate authority")
	case !ca && child.IsCA:
		return refuseChain(name, "a certificate authority", "an end certificate")
	case child.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return refuseChain("signature of the "+name, child.SignatureAlgorithm.String(), x509.SHA384WithRSAPSS.String())
	case len(child.UnhandledCriticalExtensions) > 0:
		return refuseChain("critical extensions of the "+name, child.UnhandledCriticalExtensions[0].String(), "none that is not known")
	}
	return nil
}
