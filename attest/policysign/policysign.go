// Package policysign reads the JWS in which policies and certificates of policy signers are sent, and checks who
// signed it. It does no I/O and reads no clock.
package policysign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

const (
	maxChain = 8    // certificates in x5c
	minRSA   = 2048 // bits
	maxRSA   = 8192 // bits; a bigger one only costs time
	what     = "policy JWS"
	maxBytes = 256 << 10 // of a compact JWS
)

// Document is a compact JWS that was read. Its signature, where it has one, counts only after CheckSignature or Verify.
type Document struct {
	Payload []byte
	Signed  bool

	signed *jose.JSONWebSignature
	chain  []*x509.Certificate // of x5c, the signer's first
}

// Signer is the certificate whose key the document says it is signed by; nil where it is unsigned.
func (d *Document) Signer() *x509.Certificate {
	if !d.Signed {
		return nil
	}
	return d.chain[0]
}

var (
	algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512}
	// Members that change what a signature covers ("b64", "crit", "zip"), or bring keys of their own, are no part of it.
	members = []string{"alg", "x5c", "typ", "cty", "kid", "x5t", "x5t#S256"}
)

// Read reads an unsigned JWS ({"alg":"none"}, two dots, nothing behind the second) or a signed one with x5c.
func Read(compact string) (*Document, error) {
	if len(compact) > maxBytes {
		return nil, evidence.Refuse(evidence.CodeParse, what, fmt.Sprintf("%d bytes", len(compact)), fmt.Sprintf("at most %d", maxBytes))
	}
	if n := strings.Count(compact, "."); n != 2 {
		return nil, evidence.Refuse(evidence.CodeParse, what, fmt.Sprintf("%d dots", n), "a compact JWS: two dots")
	}
	parts := strings.Split(compact, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what+" header", "no base64url", "base64url of JSON")
	}
	head, err := strictjson.Object(what+" header", raw)
	if err != nil {
		return nil, err
	}
	for name := range head {
		if !slices.Contains(members, name) {
			return nil, evidence.Refuse(evidence.CodeUnsupported, what+" header", name, strings.Join(members, ", "))
		}
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what+" payload", "no base64url", "base64url without padding")
	}
	if head["alg"] == "none" {
		if parts[2] != "" || head["x5c"] != nil {
			return nil, evidence.Refuse(evidence.CodeParse, what, "alg none with a signature or a certificate", "an unsigned or a signed JWS")
		}
		return &Document{Payload: payload}, nil
	}
	d := &Document{Payload: payload, Signed: true}
	if d.chain, err = chain(head); err != nil {
		return nil, err
	}
	if d.signed, err = jose.ParseSignedCompact(compact, algorithms); err != nil || parts[2] == "" {
		return nil, evidence.Refuse(evidence.CodeParse, what, fmt.Sprintf("alg %v and %d characters of signature", head["alg"], len(parts[2])), "an unsigned JWS, or one signed by RS, PS or ES with SHA-2")
	}
	return d, nil
}

