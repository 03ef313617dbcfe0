package collateral

import (
	"context"
	"crypto/x509"
	"errors"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
)

// SNP gives the certificates of a report's chip and the current revocation list of its root. The report need not be
// authentic yet: a chip id that AMD does not know is "unavailable".
func (c *Cache) SNP(ctx context.Context, r *sevsnp.Report) (sevsnp.Chain, []*x509.RevocationList, error) {
	if r == nil {
		return sevsnp.Chain{}, nil, evidence.Refuse(evidence.CodeParse, "SNP report", "none", "a parsed report")
	}
	product, err := r.Product()
	if err != nil {
		return sevsnp.Chain{}, nil, err
	}
	products := []sevsnp.Product{product}
	if product == "" { // version 2 does not tell; Turin has later versions only
		products = []sevsnp.Product{sevsnp.Milan, sevsnp.Genoa}
	}
	var last error
	for _, p := range products {
		chain, lists, err := c.snp(ctx, p, r)
		if err == nil {
			return chain, lists, nil
		}
		if last == nil || errors.Is(last, errMissing) {
			last = err
		}
		if !errors.Is(err, errMissing) {
			break
		}
	}
	return sevsnp.Chain{}, nil, last
}

func (c *Cache) snp(ctx context.Context, p sevsnp.Product, r *sevsnp.Report) (sevsnp.Chain, []*x509.RevocationList, error) {
	fail := func(err error) (sevsnp.Chain, []*x509.RevocationList, error) { return sevsnp.Chain{}, nil, err }
	id, err := Leaf(p, r)
	if err != nil {
		return fail(err)
	}
	authorities, crl, err := ForProduct(p, r.KeyInfo.SigningKey)
	if err != nil {
		return fail(err)
	}
	auth, err := c.get(ctx, authorities)
	if err != nil {
		return fail(err)
	}
	leaf, err := c.get(ctx, id)
	if err != nil {
		return fail(err)
	}
	list, err := c.get(ctx, crl)
	if err != nil {
		return fail(err)
	}
	return sevsnp.Chain{Leaf: leaf.certs[0], Intermediate: auth.certs[0], Root: auth.certs[1]}, []*x509.RevocationList{list.list}, nil
}

// Leaf names the VCEK or VLEK of a report.
func Leaf(p sevsnp.Product, r *sevsnp.Report) (ID, error) {
	switch r.KeyInfo.SigningKey {
	case sevsnp.SignedByVCEK:
		if r.ChipID == [64]byte{} {
			return ID{}, evidence.Refuse(evidence.CodeUnavailable, "chip id of the SNP report", "masked", "the id of the chip, or its VCEK with the evidence")
		}
		return VCEK(p, r.ChipID, r.ReportedTCB)
	case sevsnp.SignedByVLEK:
		return VLEK(p, r.ReportedTCB)
	}
	return ID{}, evidence.Refuse(evidence.CodeUnsupported, "signing key of the SNP report", r.KeyInfo.SigningKey.String(), "VCEK or VLEK")
}
