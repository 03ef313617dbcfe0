package api

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

// The members of Key Vault's JSON that are read and written. Times are whole Unix seconds, bytes base64url.

type attributes struct {
	Enabled       *bool  `json:"enabled,omitempty"`
	NotBefore     *int64 `json:"nbf,omitempty"`
	Expires       *int64 `json:"exp,omitempty"`
	Created       *int64 `json:"created,omitempty"`
	Updated       *int64 `json:"updated,omitempty"`
	Exportable    *bool  `json:"exportable,omitempty"`
	RecoveryLevel string `json:"recoveryLevel,omitempty"`
	RecoveryDays  int    `json:"recoverableDays,omitempty"`
}

type createBody struct {
	Kty           string                `json:"kty"`
	KeySize       int                   `json:"key_size"`
	Crv           string                `json:"crv"`
	KeyOps        []string              `json:"key_ops"`
	Attributes    *attributes           `json:"attributes"`
	Tags          map[string]string     `json:"tags"`
	ReleasePolicy *client.ReleasePolicy `json:"release_policy"`
}

type updateBody struct {
	KeyOps        []string              `json:"key_ops"`
	Attributes    *attributes           `json:"attributes"`
	Tags          map[string]string     `json:"tags"`
	ReleasePolicy *client.ReleasePolicy `json:"release_policy"`
}

type jwk struct {
	KID    string   `json:"kid"`
	Kty    string   `json:"kty"`
	KeyOps []string `json:"key_ops"`
	N      string   `json:"n,omitempty"`
	E      string   `json:"e,omitempty"`
	Crv    string   `json:"crv,omitempty"`
	X      string   `json:"x,omitempty"`
	Y      string   `json:"y,omitempty"`
}

type bundle struct {
	Key           *jwk                  `json:"key,omitempty"`
	KID           string                `json:"kid,omitempty"` // items of lists
	Attributes    attributes            `json:"attributes"`
	Tags          map[string]string     `json:"tags,omitempty"`
	ReleasePolicy *client.ReleasePolicy `json:"release_policy,omitempty"`
	RecoveryID    string                `json:"recoveryId,omitempty"`
	DeletedDate   int64                 `json:"deletedDate,omitempty"`
	PurgeDate     int64                 `json:"scheduledPurgeDate,omitempty"`
}

type page struct {
	Value    []bundle `json:"value"`
	NextLink *string  `json:"nextLink"`
}

type operationBody struct {
	Alg    string `json:"alg"`
	Value  string `json:"value"`
	Digest string `json:"digest"` // verify
	IV     string `json:"iv"`
	Tag    string `json:"tag"`
	AAD    string `json:"aad"`
}

type operationResult struct {
	KID   string `json:"kid"`
	Value string `json:"value"`
	IV    string `json:"iv,omitempty"`
	Tag   string `json:"tag,omitempty"`
	AAD   string `json:"aad,omitempty"`
}

type releaseRequest struct {
	Target string `json:"target"`
	Nonce  string `json:"nonce"`
	Enc    string `json:"enc"`
}

// decodeBody reads a body in which no member comes twice. Members that are not known are ignored, as Azure's
// clients send members of later versions.
func decodeBody(raw []byte, into any) error {
	if _, err := strictjson.ObjectWithNumbers("body", raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return evidence.Refuse(evidence.CodeParse, "body", err.Error(), fmt.Sprintf("the members of %T", into))
	}
	return nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(field, s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, badParameter(field + " is not base64url")
	}
	return b, nil
}

func (c *call) kid(k *keystore.Key, v *keystore.Version) string {
	return c.base + "/keys/" + k.ID.Name + "/" + v.ID
}

func (c *call) attributes(k *keystore.Key, v *keystore.Version) attributes {
	seconds := func(t *time.Time) *int64 {
		if t == nil {
			return nil
		}
		n := t.Unix()
		return &n
	}
	return attributes{Enabled: &v.Enabled, NotBefore: seconds(v.NotBefore), Expires: seconds(v.Expires), Created: seconds(&v.Created), Updated: seconds(&v.Updated),
		Exportable: &k.Exportable, RecoveryLevel: c.recoveryLevel(), RecoveryDays: c.vault.RetentionDays}
}

func (c *call) recoveryLevel() string {
	if c.vault.PurgeProtection {
		return "Recoverable"
	}
	return "Recoverable+Purgeable"
}

func (c *call) jwk(k *keystore.Key, v *keystore.Version) (*jwk, error) {
	j := &jwk{KID: c.kid(k, v), Kty: v.Spec.Kty, KeyOps: v.Ops}
	if len(v.Material.Public) == 0 {
		return j, nil
	}
	pub, err := x509.ParsePKIXPublicKey(v.Material.Public)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", j.KID, err)
	}
	switch p := pub.(type) {
	case *rsa.PublicKey:
		j.N, j.E = encode(p.N.Bytes()), encode(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 04 ‖ X ‖ Y
		if err != nil {
			return nil, fmt.Errorf("public key of %s: %w", j.KID, err)
		}
		n := (len(point) - 1) / 2
		j.Crv, j.X, j.Y = v.Spec.Crv, encode(point[1:1+n]), encode(point[1+n:])
	}
	return j, nil
}

func wirePolicy(p *keystore.Policy) *client.ReleasePolicy {
	if p == nil {
		return nil
	}
	return &client.ReleasePolicy{ContentType: p.ContentType, Data: encode(p.Data), Immutable: p.Immutable}
}

func (c *call) bundle(k *keystore.Key, v *keystore.Version) (any, error) {
	j, err := c.jwk(k, v)
	if err != nil {
		return nil, err
	}
	b := bundle{Key: j, Attributes: c.attributes(k, v), Tags: v.Tags, ReleasePolicy: wirePolicy(k.Policy)}
	c.deletion(k, &b)
	return b, nil
}

func (c *call) item(k *keystore.Key, v *keystore.Version, kid string) bundle {
	b := bundle{KID: kid, Attributes: c.attributes(k, v), Tags: v.Tags}
	c.deletion(k, &b)
	return b
}

func (c *call) deletion(k *keystore.Key, b *bundle) {
	if k.Deleted != nil {
		b.RecoveryID = c.base + "/deletedkeys/" + k.ID.Name
		b.DeletedDate, b.PurgeDate = k.Deleted.At.Unix(), k.Deleted.Purge.Unix()
	}
}
