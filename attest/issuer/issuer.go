// Package issuer signs the tokens of one issuer URL.
//
// Each root of trust and each tenant's instance has an issuer of its own, with its own URL and keys, so that nobody
// who believes the hardware issuer can be shown a token about software evidence. Keys follow each other by a
// schedule: see Rotation.
package issuer

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cloister.dev/cloister/evidence/initdata"
)

// Life of an attestation token and of a token that answers a policy call, as Azure's service has them.
const (
	TokenLife  = 28800 * time.Second
	PolicyLife = 3600 * time.Second
)

// MaxLife is the longest life that a policy may give a token.
const MaxLife = 365 * 24 * time.Hour

// Issuer signs with the key whose turn it is.
type Issuer struct {
	url      string
	rotation Rotation
	dir      string // of the key files; empty: nothing is kept
	name     string

	advancing sync.Mutex // one Advance at a time

	mu   sync.RWMutex
	keys []*signingKey // by number; never empty
}

// Open reads the signing keys called name from a folder, or makes the first ones, and brings the schedule up to
// now. Key files have mode 0600, and one that others may read is refused. The URL is the issuer's name in tokens,
// without a final slash.
func Open(dir, name, url string, r Rotation, now time.Time) (*Issuer, error) {
	i := &Issuer{url: strings.TrimSuffix(url, "/"), rotation: r, dir: dir, name: name}
	if err := i.load(now); err != nil {
		return nil, fmt.Errorf("signing keys of %s: %w", name, err)
	}
	if _, err := i.Advance(now); err != nil {
		return nil, fmt.Errorf("signing keys of %s: %w", name, err)
	}
	return i, nil
}

// New makes an issuer of one key that it keeps nowhere and never changes.
func New(key *rsa.PrivateKey, url string, now time.Time) (*Issuer, error) {
	i := &Issuer{url: strings.TrimSuffix(url, "/")}
	k, err := newSigningKey(key, i.url, record{Number: 1, From: now}, now)
	i.keys = []*signingKey{k}
	return i, err
}

// URL is the issuer's name in tokens.
func (i *Issuer) URL() string { return i.url }

// SigningKeys are what relying parties pin: the key that signs at a time, and those that follow it. A pin holds as
// long as its last key does.
func (i *Issuer) SigningKeys(at time.Time) ([]initdata.SigningKey, error) {
	return pinned(i.published(at, false))
}

// PublishedKeys are all keys by which a token that has not expired may be signed, now or later: SigningKeys, then
// those whose turn is over.
func (i *Issuer) PublishedKeys(at time.Time) ([]initdata.SigningKey, error) {
	return pinned(i.published(at, true))
}

func pinned(keys []*signingKey) ([]initdata.SigningKey, error) {
	var out []initdata.SigningKey
	for _, k := range keys {
		p, err := k.pin()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// published lists keys: the one in use first.
func (i *Issuer) published(at time.Time, old bool) []*signingKey {
	i.mu.RLock()
	defer i.mu.RUnlock()
	now := i.turn(at)
	out := append([]*signingKey{}, i.keys[now:]...)
	if old {
		out = append(out, i.keys[:now]...)
	}
	return out
}

// Stamp adds issuer and times to claims. A life of zero or less, or above MaxLife, is an error.
func (i *Issuer) Stamp(claims map[string]any, now time.Time, life time.Duration) error {
	if life <= 0 || life > MaxLife {
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

// Sign makes a compact JWS of stamped claims, as compact JSON with members in alphabetical order. The key is the
// one whose turn it is at the claims' iat. That it must stay published until the claims' exp is written down first.
func (i *Issuer) Sign(claims map[string]any) (string, error) {
	iat, stamped := claims["iat"].(int64)
	exp, ends := claims["exp"].(int64)
	if !stamped || !ends {
		return "", errors.New("claims without issue time and expiry")
	}
	payload, err := compactJSON(claims)
	if err != nil {
		return "", err
	}
	k, err := i.keyFor(time.Unix(iat, 0), time.Unix(exp, 0))
	if err != nil {
		return "", err
	}
	jws, err := k.signer.Sign(payload)
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

func (i *Issuer) schedulePath() string { return filepath.Join(i.dir, i.name+".keys.json") }

// keyPath is where a key lies. The first has no number: it is older than the schedule.
func (i *Issuer) keyPath(number int) string {
	if number == 1 {
		return filepath.Join(i.dir, i.name+".key.pem")
	}
	return filepath.Join(i.dir, fmt.Sprintf("%s.key-%d.pem", i.name, number))
}
