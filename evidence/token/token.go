// Package token reads the tokens that a verifier issues, for those who rely on them.
//
// A token counts only when one of the relying party's own pinned keys signed it. The key set that a
// token names (jku, x5u, jwk, x5c in its header) is never looked at.
package token

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/strictjson"
)

// MaxSize bounds a compact token, in bytes.
const MaxSize = 256 << 10

// minKeyBits is the smallest RSA key that may sign a token.
const minKeyBits = 2048

// maxLife is the longest time from issue to expiry. Azure's policy language allows a year.
const maxLife = 366 * 24 * time.Hour

// Authority is a verifier that a relying party believes.
type Authority struct {
	Issuer string
	Keys   map[string]*rsa.PublicKey // by kid, compared as exact text
}

// NewAuthority makes an authority from a pinned service. It refuses one without keys.
func NewAuthority(s initdata.Service) (Authority, error) {
	a := Authority{Issuer: s.URL, Keys: map[string]*rsa.PublicKey{}}
	for _, k := range s.SigningKeys {
		if _, twice := a.Keys[k.KID]; twice || k.KID == "" {
			return Authority{}, evidence.Refuse(evidence.CodeParse, "signing key "+k.KID, "a kid that is empty or comes twice", "a kid of its own for each key")
		}
		block, _ := pem.Decode([]byte(k.PEM))
		if block == nil {
			return Authority{}, evidence.Refuse(evidence.CodeParse, "signing key "+k.KID, "no PEM block", "a PEM public key")
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return Authority{}, evidence.Refuse(evidence.CodeParse, "signing key "+k.KID, err.Error(), "a PKIX public key")
		}
		rsaPub, ok := pub.(*rsa.PublicKey)
		if !ok || rsaPub.N.BitLen() < minKeyBits {
			return Authority{}, evidence.Refuse(evidence.CodeUnsupported, "signing key "+k.KID, fmt.Sprintf("%T", pub), fmt.Sprintf("RSA of at least %d bits", minKeyBits))
		}
		a.Keys[k.KID] = rsaPub
	}
	if len(a.Keys) == 0 {
		return Authority{}, evidence.Refuse(evidence.CodePolicy, "authority "+s.URL, "no pinned key", "at least one")
	}
	return a, nil
}

// Token is a token whose signature, issuer and times were checked.
type Token struct {
	Issuer    string
	ID        string
	IssuedAt  time.Time
	NotBefore time.Time
	Expires   time.Time
	Claims    map[string]any // numbers are float64, as encoding/json has them
	KeyID     string
}

// Lookup follows a dotted path into nested claims.
func (t *Token) Lookup(path string) (any, bool) {
	var cur any = t.Claims
	for _, step := range strings.Split(path, ".") {
		m, ok := cur.(map[string]any)
		if !ok {
			return nil, false
		}
		if cur, ok = m[step]; !ok {
			return nil, false
		}
	}
	return cur, true
}

// SameIssuer compares two issuers: one final slash is ignored, scheme and host have no case, nothing else is loose.
func SameIssuer(a, b string) bool { return normalIssuer(a) == normalIssuer(b) }

func normalIssuer(s string) string {
	s = strings.TrimSuffix(s, "/")
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	host, path, slash := strings.Cut(rest, "/")
	out := strings.ToLower(scheme) + "://" + strings.ToLower(host)
	if slash {
		out += "/" + path
	}
	return out
}

// Verify checks a compact token: RS256 by a pinned key of the authority that its issuer names, and a time within its window.
func Verify(compact string, authorities []Authority, at time.Time) (*Token, error) {
	return VerifyBehind(compact, authorities, at, 0)
}

// VerifyBehind is Verify for one whose clock may be behind the verifier's by up to slack, as a VM's may: a token that
// was issued that much in the future is good. Its end has no slack.
func VerifyBehind(compact string, authorities []Authority, at time.Time, slack time.Duration) (*Token, error) {
	if len(compact) == 0 || len(compact) > MaxSize {
		return nil, evidence.Refuse(evidence.CodeParse, "token", fmt.Sprintf("%d bytes", len(compact)), fmt.Sprintf("1 to %d", MaxSize))
	}
	if strings.Count(compact, ".") != 2 {
		return nil, evidence.Refuse(evidence.CodeParse, "token", "not three parts", "a compact JWS")
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeChain, "token signature", err.Error(), "a compact JWS with RS256")
	}
	kid := jws.Signatures[0].Protected.KeyID
	refusal := error(evidence.Refuse(evidence.CodeChain, "token kid", kid, "a pinned key of a configured verifier"))
	for _, a := range authorities {
		key, ok := a.Keys[kid]
		if !ok {
			continue
		}
		payload, err := jws.Verify(key)
		if err != nil {
			refusal = evidence.Refuse(evidence.CodeChain, "token signature", "not by key "+kid, "a signature by a pinned key")
			continue // another authority may use the same kid for another key
		}
		t, err := read(payload, a, kid, at, slack)
		if err == nil {
			return t, nil
		}
		refusal = err
	}
	return nil, refusal
}

func read(payload []byte, a Authority, kid string, at time.Time, slack time.Duration) (*Token, error) {
	claims, err := strictjson.Object("token claims", payload)
	if err != nil {
		return nil, err
	}
	t := &Token{Claims: claims, KeyID: kid}
	t.Issuer, _ = claims["iss"].(string)
	if t.Issuer == "" || !SameIssuer(t.Issuer, a.Issuer) {
		return nil, evidence.Refuse(evidence.CodeBinding, "token iss", t.Issuer, a.Issuer)
	}
	t.ID, _ = claims["jti"].(string)
	for _, f := range []struct {
		name string
		to   *time.Time
	}{{"iat", &t.IssuedAt}, {"nbf", &t.NotBefore}, {"exp", &t.Expires}} {
		n, ok := claims[f.name].(float64)
		if !ok || n <= 0 || n > 1<<40 {
			return nil, evidence.Refuse(evidence.CodeBinding, "token "+f.name, fmt.Sprint(claims[f.name]), "seconds since 1970")
		}
		*f.to = time.Unix(int64(n), 0)
	}
	switch {
	case at.Add(slack).Before(t.IssuedAt):
		return nil, evidence.Refuse(evidence.CodeBinding, "token iat", t.IssuedAt.UTC().Format(time.RFC3339), "not after "+at.UTC().Format(time.RFC3339)+"; is the clock right?")
	case t.Expires.Sub(t.IssuedAt) > maxLife:
		return nil, evidence.Refuse(evidence.CodeBinding, "token exp", t.Expires.UTC().Format(time.RFC3339), "at most "+maxLife.String()+" after iat")
	case at.Add(slack).Before(t.NotBefore):
		return nil, evidence.Refuse(evidence.CodeBinding, "token nbf", t.NotBefore.UTC().Format(time.RFC3339), "not after "+at.UTC().Format(time.RFC3339)+"; is the clock right?")
	case !at.Before(t.Expires):
		return nil, evidence.Refuse(evidence.CodeBinding, "token exp", t.Expires.UTC().Format(time.RFC3339), "after "+at.UTC().Format(time.RFC3339))
	}
	return t, nil
}
