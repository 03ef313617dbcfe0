package release

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/internal/pemkey"
)

// signerLifetime is how long the certificates of the response key are good. VMs pin the key, not the
// certificates, so that renewing them changes nothing for VMs.
const signerLifetime = 10 * 365 * 24 * time.Hour

// Signer signs answers. Its chain (leaf first) goes into the header for clients that want certificates.
type Signer struct {
	key    ResponseKey
	chain  [][]byte
	signer jose.Signer
}

// ResponseKey is a key that stays in its backend: Sign makes an RS256 signature over a SHA-256 digest.
type ResponseKey struct {
	Public *rsa.PublicKey
	Sign   func(digest []byte) ([]byte, error)
}

// opaque is a ResponseKey as the JOSE library wants it.
type opaque struct {
	ResponseKey
	kid string
}

func (o opaque) Public() *jose.JSONWebKey {
	return &jose.JSONWebKey{Key: o.ResponseKey.Public, KeyID: o.kid, Algorithm: string(jose.RS256), Use: "sig"}
}

func (o opaque) Algs() []jose.SignatureAlgorithm { return []jose.SignatureAlgorithm{jose.RS256} }

func (o opaque) SignPayload(payload []byte, _ jose.SignatureAlgorithm) ([]byte, error) {
	digest := sha256.Sum256(payload)
	return o.Sign(digest[:])
}

// NewSignerChain makes certificates for a response key: root, intermediate and leaf. The keys of the root and the
// intermediate are forgotten at once; nothing else can ever be signed with them.
func NewSignerChain(pub *rsa.PublicKey, name string, at time.Time) ([][]byte, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root key: %w", err)
	}
	midKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the intermediate key: %w", err)
	}
	template := func(cn string, ca bool) (*x509.Certificate, error) {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return nil, err
		}
		c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, NotBefore: at.Add(-time.Hour), NotAfter: at.Add(signerLifetime),
			BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		return c, nil
	}
	root, err := template("Cloister key release root", true)
	if err != nil {
		return nil, err
	}
	mid, err := template("Cloister key release issuer", true)
	if err != nil {
		return nil, err
	}
	leaf, err := template(name, false)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	for _, c := range []struct {
		cert, parent *x509.Certificate
		pub          any
		by           *ecdsa.PrivateKey
	}{{leaf, mid, pub, midKey}, {mid, root, &midKey.PublicKey, rootKey}, {root, root, &rootKey.PublicKey, rootKey}} {
		der, err := x509.CreateCertificate(rand.Reader, c.cert, c.parent, c.pub, c.by)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", c.cert.Subject.CommonName, err)
		}
		chain = append(chain, der)
	}
	return chain, nil
}

// NewSigner signs with a key whose chain was made before.
func NewSigner(key ResponseKey, chain [][]byte) (*Signer, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("response key: no certificate")
	}
	t1, t256 := sha1.Sum(chain[0]), sha256.Sum256(chain[0])
	x5c := make([]string, len(chain))
	for i, der := range chain {
		x5c[i] = base64.StdEncoding.EncodeToString(der)
	}
	opts := (&jose.SignerOptions{}).WithType("JWT").
		WithHeader("x5c", x5c).
		WithHeader("x5t", base64.RawURLEncoding.EncodeToString(t1[:])).
		WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(t256[:]))
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: opaque{key, hex.EncodeToString(t1[:])}}, opts)
	if err != nil {
		return nil, fmt.Errorf("response key: %w", err)
	}
	return &Signer{key: key, chain: chain, signer: s}, nil
}

// Sign makes a compact JWS over the JSON of v.
func (s *Signer) Sign(v any) (string, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("writing an answer: %w", err)
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing an answer: %w", err)
	}
	return jws.CompactSerialize()
}

// Public is the response key as init data pin it. Its kid is the SHA-1 thumbprint of the leaf, in hex, as in the header.
func (s *Signer) Public() (initdata.SigningKey, error) {
	text, err := pemkey.MarshalPublic(s.key.Public)
	if err != nil {
		return initdata.SigningKey{}, err
	}
	t1 := sha1.Sum(s.chain[0])
	return initdata.SigningKey{KID: hex.EncodeToString(t1[:]), PEM: string(text)}, nil
}

// CertificatesPEM is the chain, leaf first.
func (s *Signer) CertificatesPEM() []byte {
	var out []byte
	for _, der := range s.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}
