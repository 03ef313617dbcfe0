package sevsnp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"sync"
	"testing"

	"cloister.dev/cloister/evidence"
)

// TestSNP33EveryBitIsSigned flips every bit of the signed region (every 37th in short runs). The chain is not
// followed again for each: the certificate stays the same.
func TestSNP33EveryBitIsSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Version: 3, Policy: 0x30000, SignatureAlgo: 1, CPUID: CPUID{0x19, 1, 1}}
	sum := sha512.Sum384(r.SignedBytes())
	rr, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = EncodeSignature(rr, s)
	v := &verified{key: &key.PublicKey, leaf: leafClaims{product: Milan, hwid: make([]byte, 64)}, root: evidence.RootAMD, product: Milan}
	if _, err := v.authenticate(r); err != nil {
		t.Fatal("positive twin:", err)
	}
	stride := 1
	if testing.Short() {
		stride = 37
	}
	raw := r.Marshal()
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			b := append([]byte(nil), raw...)
			for bit := part * stride; bit < SignedSize*8; bit += 2 * stride {
				b[bit/8] ^= 1 << (bit % 8)
				if p, err := Parse(b); err == nil {
					if _, err := v.authenticate(p); err == nil {
						t.Errorf("bit %d of byte 0x%x is not signed", bit%8, bit/8)
					}
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		})
	}
	wg.Wait()
}
