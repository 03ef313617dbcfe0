package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
)

// maxCRL bounds a revocation list, in bytes of its text; real ones have up to 4 KiB.
const maxCRL = 4 << 20

// crl is a revocation list. What is on it is looked up by serial number.
type crl struct {
	list    *x509.RevocationList
	revoked map[string]bool // serial numbers in base 16
}

// parseCRL reads a list in DER, PEM or hexadecimal digits: Intel's service and its caches use all three. A list of a part of
// the certificates or reasons is refused: Intel has none, and what is not on it may still be revoked.
func parseCRL(what string, raw []byte) (*crl, error) {
	refuse := func(got string) (*crl, error) {
		return nil, evidence.Refuse(evidence.CodeParse, what, got, "one revocation list in DER, PEM or hexadecimal digits")
	}
	if len(raw) > maxCRL {
		return refuse(fmt.Sprintf("%d bytes", len(raw)))
	}
	der := raw
	if text := bytes.TrimSpace(raw); bytes.HasPrefix(text, []byte("-----BEGIN X509 CRL-----")) {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "X509 CRL" || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
			return refuse("PEM that can't be read")
		}
		der = block.Bytes
	} else if !bytes.HasPrefix(raw, []byte{0x30}) { // hexadecimal digits of a list begin with the digit 3, which is 0x33
		b, err := hex.DecodeString(string(text))
		if err != nil {
			return refuse("something else")
		}
		der = b
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return refuse(err.Error())
	}
	switch {
	case len(list.Raw) != len(der):
		return refuse("bytes after the list")
	case list.NextUpdate.IsZero() || !list.NextUpdate.After(list.ThisUpdate):
		return refuse("a list without an end")
	}
	for _, e := range list.Extensions {
		if e.Critical || e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}) || e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}) {
			return nil, evidence.Refuse(evidence.CodeUnsupported, what, "extension "+e.Id.String(), "a list of all certificates")
		}
	}
	c := &crl{list: list, revoked: map[string]bool{}}
	for _, entry := range list.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical {
				return nil, evidence.Refuse(evidence.CodeUnsupported, what, "critical extension "+e.Id.String()+" of an entry", "none")
			}
		}
		c.revoked[entry.SerialNumber.Text(16)] = true
	}
	return c, nil
}

// signedBy checks who made the list: an authority that may, of the list's name.
func (c *crl) signedBy(what string, ca *x509.Certificate) error {
	switch {
	case !bytes.Equal(c.list.RawIssuer, ca.RawSubject):
		return refuseChain("issuer of the "+what, c.list.Issuer.CommonName, ca.Subject.CommonName)
	case !ca.IsCA || !ca.BasicConstraintsValid || ca.KeyUsage&x509.KeyUsageCRLSign == 0:
		return refuseChain("issuer of the "+what, "a certificate that may not sign lists", "a certificate authority")
	case c.list.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return refuseChain("signature of the "+what, c.list.SignatureAlgorithm.String(), x509.ECDSAWithSHA256.String())
	}
	if err := ca.CheckSignature(c.list.SignatureAlgorithm, c.list.RawTBSRevocationList, c.list.Signature); err != nil {
		return refuseChain("signature of the "+what, err.Error(), "one by "+ca.Subject.CommonName)
	}
	return nil
}

func (c *crl) period() period { return period{c.list.ThisUpdate, c.list.NextUpdate} }

// check refuses a certificate that is on the list.
func (c *crl) check(name string, cert *x509.Certificate) error {
	if serial := cert.SerialNumber.Text(16); c.revoked[serial] {
		return evidence.Refuse(evidence.CodeRevoked, name, "serial number "+serial+" is revoked", "not revoked")
	}
	return nil
}

// current checks that a document holds at a time. One that is stale or from the future is "unavailable": fresher ones are to be had.
func (p period) current(what string, at time.Time) error {
	switch {
	case at.Before(p.issued):
		return evidence.Refuse(evidence.CodeUnavailable, what, "from "+stamp(p.issued), "not after "+stamp(at))
	case !at.Before(p.next):
		return evidence.Refuse(evidence.CodeUnavailable, what, "stale since "+stamp(p.next), "in force at "+stamp(at))
	}
	return nil
}
