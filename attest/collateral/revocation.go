package collateral

import (
	"context"
	"crypto/x509"

	"cloister.dev/cloister/evidence/sevsnp"
)

// RevocationList gives the current revocation list of a product's root, for evidence that brings its chain along.
func (c *Cache) RevocationList(ctx context.Context, p sevsnp.Product, key sevsnp.SigningKey) (*x509.RevocationList, error) {
	_, id, err := ForProduct(p, key)
	if err != nil {
		return nil, err
	}
	e, err := c.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.list, nil
}
