package sevsnp

import (
	"encoding/hex"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// amd pins AMD's root keys (ARK), one per product: SHA-256 of the SubjectPublicKeyInfo, computed from the
// certificates that AMD's key distribution service gives out.
var amd = anchor.Anchor{Kind: evidence.RootAMD, Lines: map[string]anchor.Line{
	string(Milan): amdLine(Milan, "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
	string(Genoa): amdLine(Genoa, "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
	string(Turin): amdLine(Turin, "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
}}

func amdLine(p Product, spki string) anchor.Line {
	b, err := hex.DecodeString(spki)
	if err != nil || len(b) != 32 {
		panic("a pinned root is not a SHA-256 digest")
	}
	return anchor.Line{RootSPKI: [][32]byte{[32]byte(b)}, RootName: "ARK-" + string(p), ASKName: "SEV-" + string(p), ASVKName: "SEV-VLEK-" + string(p)}
}
