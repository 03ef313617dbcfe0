package sevsnp

import (
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Product is a line of processors that shares one root key and one TCB layout.
type Product string

// The products. Bergamo and Siena (Zen 4c) belong to Genoa.
const (
	Milan Product = "Milan"
	Genoa Product = "Genoa"
	Turin Product = "Turin"
)

// CPUID is the combined family, the combined model and the stepping, as reports of version 3 and later
// carry them. Reports of version 2 carry zeros.
type CPUID struct{ Family, Model, Stepping uint8 }

func (c CPUID) String() string {
	return fmt.Sprintf("family 0x%02x model 0x%02x stepping %d", c.Family, c.Model, c.Stepping)
}

// Product names the line that a processor belongs to.
func (c CPUID) Product() (Product, error) {
	switch {
	case c.Family == 0x19 && c.Model <= 0x0f:
		return Milan, nil
	case c.Family == 0x19 && (c.Model >= 0x10 && c.Model <= 0x1f || c.Model >= 0xa0 && c.Model <= 0xaf):
		return Genoa, nil
	case c.Family == 0x1a && c.Model <= 0x11:
		return Turin, nil
	}
	return "", evidence.Refuse(evidence.CodeUnsupported, "CPUID", c.String(), "a processor of the Milan, Genoa or Turin line")
}
