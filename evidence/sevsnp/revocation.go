package sevsnp

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"time"

	"cloister.dev/cloister/evidence"
)

// checkRevocation looks the chain up in AMD's revocation lists.
//
// Rules. Lists are signed by the root (ARK), never by the ASK. No list: revocation was not consulted, which
// is an answer of its own (Authentic.RevocationChecked) and refused where o.RequireCRL says so. Lists of
// other roots are passed over, but where lists were given and none is of this root, nothing was consulted, and
// that is "unavailable". A list that is stale, from the future or without an end is "unavailable".
// Serial number 0, which all VCEKs and VLEKs share, is never looked up.
func checkRevocation(c Chain, o Options) (bool, error) {
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
		for _, e := range list.Extensions {
			if e.Critical {
				return false, evidence.Refuse(evidence.CodeUnsupported, "revocation list", "critical extension "+e.Id.String(), "none")
			}
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
		for _, entry := range list.RevokedCertificateEntries {
			for _, cert := range []*x509.Certificate{c.Root, c.Intermediate, c.Leaf} {
				if cert.SerialNumber.Sign() != 0 && sameNumber(entry.SerialNumber, cert.SerialNumber) {
					return false, evidence.Refuse(evidence.CodeRevoked, cert.Subject.CommonName, "serial number "+cert.SerialNumber.Text(16)+" is revoked", "not revoked")
				}
			}
		}
		found = true
	}
	if !found {
		return unavailable("only lists of other roots", "one of "+c.Root.Subject.CommonName)
	}
	return true, nil
}

func sameNumber(a, b *big.Int) bool { return a != nil && b != nil && a.Cmp(b) == 0 }
