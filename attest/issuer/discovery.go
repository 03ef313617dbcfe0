package issuer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"time"
)

// compactJSON writes members in alphabetical order, without blanks and without escapes for HTML.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// KeySet is the body of /certs: Azure's clients read kid and x5c, others n and e. The key in use comes first, then
// the next one, then those whose tokens still live.
func (i *Issuer) KeySet(at time.Time) map[string]any {
	keys := []any{}
	for _, k := range i.published(at, true) {
		keys = append(keys, map[string]any{
			"kid": k.kid, "kty": "RSA", "use": "sig", "alg": "RS256",
			"n":   base64.RawURLEncoding.EncodeToString(k.key.N.Bytes()),
			"e":   base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.key.E)).Bytes()),
			"x5c": []string{base64.StdEncoding.EncodeToString(k.cert)},
		})
	}
	return map[string]any{"keys": keys}
}

// Discovery is the body of /.well-known/openid-configuration.
func (i *Issuer) Discovery(claims []string) map[string]any {
	return map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/certs",
		"response_types_supported":              []string{"token", "none"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"claims_supported":                      claims,
	}
}
