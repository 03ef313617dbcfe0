package sevsnptest

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
	"cloister.dev/cloister/evidence/sevsnp"
)

// Checks are sevsnp.CheckAuthorities and sevsnp.CheckChain with the roots of these vendors pinned in place of AMD's.
func Checks(t testing.TB, vendors ...*Vendor) (
	func(sevsnp.Product, sevsnp.SigningKey, *x509.Certificate, *x509.Certificate, sevsnp.Options) error,
	func(sevsnp.Chain, sevsnp.SigningKey, sevsnp.Options) error,
) {
	t.Helper()
	a := anchor.Anchor{Kind: evidence.RootAMD, Lines: map[string]anchor.Line{}}
	for _, v := range vendors {
		p := string(v.Product)
		a.Lines[p] = anchor.Line{RootSPKI: [][32]byte{sha256.Sum256(v.ARK.RawSubjectPublicKeyInfo)}, RootName: "ARK-" + p, ASKName: "SEV-" + p, ASVKName: "SEV-VLEK-" + p}
	}
	return func(p sevsnp.Product, key sevsnp.SigningKey, intermediate, root *x509.Certificate, o sevsnp.Options) error {
			return sevsnp.CheckAuthoritiesUnder(p, key, intermediate, root, a, o)
		}, func(c sevsnp.Chain, key sevsnp.SigningKey, o sevsnp.Options) error {
			return sevsnp.CheckChainUnder(c, key, a, o)
		}
}
