package collateral

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"cloister.dev/cloister/evidence/sevsnp"
)

// SNPChain picks the certificates of a report: the VCEK of its chip and TCB, or the VLEK of its TCB, then the ASK or ASVK
// that issued it, then the ARK. Their order in the files says nothing. Of several certificates of a name, those whose
// signatures hold go before others, and a pinned root before another.
//
// Where there is one leaf only of the kind that the report needs, it is that one, also when it is about another chip:
// package sevsnp then says so, which helps more than to call it missing. What is missing is "unavailable".
func (s *Set) SNPChain(r *sevsnp.Report) (sevsnp.Chain, error) {
	if r == nil {
		return sevsnp.Chain{}, refuse("SNP report", "none", "a parsed report")
	}
	leaves, err := s.leavesFor(r)
	if err != nil {
		return sevsnp.Chain{}, err
	}
	var best sevsnp.Chain
	var missing error
	for _, leaf := range leaves {
		c, err := s.complete(leaf)
		switch {
		case err != nil && missing == nil:
			missing = err
		case err == nil && (best.Leaf == nil || !sevsnp.IsPinned(best.Root) && sevsnp.IsPinned(c.Root)):
			best = c
		}
	}
	if best.Leaf == nil {
		return sevsnp.Chain{}, missing
	}
	return best, nil
}

func (s *Set) leavesFor(r *sevsnp.Report) ([]*x509.Certificate, error) {
	var fit, kind []*x509.Certificate
	for _, i := range s.items {
		if i.Certificate == nil || i.Certificate.IsCA {
			continue
		}
		leaf, err := sevsnp.ReadLeaf(i.Certificate)
		if err != nil || leaf.Kind != r.KeyInfo.SigningKey {
			continue // another vendor's certificate, or of no use here
		}
		kind = append(kind, i.Certificate)
		if leaf.Endorses(r) && len(fit) < maxTries {
			fit = append(fit, i.Certificate)
		}
	}
	if len(fit) > 0 {
		return fit, nil
	}
	if len(kind) == 1 {
		return kind, nil
	}
	got := "none"
	if len(kind) > 0 {
		got = fmt.Sprintf("%d of other chips or TCBs", len(kind))
	}
	return nil, unavailable(r.KeyInfo.SigningKey.String()+" certificate", got, "the one for "+wanted(r))
}

// wanted says which leaf a report needs.
func wanted(r *sevsnp.Report) string {
	if r.KeyInfo.SigningKey == sevsnp.SignedByVLEK {
		return "TCB " + r.ReportedTCB.String()
	}
	id := strings.TrimRight(hex.EncodeToString(r.ChipID[:]), "0")
	return fmt.Sprintf("chip %.16s… at TCB %s", id+"0000000000000000", r.ReportedTCB.String())
}

// complete adds the issuers of a leaf.
func (s *Set) complete(leaf *x509.Certificate) (sevsnp.Chain, error) {
	intermediates := s.issuers(leaf)
	if len(intermediates) == 0 {
		return sevsnp.Chain{}, unavailable("certificate chain", "no "+leaf.Issuer.CommonName, leaf.Issuer.CommonName+", which issued the "+leaf.Subject.CommonName+", and its root")
	}
	var first sevsnp.Chain
	for _, m := range intermediates {
		for _, root := range s.issuers(m) {
			c := sevsnp.Chain{Leaf: leaf, Intermediate: m, Root: root}
			if sevsnp.IsPinned(root) {
				return c, nil
			}
			if first.Leaf == nil {
				first = c
			}
		}
	}
	if first.Leaf == nil {
		issuer := intermediates[0].Issuer.CommonName
		return sevsnp.Chain{}, unavailable("certificate chain", "no "+issuer, issuer+", the root of "+intermediates[0].Subject.CommonName)
	}
	return first, nil
}

// SNPCRLs gives the revocation lists that can be of AMD's roots, or of a root in their form: all but those signed by ECDSA
// as Intel's are, unless they have the name of an AMD root, and then package sevsnp says what is wrong with them. A list is
// left out when a newer one of the same issuer, and given out for the same certificates, revokes all that it does; so
// nothing that was revoked comes back.
func (s *Set) SNPCRLs() []*x509.RevocationList {
	var lists []*x509.RevocationList
	for _, i := range s.items {
		if i.CRL != nil && (strings.HasPrefix(i.About, "ARK-") || !ecdsaSigned(i.CRL)) {
			lists = append(lists, i.CRL)
		}
	}
	return current(lists)
}

func ecdsaSigned(l *x509.RevocationList) bool {
	switch l.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return true
	}
	return false
}

// current leaves out the lists that newer ones took the place of.
func current(lists []*x509.RevocationList) []*x509.RevocationList {
	var out []*x509.RevocationList
	for i, old := range lists {
		superseded := false
		for j, l := range lists {
			if i != j && bytes.Equal(old.RawIssuer, l.RawIssuer) && sameScope(l, old) && newer(l, old) && covers(l, old) {
				superseded = true
				break
			}
		}
		if !superseded {
			out = append(out, old)
		}
	}
	return out
}

// oidDistributionPoint is that of RFC 5280, section 5.2.5. AMD's lists for VCEKs and for VLEKs, both of one root, differ in it.
var oidDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

func sameScope(a, b *x509.RevocationList) bool {
	scope := func(l *x509.RevocationList) []byte {
		for _, e := range l.Extensions {
			if e.Id.Equal(oidDistributionPoint) {
				return e.Value
			}
		}
		return nil
	}
	return bytes.Equal(scope(a), scope(b))
}

// newer compares lists of one issuer: by number, then by date.
func newer(a, b *x509.RevocationList) bool {
	if a.Number != nil && b.Number != nil {
		if c := a.Number.Cmp(b.Number); c != 0 {
			return c > 0
		}
	}
	return a.ThisUpdate.After(b.ThisUpdate)
}

func covers(l, old *x509.RevocationList) bool {
	in := map[string]bool{}
	for _, e := range l.RevokedCertificateEntries {
		in[text(e.SerialNumber)] = true
	}
	for _, e := range old.RevokedCertificateEntries {
		if !in[text(e.SerialNumber)] {
			return false
		}
	}
	return true
}

func text(n *big.Int) string {
	if n == nil {
		return ""
	}
	return n.Text(16)
}
