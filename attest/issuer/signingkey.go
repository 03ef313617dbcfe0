package issuer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/internal/pemkey"
)

// certLife is how long the self-signed certificate holds. It carries a key, nothing more: relying
// parties pin the key.
const certLife = 10 * 365 * 24 * time.Hour

// signingKey is one key with what is published of it.
type signingKey struct {
	record
	key    *rsa.PrivateKey
	kid    string
	cert   []byte // DER
	signer jose.Signer
}

func newSigningKey(key *rsa.PrivateKey, url string, r record, now time.Time) (*signingKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	k := &signingKey{record: r, key: key, kid: base64.RawURLEncoding.EncodeToString(sum[:])}
	if k.cert, err = selfSign(key, url, sum, now); err != nil {
		return nil, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("jku", url+"/certs")
	k.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: k.kid}}, options)
	return k, err
}

// selfSign makes the certificate of /certs anew at each start. It is the same from start to start but
// for its dates, and nobody should pin it.
func selfSign(key *rsa.PrivateKey, url string, id [32]byte, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(id[:8]), Subject: pkix.Name{CommonName: url},
		NotBefore: now.Add(-time.Hour).Truncate(24 * time.Hour), NotAfter: now.Add(certLife).Truncate(24 * time.Hour),
		SignatureAlgorithm: x509.SHA256WithRSA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	return x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
}

func (k *signingKey) pin() (initdata.SigningKey, error) {
	text, err := pemkey.MarshalPublic(&k.key.PublicKey)
	if err != nil {
		return initdata.SigningKey{}, err
	}
	return initdata.SigningKey{KID: k.kid, PEM: string(text)}, nil
}
