// Package soft verifies evidence of the software root of trust. It makes none: package softchip does.
//
// Such evidence has the formats of AMD SEV-SNP, but a program signed it, so it protects from nothing on the
// host that it ran on. It is accepted only where the relying party names the root, by a Root of this
// package; no root of AMD is accepted here, and no Root is accepted by package sevsnp.
package soft

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Names in the certificates of a software root. They are never AMD's names.
const (
	RootName         = "ARK-Cloister-Software"
	IntermediateName = "SEV-Cloister-Software"
)

// Root is a software root that a relying party named. The zero value is refused.
type Root struct {
	spki [32]byte
	set  bool
}

// ParseRoot reads a root's certificate: one certificate in PEM, self-signed, of the software root's name.
func ParseRoot(text []byte) (Root, error) {
	refuse := func(got, want string) (Root, error) {
		return Root{}, evidence.Refuse(evidence.CodeChain, "software root", got, want)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return Root{}, evidence.Refuse(evidence.CodeParse, "software root", "something else", "one certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Root{}, evidence.Refuse(evidence.CodeParse, "software root", err.Error(), "a certificate")
	}
	if cert.Subject.CommonName != RootName {
		return refuse(cert.Subject.CommonName, RootName)
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() < 2048 {
		return refuse("another key", "RSA of at least 2048 bits")
	}
	if cert.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return refuse(cert.SignatureAlgorithm.String(), x509.SHA384WithRSAPSS.String())
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return refuse(err.Error(), "a self-signed certificate")
	}
	return Root{spki: sha256.Sum256(cert.RawSubjectPublicKeyInfo), set: true}, nil
}

// Fingerprint is the SHA-256 of the root key's SubjectPublicKeyInfo in hexadecimal digits; empty for the zero value.
func (r Root) Fingerprint() string {
	if !r.set {
		return ""
	}
	return hex.EncodeToString(r.spki[:])
}

// Authenticate checks that the software "CPU" under one of the named roots made a report. Without a root,
// everything is refused.
func Authenticate(r *sevsnp.Report, c sevsnp.Chain, roots []Root, at time.Time) (*sevsnp.Authentic, error) {
	if len(roots) == 0 {
		return nil, evidence.Refuse(evidence.CodeChain, "software root", "none is named", "a root that the relying party names")
	}
	// The software chip is made as a Milan part: that fixes the TCB layout, and promises nothing.
	line := anchor.Line{RootName: RootName, ASKName: IntermediateName}
	for i, root := range roots {
		if !root.set {
			return nil, evidence.Refuse(evidence.CodeChain, fmt.Sprintf("software root %d", i), "the zero value", "a root that ParseRoot made")
		}
		line.RootSPKI = append(line.RootSPKI, root.spki)
	}
	a := anchor.Anchor{Kind: evidence.RootSoftware, Lines: map[string]anchor.Line{string(sevsnp.Milan): line}}
	return sevsnp.AuthenticateUnder(r, c, a, sevsnp.Options{At: at})
}
