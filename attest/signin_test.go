package attest

import (
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/provider"
)

// adminToken signs a sign-in token of the client that has the role.
func adminToken(t testing.TB, w *world) string { return signIn(t, w, identitytest.AdminID) }

func signIn(t testing.TB, w *world, objectID string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: w.identity.Key, KeyID: "test"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := w.now.Unix()
	raw, err := json.Marshal(map[string]any{"iss": provider.IssuerURL(identitytest.Authority, identitytest.TenantID), "aud": "https://attest.azure.net",
		"iat": at, "nbf": at, "exp": at + 3600, "tid": identitytest.TenantID, "oid": objectID, "appid": objectID})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}
