package vtpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"cloister.dev/cloister/evidence"
)

// maxNVCertificate bounds what an NV index holds, in bytes; Azure's has 4096.
const maxNVCertificate = 8192

// Key purposes of the TCG. Source: "EK Credential Profile", section on extended key usage.
var (
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidAKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
	oidAltName       = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// ParseNVCertificate reads a certificate as an NV index holds it: DER, then nothing but zeros.
func ParseNVCertificate(raw []byte) (*x509.Certificate, error) {
	refuse := func(got string) (*x509.Certificate, error) {
		return nil, evidence.Refuse(evidence.CodeParse, "NV certificate", got, "a DER certificate, then zeros, up to 8192 bytes")
	}
	// A certificate is a SEQUENCE of 256 to 65535 bytes: tag 0x30, length form 0x82, length.
	if len(raw) < 4 || len(raw) > maxNVCertificate || raw[0] != 0x30 || raw[1] != 0x82 {
		return refuse(fmt.Sprintf("%d bytes of something else", len(raw)))
	}
	n := 4 + int(binary.BigEndian.Uint16(raw[2:]))
	if n > len(raw) || len(bytes.TrimRight(raw[n:], "\x00")) > 0 {
		return refuse(fmt.Sprintf("%d bytes, of which the certificate says %d", len(raw), n))
	}
	cert, err := x509.ParseCertificate(raw[:n])
	if err != nil {
		return refuse(err.Error())
	}
	return cert, nil
}

// CertificateOptions are what a judgement of a TPM's certificates depends on. Nothing is fetched: pointers to issuers and
// revocation lists inside certificates are not followed, and no list is consulted.
type CertificateOptions struct {
	Roots         []*x509.Certificate // the makers' roots that the relying party names; none: everything is refused
	Intermediates []*x509.Certificate // anybody's; they count only where a root signed them, directly or not
	At            time.Time           // required
}

// maxIntermediates bounds the certificates that a stranger makes a verifier work on.
const maxIntermediates = 16

// VerifyEKCertificate follows an endorsement key's certificate to a named root. The certificate itself must be an end
// certificate whose purpose is to be one (2.23.133.8.1): issuing authorities carry that purpose too, and are no TPM's key.
// That an attestation key lives in the same TPM does not follow: that takes a credential activation.
func VerifyEKCertificate(cert *x509.Certificate, o CertificateOptions) (crypto.PublicKey, error) {
	if err := verifyCertificate("EK certificate", cert, oidEKCertificate, o); err != nil {
		return nil, err
	}
	return cert.PublicKey, nil
}

// VerifyAKCertificate follows an attestation key's certificate (2.23.133.8.3) to a named root, and refuses one that is not
// about this key, which is the one that signed the quote.
func VerifyAKCertificate(cert *x509.Certificate, ak crypto.PublicKey, o CertificateOptions) error {
	if err := verifyCertificate("AK certificate", cert, oidAKCertificate, o); err != nil {
		return err
	}
	key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(ak) {
		return evidence.Refuse(evidence.CodeBinding, "AK certificate", "about another key", "the key that signed the quote")
	}
	return nil
}

func verifyCertificate(what string, cert *x509.Certificate, purpose asn1.ObjectIdentifier, o CertificateOptions) error {
	refuse := func(got, want string) *evidence.Refusal { return evidence.Refuse(evidence.CodeChain, what, got, want) }
	switch {
	case cert == nil:
		return refuse("none", "a certificate")
	case o.At.IsZero():
		return evidence.Refuse(evidence.CodeUnavailable, "time", "none", "the time to judge certificates at")
	case len(o.Roots) == 0:
		return refuse("no root is named", "a root of the TPM's maker")
	case len(o.Intermediates) > maxIntermediates:
		return refuse(fmt.Sprintf("%d intermediates", len(o.Intermediates)), fmt.Sprintf("at most %d", maxIntermediates))
	case cert.IsCA || cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return refuse("a certificate authority", "an end certificate").By("TPM-10")
	case !slices.ContainsFunc(cert.UnknownExtKeyUsage, purpose.Equal):
		return refuse("other purposes", purpose.String())
	}
	pool := func(certs []*x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		for _, c := range certs {
			if c != nil {
				p.AddCert(c)
			}
		}
		return p
	}
	// The subject alternative name of an EK's certificate is critical and holds a directory name (maker, model, version of
	// the TPM), which says nothing that is relied on here.
	leaf := *cert
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), oidAltName.Equal)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(o.Roots), Intermediates: pool(o.Intermediates), CurrentTime: o.At, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return refuse(err.Error(), "a chain to a root that was named")
	}
	return nil
}
