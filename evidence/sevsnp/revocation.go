package sevsnp

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
)

// checkRevocation looks the chain up in AMD's revocation lists.
//
// Rules. Lists are signed by the root (ARK), never by the ASK. No list: revocation was not consulted, which is an answer of
// its own (Authentic.RevocationChecked) and refused where o.RequireCRL says so. What any list of this root revokes is
// revoked, be the list stale. AMD gives out one list for VCEKs and one for VLEKs, both of one root: a list that names where
// it is given out counts as consulted only for the kind of key that this is for. Lists of other roots are passed over, but
// where lists were given and none counts, nothing was consulted, and that is "unavailable", as is a list that is stale,
// from the future or without an end.
// Serial number 0, which all VCEKs and VLEKs share, is never looked up.
func checkRevocation(c Chain, kind SigningKey, product Product, o Options) (bool, error) {
	unavailable := func(got, want string) (bool, error) {
		return false, evidence.Refuse(evidence.CodeUnavailable, "revocation list", got, want)
	}
	if len(o.CRLs) == 0 {
		if o.RequireCRL {
			return unavailable("none", "one of "+c.Root.Subject.CommonName)
		}
		return false, nil
	}
	found := false
	for _, list := range o.CRLs {
		if list == nil || !bytes.Equal(list.RawIssuer, c.Root.RawSubject) {
			continue
		}
		if list.SignatureAlgorithm != x509.SHA384WithRSAPSS {
			return false, refuseChain("signature of the revocation list", list.SignatureAlgorithm.String(), x509.SHA384WithRSAPSS.String())
		}
		if err := c.Root.CheckSignature(list.SignatureAlgorithm, list.RawTBSRevocationList, list.Signature); err != nil {
			return false, refuseChain("signature of the revocation list", err.Error(), "one by "+c.Root.Subject.CommonName)
		}
		points, err := scope(list)
		if err != nil {
			return false, err
		}
		for _, entry := range list.RevokedCertificateEntries {
			for _, cert := range []*x509.Certificate{c.Root, c.Intermediate, c.Leaf} {
				if cert.SerialNumber.Sign() != 0 && sameNumber(entry.SerialNumber, cert.SerialNumber) {
					return false, evidence.Refuse(evidence.CodeRevoked, cert.Subject.CommonName, "serial number "+cert.SerialNumber.Text(16)+" is revoked", "not revoked")
				}
			}
		}
		if len(points) > 0 && !slices.ContainsFunc(points, func(p string) bool { return strings.HasSuffix(p, listPath(kind, product)) }) {
			continue
		}
		at := o.At.UTC()
		switch {
		case list.NextUpdate.IsZero():
			return unavailable("no next update", "a list with an end")
		case at.Before(list.ThisUpdate):
			return unavailable("from "+list.ThisUpdate.UTC().Format(time.RFC3339), "not after "+at.Format(time.RFC3339))
		case !at.Before(list.NextUpdate):
			return unavailable("stale since "+list.NextUpdate.UTC().Format(time.RFC3339), "after "+at.Format(time.RFC3339))
		}
		found = true
	}
	if !found {
		return unavailable("only lists of other roots, or of the other kind of key", "one of "+c.Root.Subject.CommonName+" for certificates of "+c.Intermediate.Subject.CommonName)
	}
	return true, nil
}

// listPath is the path at which AMD gives out the list for a kind of key: VCEK and VLEK interface specification, "Get CRL".
func listPath(kind SigningKey, product Product) string {
	return "/" + strings.ToLower(kind.String()) + "/v1/" + string(product) + "/crl"
}

// oidIssuingDistributionPoint is that of RFC 5280, section 5.2.5, which makes the extension critical.
var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// issuingDistributionPoint is the extension's value. What is absent is false or empty.
type issuingDistributionPoint struct {
	Point          distributionPointName `asn1:"optional,tag:0"`
	OnlyUsers      bool                  `asn1:"optional,tag:1"`
	OnlyCAs        bool                  `asn1:"optional,tag:2"`
	OnlyReasons    asn1.BitString        `asn1:"optional,tag:3"`
	Indirect       bool                  `asn1:"optional,tag:4"`
	OnlyAttributes bool                  `asn1:"optional,tag:5"`
}

type distributionPointName struct {
	FullName []asn1.RawValue `asn1:"optional,tag:0"`
	Relative asn1.RawValue   `asn1:"optional,tag:1"`
}

// generalNameURI is the tag of a URI in a GeneralName (RFC 5280, section 4.2.1.6).
const generalNameURI = 6

// scope gives the addresses that a list names as those it is given out at; none is usual. A list of some certificates or
// some reasons only is refused: a chain that is not on it may still be revoked. Other critical extensions are refused.
func scope(list *x509.RevocationList) ([]string, error) {
	var points []string
	for _, e := range list.Extensions {
		if !e.Id.Equal(oidIssuingDistributionPoint) {
			if e.Critical {
				return nil, evidence.Refuse(evidence.CodeUnsupported, "revocation list", "critical extension "+e.Id.String(), "none that is not known")
			}
			continue
		}
		var p issuingDistributionPoint
		if rest, err := asn1.Unmarshal(e.Value, &p); err != nil || len(rest) > 0 {
			return nil, evidence.Refuse(evidence.CodeParse, "revocation list", "an issuing distribution point that can't be read", "one of RFC 5280")
		}
		if p.OnlyUsers || p.OnlyCAs || p.Indirect || p.OnlyAttributes || p.OnlyReasons.BitLength > 0 {
			return nil, evidence.Refuse(evidence.CodeUnsupported, "revocation list", "a list of a part of the certificates or reasons", "a list of all")
		}
		for _, name := range p.Point.FullName {
			if name.Class == asn1.ClassContextSpecific && name.Tag == generalNameURI {
				points = append(points, string(name.Bytes))
			}
		}
	}
	return points, nil
}

func sameNumber(a, b *big.Int) bool { return a != nil && b != nil && a.Cmp(b) == 0 }
