package soft

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/internal/anchor"
	"cloister.dev/cloister/evidence/tdx"
)

// ParseTDXRoot reads the root of software TDs: one certificate in PEM, self-signed with ECDSA on P-256, whose name is never
// Intel's. A Root serves the kind of evidence that its names and keys fit, and no other.
func ParseTDXRoot(text []byte) (Root, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return Root{}, evidence.Refuse(evidence.CodeParse, "software root of TDs", "something else", "one certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Root{}, evidence.Refuse(evidence.CodeParse, "software root of TDs", err.Error(), "a certificate")
	}
	refuse := func(got, want string) (Root, error) {
		return Root{}, evidence.Refuse(evidence.CodeChain, "software root of TDs", got, want)
	}
	if name := anchor.SoftwareDCAP().Prefix + anchor.RootCA; cert.Subject.CommonName != name {
		return refuse(cert.Subject.CommonName, name)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return refuse("another key", "ECDSA on P-256")
	}
	if cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return refuse(cert.SignatureAlgorithm.String(), x509.ECDSAWithSHA256.String())
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return refuse(err.Error(), "a self-signed certificate")
	}
	return Root{spki: sha256.Sum256(cert.RawSubjectPublicKeyInfo), set: true}, nil
}

// AuthenticateTDX checks that a software platform under one of the named roots made a TD quote. Without a root, everything is
// refused; Intel's root is never one. Collateral, if there is any, must end at the same root: see tdx.Authentic.WithCollateral.
func AuthenticateTDX(q *tdx.Quote, roots []Root, o dcap.Options) (*tdx.Authentic, error) {
	if len(roots) == 0 {
		return nil, evidence.Refuse(evidence.CodeChain, "software root of TDs", "none is named", "a root that the relying party names")
	}
	var keys [][32]byte
	for i, root := range roots {
		if !root.set {
			return nil, evidence.Refuse(evidence.CodeChain, fmt.Sprintf("software root %d of TDs", i), "the zero value", "a root that ParseTDXRoot made")
		}
		keys = append(keys, root.spki)
	}
	return tdx.AuthenticateUnder(q, anchor.SoftwareDCAP(keys...), o)
}
