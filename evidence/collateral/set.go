package collateral

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"cloister.dev/cloister/evidence"
)

// Bounds of a Set, so that neither one file nor a folder of them takes more memory than endorsements can be worth.
const (
	MaxFile  = 4 << 20  // bytes of one file
	MaxTotal = 64 << 20 // bytes of all files
	MaxItems = 8192     // certificates, lists and documents together
	MaxLists = 256      // revocation lists
)

// Kinds of items.
const (
	KindCertificate = "certificate"
	KindCRL         = "crl"
	KindTCBInfo     = "tcb-info"
	KindQEIdentity  = "qe-identity"
	KindEvaluations = "tcb-evaluation-numbers" // known, and of no use to a verdict
)

// Item is one thing in a set.
type Item struct {
	File       string    // the name it was added under
	Kind       string    // one of the kinds
	About      string    // what it is about, for people: subject, issuer, or id and FMSPC
	From       time.Time // not before, this update, issue date
	Until      time.Time // not after, next update; zero where it says none
	Evaluation uint32    // Intel's documents: TCB evaluation data number
	Number     *big.Int  // lists: CRL number, nil where it has none
	Raw        []byte    // certificates and lists: DER; documents: the JSON as served, {"tcbInfo": …, "signature": …}

	Certificate *x509.Certificate    // certificates only
	CRL         *x509.RevocationList // lists only
	Document    *Document            // Intel's documents only
}

// Set is a collection of endorsements. The zero value is empty and ready. It is not for use by several goroutines while
// something is added.
type Set struct {
	items []Item
	seen  map[[32]byte]bool
	total int // bytes
	lists int
}

// Items are all things in the set, in the order in which they came, each once. The caller changes none of them.
func (s *Set) Items() []Item { return s.items }

// Add recognises a file by its content and takes all that is in it, or nothing and refuses. The name is for messages.
//
// Known are certificates and revocation lists in PEM (any number, mixed), in DER (certificates one after another), as hex
// digits or base64; Intel's TCB info and enclave identities as served, with a signature; what Azure's THIM answers; and
// the JSON objects that quoting libraries pass around, which hold several of these as texts.
func (s *Set) Add(name string, raw []byte) error {
	if len(raw) > MaxFile || s.total+len(raw) > MaxTotal {
		return refuse(name, fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d bytes, and %d in all", MaxFile, MaxTotal))
	}
	r := reader{file: name}
	if err := r.read(raw, 0); err != nil {
		return err
	}
	if len(r.items) == 0 {
		return refuse(name, "nothing that is known", known)
	}
	if len(s.items)+len(r.items) > MaxItems {
		return refuse(name, fmt.Sprintf("%d more to %d", len(r.items), len(s.items)), fmt.Sprintf("at most %d certificates, lists and documents", MaxItems))
	}
	lists := 0
	for _, i := range r.items {
		if i.CRL != nil {
			lists++
		}
	}
	if s.lists+lists > MaxLists {
		return refuse(name, fmt.Sprintf("%d more revocation lists to %d", lists, s.lists), fmt.Sprintf("at most %d", MaxLists))
	}
	if s.seen == nil {
		s.seen = map[[32]byte]bool{}
	}
	s.total += len(raw)
	for _, i := range r.items {
		if sum := sha256.Sum256(i.Raw); !s.seen[sum] {
			s.seen[sum] = true
			s.items = append(s.items, i)
			if i.CRL != nil {
				s.lists++
			}
		}
	}
	return nil
}

const known = "certificates, revocation lists, Intel's TCB info or identities, or JSON that holds them"

func refuse(name, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, name, got, want)
}

func unavailable(field, got, want string) error {
	return evidence.Refuse(evidence.CodeUnavailable, field, got, want)
}

// named gives the certificates of a subject, in the order in which they came.
func (s *Set) named(rawSubject []byte) (out []*x509.Certificate) {
	for _, i := range s.items {
		if i.Certificate != nil && bytes.Equal(i.Certificate.RawSubject, rawSubject) {
			out = append(out, i.Certificate)
		}
	}
	return out
}

// maxTries bounds signature checks in one search for an issuer: sets can be filled with certificates of one name.
const maxTries = 16

// issuers gives the certificates that issued another: those whose key made its signature; where none did, all that have
// the issuer's name, so that a check can say what is wrong.
func (s *Set) issuers(c *x509.Certificate) []*x509.Certificate {
	all := s.named(c.RawIssuer)
	var good []*x509.Certificate
	for n, p := range all {
		if n < maxTries && p.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			good = append(good, p)
		}
	}
	if len(good) > 0 {
		return good
	}
	return all
}
