package hsm

import (
	"crypto/rsa"
	"math/big"
)

// rawRSA decrypts without taking padding off, as a token does by CKM_RSA_X_509.
func rawRSA(key *rsa.PrivateKey, c []byte) []byte {
	m := new(big.Int).Exp(new(big.Int).SetBytes(c), key.D, key.N)
	return m.FillBytes(make([]byte, key.Size()))
}
