package collateral

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"

	"cloister.dev/cloister/evidence/dcap"
)

// DCAP picks the collateral of a platform: the TCB info of its FMSPC and kind of quote with the highest evaluation number,
// the identity of the quoting enclave, the revocation lists of the CA that issued its PCK and of the root, and the chain
// of each. All that is missing is named together, as "unavailable".
func (s *Set) DCAP(pck *dcap.PCK, tee dcap.TEE) (dcap.Files, error) {
	if pck == nil || pck.Cert == nil {
		return dcap.Files{}, refuse("PCK certificate", "none", "the platform's")
	}
	var f dcap.Files
	var missing []string
	lack := func(what string) { missing = append(missing, what) }

	info, enclave := "SGX", "QE"
	if tee == dcap.TDX {
		info, enclave = "TDX", "TD_QE"
	}
	fmspc := hex.EncodeToString(pck.FMSPC[:])
	document := func(what string, to, chain *[]byte, match func(Item) bool) {
		i := s.newestDocument(match)
		if i == nil {
			lack(what)
			return
		}
		*to = i.Raw
		if *chain = s.signerChain(i.Document); *chain == nil {
			lack("signer of the " + what + " with its root")
		}
	}
	document(info+" TCB info for FMSPC "+fmspc, &f.TCBInfo, &f.TCBInfoIssuerChain, func(i Item) bool {
		return i.Kind == KindTCBInfo && i.Document.ID == info && i.Document.FMSPC == fmspc
	})
	document(enclave+" identity", &f.QEIdentity, &f.QEIdentityIssuerChain, func(i Item) bool {
		return i.Kind == KindQEIdentity && i.Document.ID == enclave
	})

	ca, root := s.pairOf(pck.Cert)
	if ca == nil || root == nil {
		lack("certificates of " + pck.Cert.Issuer.CommonName + " and its root")
	} else {
		f.PCKCRLIssuerChain = pemOf(ca, root)
		if f.RootCRL = s.listOf(root); f.RootCRL == nil {
			lack("revocation list of " + root.Subject.CommonName)
		}
	}
	if f.PCKCRL = s.listBy(pck.Cert.RawIssuer, ca); f.PCKCRL == nil {
		lack("revocation list of " + pck.Cert.Issuer.CommonName)
	}
	if len(missing) > 0 {
		return dcap.Files{}, unavailable("collateral", "no "+strings.Join(missing, ", no "), "TCB info, the quoting enclave's identity, revocation lists, and their issuers")
	}
	return f, nil
}

// newestDocument is the one with the highest evaluation number; of several, the one issued last.
func (s *Set) newestDocument(match func(Item) bool) *Item {
	var best *Item
	for n := range s.items {
		i := &s.items[n]
		if i.Document == nil || !match(*i) {
			continue
		}
		if best == nil || i.Evaluation > best.Evaluation || i.Evaluation == best.Evaluation && i.From.After(best.From) {
			best = i
		}
	}
	return best
}

// signerChain finds the certificate whose key signed a document, and the root above it. Intel has had several signers of
// one name.
func (s *Set) signerChain(d *Document) []byte {
	sum := sha256.Sum256(d.Signed)
	r, t := new(big.Int).SetBytes(d.Signature[:32]), new(big.Int).SetBytes(d.Signature[32:])
	tries := 0
	for _, i := range s.items {
		if i.Certificate == nil || i.Certificate.IsCA || !strings.HasSuffix(i.About, "TCB Signing") {
			continue
		}
		key, ok := i.Certificate.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			continue
		}
		if tries++; tries > maxTries {
			break
		}
		if !ecdsa.Verify(key, sum[:], r, t) {
			continue
		}
		if roots := s.issuers(i.Certificate); len(roots) > 0 {
			return pemOf(i.Certificate, roots[0])
		}
	}
	return nil
}

// pairOf finds the CA that issued a PCK certificate, and the root above it.
func (s *Set) pairOf(pck *x509.Certificate) (ca, root *x509.Certificate) {
	for _, ca := range s.issuers(pck) {
		if roots := s.issuers(ca); len(roots) > 0 {
			return ca, roots[0]
		}
	}
	return nil, nil
}

func (s *Set) listOf(issuer *x509.Certificate) []byte { return s.listBy(issuer.RawSubject, issuer) }

// listBy finds the newest list of an issuer: of those whose signature is by that key, where there are such.
func (s *Set) listBy(rawIssuer []byte, by *x509.Certificate) []byte {
	var best, good *x509.RevocationList
	tries := 0
	for _, i := range s.items {
		if i.CRL == nil || !bytes.Equal(i.CRL.RawIssuer, rawIssuer) {
			continue
		}
		if best == nil || newer(i.CRL, best) {
			best = i.CRL
		}
		if tries++; by != nil && tries <= maxTries && (good == nil || newer(i.CRL, good)) && i.CRL.CheckSignatureFrom(by) == nil {
			good = i.CRL
		}
	}
	switch {
	case good != nil:
		return good.Raw
	case best != nil:
		return best.Raw
	}
	return nil
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Issuers gives the chain of one of Intel's documents or lists that is in the set, in PEM: its signer, then the root. It is
// nil where the set does not have both.
func (s *Set) Issuers(i Item) []byte {
	if i.Document != nil {
		return s.signerChain(i.Document)
	}
	if i.CRL == nil {
		return nil
	}
	for _, ca := range s.named(i.CRL.RawIssuer) {
		if i.CRL.CheckSignatureFrom(ca) != nil {
			continue
		}
		if roots := s.issuers(ca); len(roots) > 0 {
			return pemOf(ca, roots[0])
		}
	}
	return nil
}
