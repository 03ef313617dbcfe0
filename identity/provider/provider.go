// Package provider is the embedded OpenID Connect provider of a single-machine installation.
//
// It offers the client-credentials grant at the paths that Azure's clients use. Protocol handling is
// the library's (zitadel/oidc); what is ours is who the clients are and what a token says.
package provider

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// TokenLifetime is how long a sign-in token is good.
const TokenLifetime = time.Hour

// Client is an application that may sign in with a secret.
type Client struct {
	ClientID     string `json:"clientId"`
	ObjectID     string `json:"objectId"`
	Name         string `json:"name"`
	SecretSHA256 string `json:"secretSha256"` // hex; the secret itself is not kept
}

// Config describes the provider.
type Config struct {
	Authority string // scheme and host with port, without a final slash
	TenantID  string
	Clients   []Client
	Key       *rsa.PrivateKey
	KeyID     string
	Now       func() time.Time
}

// Provider is an http.Handler for /{tenant}/….
type Provider struct {
	op.UnimplementedServer
	cfg     Config
	signer  jose.Signer
	handler http.Handler
}

// IssuerURL is the issuer of a tenant's tokens.
func IssuerURL(authority, tenant string) string { return authority + "/" + tenant + "/v2.0" }

// New makes a provider.
func New(c Config) (*Provider, error) {
	if c.Authority == "" || c.TenantID == "" || c.Key == nil || c.KeyID == "" || c.Now == nil {
		return nil, errors.New("identity provider: authority, tenant, key, key id and clock are all needed")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: c.Key, KeyID: c.KeyID, Algorithm: "RS256", Use: "sig"}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	p := &Provider{cfg: c, signer: signer}
	tenant := "/" + c.TenantID
	endpoints := op.Endpoints{
		Token:   op.NewEndpoint(tenant + "/oauth2/v2.0/token"),
		JwksURI: op.NewEndpoint(tenant + "/discovery/v2.0/keys"),
		// Clients demand that the document names an authorization endpoint; there is no interactive
		// sign-in here, so it answers that it is not implemented.
		Authorization: op.NewEndpoint(tenant + "/oauth2/v2.0/authorize"),
	}
	protocol := op.RegisterServer(p, endpoints)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+tenant+"/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path = oidc.DiscoveryEndpoint
		protocol.ServeHTTP(w, r)
	})
	mux.Handle(tenant+"/", protocol)
	mux.HandleFunc("/", p.unknownTenant)
	p.handler = mux
	return p, nil
}

// ServeHTTP answers the provider's paths.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

