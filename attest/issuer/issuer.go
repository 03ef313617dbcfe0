// Package issuer signs the tokens of one issuer URL with one key.
//
// Each root of trust has an issuer of its own, with its own URL and key, so that nobody who believes the
// hardware issuer can be shown a token about software evidence.
package issuer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/internal/failpoint"
)

// keyBits is the size of a signing key made here.
const keyBits = 3072

// minKeyBits is the smallest key that is accepted from a file.
const minKeyBits = 2048

// Life of an attestation token and of a token that answers a policy call, as Azure's service has them.
const (
	TokenLife  = 28800 * time.Second
	PolicyLife = 3600 * time.Second
)

// certLife is how long the self-signed certificate holds. It carries a key, nothing more: relying
// parties pin the key.
const certLife = 10 * 365 * 24 * time.Hour

var afterKey = failpoint.New("attest/signing-key")

// Issuer signs with one key.
type Issuer struct {
	url    string
	key    *rsa.PrivateKey
	kid    string
	cert   []byte // DER
	signer jose.Signer
}

// Open reads the signing key called name from a folder, or makes it. Key files have mode 0600, and one
// that others may read is refused. The URL is the issuer's name in tokens, without a final slash.
func Open(dir, name, url string, now time.Time) (*Issuer, error) {
	key, err := LoadOrMakeKey(filepath.Join(dir, name+".key.pem"))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", name, err)
	}
	return New(key, strings.TrimSuffix(url, "/"), now)
}

// New makes an issuer of a key.
func New(key *rsa.PrivateKey, url string, now time.Time) (*Issuer, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	i := &Issuer{url: url, key: key, kid: base64.RawURLEncoding.EncodeToString(sum[:])}
	if i.cert, err = selfSign(key, url, sum, now); err != nil {
		return nil, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("jku", url+"/certs")
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: i.kid}}, options)
	return i, err
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

// LoadOrMakeKey reads an RSA key (PKCS#8 in PEM), or makes it where the file is missing.
func LoadOrMakeKey(path string) (*rsa.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, want 0600: others could sign", path, mode)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no PEM block PRIVATE KEY", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < minKeyBits {
		return nil, fmt.Errorf("%s holds no RSA key of at least %d bits", path, minKeyBits)
	}
	return key, nil
}

func makeKey(path string) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeOnce(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, err
	}
	afterKey.Hit()
	return key, nil
}

// writeOnce writes a secret file whole and synced, or not at all. It never replaces one.
func writeOnce(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// URL is the issuer's name in tokens.
func (i *Issuer) URL() string { return i.url }

// SigningKey is what relying parties pin.
func (i *Issuer) SigningKey() (initdata.SigningKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		return initdata.SigningKey{}, err
	}
	return initdata.SigningKey{KID: i.kid, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))}, nil
}

// Stamp adds issuer and times to claims. A life of zero or less is an error.
func (i *Issuer) Stamp(claims map[string]any, now time.Time, life time.Duration) error {
	if life <= 0 {
		return fmt.Errorf("a token life of %s", life)
	}
	at := now.Unix()
	claims["iss"], claims["iat"], claims["nbf"], claims["exp"] = i.url, at, at, at+int64(life/time.Second)
	return nil
}

// NewID makes a token's jti: 64 hexadecimal digits.
func NewID() string {
	var id [32]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(id[:])
}

// Sign makes a compact JWS of claims, as compact JSON with members in alphabetical order.
func (i *Issuer) Sign(claims map[string]any) (string, error) {
	payload, err := compactJSON(claims)
	if err != nil {
		return "", err
	}
	jws, err := i.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// Unsecured makes a compact JWS without signature ("alg" "none"). Only the trial of a draft policy
// answers with one, and no relying party may accept it.
func Unsecured(claims map[string]any) (string, error) {
	payload, err := compactJSON(claims)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + enc.EncodeToString(payload) + ".", nil
}
