package collateral

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	endorsed "cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/sevsnp"
)

// entry is one endorsement that was parsed and checked up to a root. It is never changed.
type entry struct {
	id           ID
	raw, issuers []byte // exact bytes
	from, until  time.Time
	refresh      time.Time // when to look for a newer one; zero: never
	mark         mark

	certs []*x509.Certificate  // VCEK, VLEK: one; authorities: ASK or ASVK, then ARK
	list  *x509.RevocationList // lists
}

// mark is what makes one version of an endorsement newer than another.
type mark struct {
	Evaluation uint32    `json:"evaluation,omitempty"` // TCB evaluation data number
	Number     *big.Int  `json:"number,omitempty"`     // CRL number
	Issued     time.Time `json:"issued"`
}

// follows refuses a version that is older than one seen before. Such a one may be signed and in date, and hide what was
// learnt since.
func (m mark) follows(id ID, seen mark) error {
	old := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeTCB, field+" of "+id.String(), got, "at least "+want+", which was seen before").By("no rollback of endorsements")
	}
	if m.Evaluation != seen.Evaluation {
		if m.Evaluation < seen.Evaluation {
			return old("TCB evaluation data number", fmt.Sprint(m.Evaluation), fmt.Sprint(seen.Evaluation))
		}
		return nil
	}
	if seen.Number != nil {
		switch {
		case m.Number == nil:
			return old("CRL number", "none", seen.Number.String())
		case m.Number.Cmp(seen.Number) < 0:
			return old("CRL number", m.Number.String(), seen.Number.String())
		case m.Number.Cmp(seen.Number) > 0:
			return nil
		}
	}
	if m.Issued.Before(seen.Issued) {
		return old("issue date", stamp(m.Issued), stamp(seen.Issued))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// holds is an "unavailable" outside the dates.
func (e *entry) holds(at time.Time) error {
	if at.Before(e.from) || !at.Before(e.until) {
		return evidence.Refuse(evidence.CodeUnavailable, e.id.String(), stamp(at), "one that holds then; this one holds from "+stamp(e.from)+" to "+stamp(e.until))
	}
	return nil
}

// checker makes entries out of bytes.
type checker struct {
	roots Roots
	at    time.Time
	// authorities finds those of a product, to check a leaf or a list by.
	authorities func(ID) (*entry, error)
}

// make parses bytes as the endorsement of an id, and checks that they are that, up to a pinned root. It does not look
// at dates, other than where the chain check does.
func (k checker) make(id ID, raw, issuers []byte) (*entry, error) {
	var set endorsed.Set
	if err := set.Add(id.String(), raw); err != nil {
		return nil, err
	}
	e := &entry{id: id, raw: raw, issuers: issuers}
	var err error
	switch id.Kind() {
	case KindVCEK, KindVLEK:
		err = k.leaf(e, set.Items())
	case KindAuthorities:
		err = k.ca(e, set.Items())
	case KindCRL:
		err = k.amdList(e, set.Items())
	default:
		err = k.intel(e, set.Items())
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func mismatch(id ID, got, want string) error {
	return evidence.Refuse(evidence.CodeBinding, id.String(), got, want).By("what was asked for")
}

func (k checker) leaf(e *entry, items []endorsed.Item) error {
	if len(items) != 1 || items[0].Certificate == nil {
		return mismatch(e.id, fmt.Sprintf("%d items", len(items)), "one certificate")
	}
	cert := items[0].Certificate
	is, err := leafID(cert)
	if err != nil {
		return err
	}
	if is != e.id {
		return mismatch(e.id, is.String(), e.id.String())
	}
	auth, err := k.authorities(e.id)
	if err != nil {
		return err
	}
	if err := k.roots.Chain(sevsnp.Chain{Leaf: cert, Intermediate: auth.certs[0], Root: auth.certs[1]}, e.id.key(), sevsnp.Options{At: k.at}); err != nil {
		return err
	}
	e.certs, e.from, e.until = []*x509.Certificate{cert}, cert.NotBefore, cert.NotAfter
	e.mark = mark{Issued: cert.NotBefore}
	return nil
}

// leafID is the id that a VCEK or VLEK says of itself.
func leafID(cert *x509.Certificate) (ID, error) {
	leaf, err := sevsnp.ReadLeaf(cert)
	if err != nil {
		return ID{}, err
	}
	if leaf.Kind == sevsnp.SignedByVLEK {
		return VLEK(leaf.Product, leaf.TCB)
	}
	var chip [64]byte
	copy(chip[:], leaf.HWID)
	return VCEK(leaf.Product, chip, leaf.TCB)
}

func (k checker) ca(e *entry, items []endorsed.Item) error {
	p, want := sevsnp.Product(e.id.part(1)), map[string]*x509.Certificate{}
	for _, i := range items {
		if i.Certificate != nil && i.Certificate.IsCA {
			want[strings.SplitN(i.Certificate.Subject.CommonName, "-", 2)[0]] = i.Certificate
		}
	}
	if len(items) != 2 || len(want) != 2 || want["SEV"] == nil || want["ARK"] == nil {
		return mismatch(e.id, fmt.Sprintf("%d items", len(items)), "two certificates: ASK or ASVK, and ARK")
	}
	if err := k.roots.Authorities(p, e.id.key(), want["SEV"], want["ARK"], sevsnp.Options{At: k.at}); err != nil {
		return err
	}
	e.certs = []*x509.Certificate{want["SEV"], want["ARK"]}
	e.span(e.certs...)
	return nil
}

func (e *entry) span(certs ...*x509.Certificate) {
	for _, c := range certs {
		if c.NotBefore.After(e.from) {
			e.from = c.NotBefore
		}
		if e.until.IsZero() || c.NotAfter.Before(e.until) {
			e.until = c.NotAfter
		}
	}
}

func (k checker) amdList(e *entry, items []endorsed.Item) error {
	if len(items) != 1 || items[0].CRL == nil {
		return mismatch(e.id, fmt.Sprintf("%d items", len(items)), "one revocation list")
	}
	auth, err := k.authorities(e.id)
	if err != nil {
		return err
	}
	list, root := items[0].CRL, auth.certs[1]
	if !bytes.Equal(list.RawIssuer, root.RawSubject) {
		return evidence.Refuse(evidence.CodeChain, "issuer of "+e.id.String(), list.Issuer.CommonName, root.Subject.CommonName)
	}
	if list.SignatureAlgorithm != x509.SHA384WithRSAPSS || root.CheckSignature(list.SignatureAlgorithm, list.RawTBSRevocationList, list.Signature) != nil {
		return evidence.Refuse(evidence.CodeChain, "signature of "+e.id.String(), "one that does not verify", "one by "+root.Subject.CommonName)
	}
	return e.ofList(items[0])
}

func (e *entry) ofList(i endorsed.Item) error {
	if i.Until.IsZero() {
		return evidence.Refuse(evidence.CodeUnavailable, e.id.String(), "no next update", "a list with an end")
	}
	e.list, e.from, e.until = i.CRL, i.From, i.Until
	e.mark = mark{Number: i.Number, Issued: i.From}
	return nil
}

// intel checks one of Intel's endorsements by itself: its signature, its signer under the root, the root's key. What quotes
// need beyond that, package dcap checks each time.
func (k checker) intel(e *entry, items []endorsed.Item) error {
	var issuers endorsed.Set
	if len(e.issuers) > 0 {
		if err := issuers.Add("issuers of "+e.id.String(), e.issuers); err != nil {
			return err
		}
	}
	var chain []*x509.Certificate
	for _, i := range issuers.Items() {
		if i.Certificate != nil {
			chain = append(chain, i.Certificate)
		}
	}
	if len(items) != 1 {
		return mismatch(e.id, fmt.Sprintf("%d items", len(items)), "one")
	}
	i := items[0]
	if e.id.Kind() == KindRootCRL {
		// It comes without a chain; its root is that of the other lists.
		auth, err := k.authorities(e.id)
		if err != nil {
			return err
		}
		chain = auth.certs
	}
	if len(chain) != 2 {
		return mismatch(e.id, fmt.Sprintf("%d issuers", len(chain)), "its signer and the root")
	}
	signer, root := chain[0], chain[1]
	if bytes.Equal(signer.RawSubject, signer.RawIssuer) {
		signer, root = root, signer
	}
	if err := k.roots.Intel(root); err != nil {
		return err
	}
	if err := issued(signer, root); err != nil {
		return err
	}
	e.certs = []*x509.Certificate{signer, root}
	switch {
	case i.CRL != nil && (e.id.Kind() == KindPCKCRL || e.id.Kind() == KindRootCRL):
		by := signer
		if e.id.Kind() == KindRootCRL {
			by = root
		} else if want := map[string]string{"platform": " PCK Platform CA", "processor": " PCK Processor CA"}[e.id.part(1)]; !strings.HasSuffix(by.Subject.CommonName, want) {
			return mismatch(e.id, by.Subject.CommonName, "the"+want)
		}
		if !by.IsCA || !bytes.Equal(i.CRL.RawIssuer, by.RawSubject) || i.CRL.CheckSignatureFrom(by) != nil {
			return evidence.Refuse(evidence.CodeChain, "signature of "+e.id.String(), "one that does not verify", "one by "+by.Subject.CommonName)
		}
		return e.ofList(i)
	case i.Document != nil:
		if got := documentID(i); got != e.id.String() {
			return mismatch(e.id, got, e.id.String())
		}
		sum := sha256.Sum256(i.Document.Signed)
		key, ok := signer.PublicKey.(*ecdsa.PublicKey)
		r, s := new(big.Int).SetBytes(i.Document.Signature[:32]), new(big.Int).SetBytes(i.Document.Signature[32:])
		if !ok || signer.IsCA || !ecdsa.Verify(key, sum[:], r, s) {
			return evidence.Refuse(evidence.CodeChain, "signature of "+e.id.String(), "one that does not verify", "one by "+signer.Subject.CommonName)
		}
		if i.From.IsZero() || i.Until.IsZero() {
			return evidence.Refuse(evidence.CodeUnavailable, e.id.String(), "no dates", "an issue date and a next update")
		}
		e.from, e.until = i.From, i.Until
		e.span(signer)
		e.mark = mark{Evaluation: i.Evaluation, Issued: i.From}
		return nil
	}
	return mismatch(e.id, i.Kind, e.id.Kind())
}

// documentID is the id that one of Intel's documents says of itself; empty where it is none of use.
func documentID(i endorsed.Item) string {
	switch {
	case i.Kind == endorsed.KindTCBInfo && (i.Document.ID == "TDX" || i.Document.ID == "SGX"):
		return KindTCB + "/" + strings.ToLower(i.Document.ID) + "/" + i.Document.FMSPC
	case i.Kind == endorsed.KindQEIdentity && i.Document.ID == "TD_QE":
		return KindQE + "/tdx"
	case i.Kind == endorsed.KindQEIdentity && i.Document.ID == "QE":
		return KindQE + "/sgx"
	}
	return ""
}

// issued checks one link of Intel's chains, and the root's own signature.
func issued(signer, root *x509.Certificate) error {
	for _, c := range []*x509.Certificate{signer, root} {
		if !bytes.Equal(c.RawIssuer, root.RawSubject) || !root.IsCA || root.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			return evidence.Refuse(evidence.CodeChain, "issuer of "+c.Subject.CommonName, c.Issuer.CommonName, "the pinned root, by a signature that verifies")
		}
	}
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