func chain(head map[string]any) ([]*x509.Certificate, error) {
	list, _ := head["x5c"].([]any)
	if len(list) == 0 || len(list) > maxChain {
		return nil, evidence.Refuse(evidence.CodeParse, what+" x5c", fmt.Sprintf("%d certificates", len(list)), fmt.Sprintf("1 to %d", maxChain))
	}
	var out []*x509.Certificate
	for _, v := range list {
		cert, err := decode(v)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	return out, nil
}

// CheckSignature checks that the key of the signer's certificate signed. It says nothing of whose it is.
func (d *Document) CheckSignature() error {
	if !d.Signed {
		return evidence.Refuse(evidence.CodeChain, what, "an unsigned JWS", "a signed one")
	}
	if got, err := d.signed.Verify(d.chain[0].PublicKey); err != nil || !bytes.Equal(got, d.Payload) {
		return evidence.Refuse(evidence.CodeChain, what+" signature", "one that does not fit", "a signature by the key of the first certificate in x5c")
	}
	return nil
}

// Verify checks the signature, and that the signer's certificate is one of those trusted, or is issued by one of
// them and valid at the time. Dates in the payload, where a token has them, must cover the time too.
func (d *Document) Verify(trusted []*x509.Certificate, at time.Time) error {
	if err := d.CheckSignature(); err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range d.chain[1:] {
		between.AddCert(c)
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := d.chain[0].Verify(o); err != nil {
		return evidence.Refuse(evidence.CodeChain, what+" x5c", err.Error(), "a certificate of the issuer's policy signers, or one that they issued")
	}
	if len(d.Payload) == 0 {
		return nil
	}
	body, err := strictjson.Object(what+" payload", d.Payload)
	if err != nil {
		return err
	}
	return inTime(body, float64(at.Unix()))
}

// inTime wants exp and nbf, where they are there, to cover now, in seconds since 1970.
func inTime(body map[string]any, now float64) error {
	for name, holds := range map[string]func(float64) bool{"exp": func(v float64) bool { return now < v }, "nbf": func(v float64) bool { return now >= v }} {
		if v, there := body[name]; there {
			if n, number := v.(float64); !number || !holds(n) {
				return evidence.Refuse(evidence.CodeChain, what+" "+name, fmt.Sprint(v), fmt.Sprintf("a token that is valid at %.0f", now))
			}
		}
	}
	return nil
}

func decode(v any) (*x509.Certificate, error) {
	text, _ := v.(string)
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || text == "" {
		return nil, evidence.Refuse(evidence.CodeParse, "x5c", "no base64", "base64 of a certificate in DER")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "x5c", err.Error(), "a certificate in DER")
	}
	return cert, CheckKey(cert)
}

// CheckKey wants a key that can sign policies: RSA of 2048 to 8192 bits, or ECDSA on a NIST curve of 256 bits or more.
func CheckKey(cert *x509.Certificate) error {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n >= minRSA && n <= maxRSA {
			return nil
		}
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize >= 256 {
			return nil
		}
	}
	return evidence.Refuse(evidence.CodeUnsupported, "certificate", "a key of another kind or size", "RSA of 2048 to 8192 bits, or ECDSA of 256 or more")
}

// CheckSigner wants what the certificate of a trusted signer needs: the CA flag, and a key that can sign.
func CheckSigner(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return evidence.Refuse(evidence.CodeUnsupported, "policy certificate", "no CA", "a certificate with the CA flag")
	}
	return CheckKey(cert)
}

// names of the claim with a signer's certificate; clients of different age write it differently.
var names = []string{"policyCertificate", "maa-policyCertificate", "x-ms-policyCertificate"}

// Certificate is the certificate that the payload wants added or removed: a JWK with one certificate in x5c.
func (d *Document) Certificate() (*x509.Certificate, error) {
	body, err := strictjson.Object(what+" payload", d.Payload)
	if err != nil {
		return nil, err
	}
	var found []any
	for _, name := range names {
		if v, ok := body[name]; ok {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return nil, evidence.Refuse(evidence.CodeParse, what+" payload", fmt.Sprintf("%d certificates", len(found)), "one of "+strings.Join(names, ", "))
	}
	jwk, _ := found[0].(map[string]any)
	list, _ := jwk["x5c"].([]any)
	if len(list) != 1 {
		return nil, evidence.Refuse(evidence.CodeParse, what+" payload", fmt.Sprintf("%d certificates in x5c", len(list)), "a JWK with one certificate in x5c")
	}
	cert, err := decode(list[0])
	if err != nil {
		return nil, err
	}
	return cert, CheckSigner(cert)
}

// JWK is a certificate as a JSON Web Key, with its x5c.
func JWK(cert *x509.Certificate) jose.JSONWebKey {
	return jose.JSONWebKey{Key: cert.PublicKey, Certificates: []*x509.Certificate{cert}}
}
