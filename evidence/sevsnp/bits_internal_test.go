package sevsnp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

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
	flipEveryBit(t, v, r)
}

// TestSNP33EveryBitOfARealReport does the same with reports that AMD's hardware signed, under their real chains.
func TestSNP33EveryBitOfARealReport(t *testing.T) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			t.Skipf("SKIPPED, NOT TESTED: vector %s is missing; set CLOISTER_VECTORS", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	cert := func(raw []byte) *x509.Certificate {
		if block, _ := pem.Decode(raw); block != nil {
			raw = block.Bytes
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	raw := read("launch/snp-real-milan/report.bin")
	_, ark := pem.Decode(read("amd-roots/ask_ark_milan.pem"))
	c := Chain{Leaf: cert(read("launch/snp-real-milan/vcek.pem")), Intermediate: cert(read("launch/snp-real-milan/ask.pem")), Root: cert(ark)}
	v, err := verifyChain(c, SignedByVCEK, amd, Options{At: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.authenticate(r); err != nil {
		t.Fatal("positive twin:", err)
	}
	flipEveryBit(t, v, r)
	for i := range 144 { // and each byte of the signature
		bad := *r
		bad.Signature[i] ^= 1
		if _, err := v.authenticate(&bad); err == nil {
			t.Errorf("SNP-33 byte %d of the signature does not count", i)
		}
	}
}

func flipEveryBit(t *testing.T, v *verified, r *Report) {
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