func (p *Provider) unknownTenant(w http.ResponseWriter, r *http.Request) {
	tenant, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"error":"invalid_tenant","error_description":%q}`, "AADSTS90002: Tenant '"+tenant+"' not found.")
}

// Discovery answers the OpenID configuration.
func (p *Provider) Discovery(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	base := p.cfg.Authority + "/" + p.cfg.TenantID
	return op.NewResponse(map[string]any{
		"issuer":                                IssuerURL(p.cfg.Authority, p.cfg.TenantID),
		"authorization_endpoint":                base + "/oauth2/v2.0/authorize",
		"token_endpoint":                        base + "/oauth2/v2.0/token",
		"jwks_uri":                              base + "/discovery/v2.0/keys",
		"grant_types_supported":                 []string{"client_credentials"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
	}), nil
}

// Keys answers the public key set.
func (p *Provider) Keys(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	return op.NewResponse(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &p.cfg.Key.PublicKey, KeyID: p.cfg.KeyID, Algorithm: "RS256", Use: "sig"}}}), nil
}

// VerifyClient compares the client's secret in constant time. Unknown client and wrong secret are told apart
// as Azure does, by code; neither says more.
func (p *Provider) VerifyClient(_ context.Context, r *op.Request[op.ClientCredentials]) (op.Client, error) {
	sum := sha256.Sum256([]byte(r.Data.ClientSecret))
	for _, c := range p.cfg.Clients {
		if c.ClientID != r.Data.ClientID {
			continue
		}
		want, err := hex.DecodeString(c.SecretSHA256)
		if err != nil || len(want) != len(sum) || subtle.ConstantTimeCompare(want, sum[:]) != 1 {
			return nil, op.NewStatusError(oidc.ErrInvalidClient().WithDescription("AADSTS7000215: Invalid client secret provided."), http.StatusUnauthorized)
		}
		return client{c}, nil
	}
	return nil, op.NewStatusError(oidc.ErrUnauthorizedClient().WithDescription("AADSTS700016: Application with identifier '%s' was not found.", r.Data.ClientID), http.StatusBadRequest)
}

// ClientCredentialsExchange issues an access token for the audience that the scope names.
func (p *Provider) ClientCredentialsExchange(_ context.Context, r *op.ClientRequest[oidc.ClientCredentialsRequest]) (*op.Response, error) {
	scopes := slices.DeleteFunc([]string(r.Data.Scope), signInScope)
	if len(scopes) != 1 || !strings.HasSuffix(scopes[0], "/.default") {
		return nil, oidc.ErrInvalidScope().WithDescription("AADSTS1002012: scope must be one audience followed by /.default")
	}
	c, ok := r.Client.(client)
	if !ok {
		return nil, oidc.ErrInvalidClient()
	}
	access, err := p.sign(map[string]any{
		"aud": Audience(scopes[0]), "oid": c.ObjectID, "sub": c.ObjectID, "appid": c.ClientID, "azp": c.ClientID, "idtyp": "app", "name": c.Name,
	})
	if err != nil {
		return nil, oidc.ErrServerError().WithParent(err)
	}
	seconds := int(TokenLifetime.Seconds())
	return op.NewResponse(map[string]any{"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": access}), nil
}

// signInScope tells the scopes that Azure's sign-in libraries add to every request; they ask for nothing here.
func signInScope(s string) bool { return s == "openid" || s == "profile" || s == "offline_access" }

// MintVM issues the token of a VM's managed identity. The role it stands for is bound to that VM's own key.
func (p *Provider) MintVM(vmID, resourceID, audience string) (string, error) {
	if _, err := uuid.Parse(vmID); err != nil {
		return "", fmt.Errorf("identity of VM %q: %w", vmID, err)
	}
	return p.sign(map[string]any{"aud": audience, "oid": vmID, "sub": vmID, "appid": vmID, "idtyp": "app", "xms_mirid": resourceID, "xms_vmid": strings.ToLower(vmID)})
}

// Audience is the audience that a scope asks for: without "/.default" and one final slash.
func Audience(scope string) string {
	return strings.TrimSuffix(strings.TrimSuffix(scope, "/.default"), "/")
}

func (p *Provider) sign(claims map[string]any) (string, error) {
	now := p.cfg.Now()
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	claims["iss"] = IssuerURL(p.cfg.Authority, p.cfg.TenantID)
	claims["tid"] = p.cfg.TenantID
	claims["ver"] = "2.0"
	claims["jti"] = hex.EncodeToString(id)
	claims["iat"] = now.Unix()
	claims["nbf"] = now.Unix()
	claims["exp"] = now.Add(TokenLifetime).Unix()
	return signJSON(p.signer, claims)
}

// MintClient issues a token for one of the provider's own clients, for a caller that has already been
// let in by other means (the control plane acting for itself).
func (p *Provider) MintClient(clientID, audience string) (string, error) {
	for _, c := range p.cfg.Clients {
		if c.ClientID == clientID {
			return p.sign(map[string]any{"aud": audience, "oid": c.ObjectID, "sub": c.ObjectID, "appid": c.ClientID, "idtyp": "app", "name": c.Name})
		}
	}
	return "", fmt.Errorf("no client %q", clientID)
}
