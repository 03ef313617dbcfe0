package dcap

import (
	"encoding/hex"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// intel pins the key of Intel's SGX Root CA, which is also that of TDX: SHA-256 of the SubjectPublicKeyInfo, computed from
// the certificate that Intel gives out. Its quoting enclaves are named by Intel's enclave identities: the one of SGX,
// and the one of TDX.
//
// The quoting enclave is pinned because the provisioning certification enclave certifies the keys of whichever enclave
// the platform's owner lets launch: without collateral, a chain that ends at Intel's root does not yet say that Intel's
// quoting enclave made the quote.
var intel = anchor.DCAP{Kind: evidence.RootIntel, Prefix: "Intel SGX",
	RootSPKI: [][32]byte{digest("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")},
	QEs: []anchor.QE{
		{MRSigner: digest("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"), ISVProdID: 1},
		{MRSigner: digest("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"), ISVProdID: 2},
	},
}

func digest(s string) [32]byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		panic("a pinned value is not a SHA-256 digest")
	}
	return [32]byte(b)
}
