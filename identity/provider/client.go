package provider

import (
	"encoding/json"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// client is a Client in the library's terms: confidential, with a secret, for one grant.
type client struct{ Client }

var _ op.Client = client{}

func (c client) GetID() string                                              { return c.ClientID }
func (client) RedirectURIs() []string                                       { return nil }
func (client) PostLogoutRedirectURIs() []string                             { return nil }
func (client) ApplicationType() op.ApplicationType                          { return op.ApplicationTypeWeb }
func (client) AuthMethod() oidc.AuthMethod                                  { return oidc.AuthMethodPost }
func (client) ResponseTypes() []oidc.ResponseType                           { return nil }
func (client) GrantTypes() []oidc.GrantType                                 { return []oidc.GrantType{oidc.GrantTypeClientCredentials} }
func (client) LoginURL(string) string                                       { return "" }
func (client) AccessTokenType() op.AccessTokenType                          { return op.AccessTokenTypeJWT }
func (client) IDTokenLifetime() time.Duration                               { return TokenLifetime }
func (client) DevMode() bool                                                { return false }
func (client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return keepScopes }
func (client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return keepScopes }
func (client) IsScopeAllowed(string) bool                                   { return true }
func (client) IDTokenUserinfoClaimsAssertion() bool                         { return false }
func (client) ClockSkew() time.Duration                                     { return 0 }

func keepScopes(s []string) []string { return s }

func signJSON(s jose.Signer, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}
