package provider_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cloister.dev/cloister/identity/provider"
)

const (
	tenant = "11111111-2222-3333-4444-555555555555"
	app    = "aaaaaaaa-0000-0000-0000-000000000001"
)

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var p *provider.Provider
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	sum := sha256.Sum256([]byte("secret"))
	p, err = provider.New(provider.Config{Authority: srv.URL, TenantID: tenant, Key: key, KeyID: "k1", Now: time.Now,
		Clients: []provider.Client{{ClientID: app, ObjectID: app, Name: "admin", SecretSHA256: hex.EncodeToString(sum[:])}}})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

func TestAzureSDKSignsIn(t *testing.T) {
	srv := serve(t)
	get := func(secret, id string) (azcore.AccessToken, error) {
		cred, err := azidentity.NewClientSecretCredential(tenant, id, secret, &azidentity.ClientSecretCredentialOptions{
			DisableInstanceDiscovery: true,
			ClientOptions: azcore.ClientOptions{Transport: srv.Client(), Retry: policy.RetryOptions{MaxRetries: -1},
				Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: srv.URL}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return cred.GetToken(context.Background(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com//.default"}})
	}
	tok, err := get("secret", app)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(tok.Token, ".") != 2 {
		t.Errorf("token %q is no JWT", tok.Token)
	}
	if _, err := get("wrong", app); err == nil || !strings.Contains(err.Error(), "AADSTS7000215") {
		t.Errorf("wrong secret: %v", err)
	}
	if _, err := get("secret", "aaaaaaaa-0000-0000-0000-000000000002"); err == nil || !strings.Contains(err.Error(), "AADSTS700016") {
		t.Errorf("unknown client: %v", err)
	}
}

func TestTokenEndpointRefuses(t *testing.T) {
	srv := serve(t)
	good := url.Values{"grant_type": {"client_credentials"}, "client_id": {app}, "client_secret": {"secret"}, "scope": {"https://vault.azure.net/.default"}, "client_info": {"1"}}
	post := func(tenantPath string, form url.Values) (int, map[string]any) {
		resp, err := srv.Client().PostForm(srv.URL+"/"+tenantPath+"/oauth2/v2.0/token?client-request-id=x", form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := json.Unmarshal(body, &out); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return resp.StatusCode, out
	}
	if code, out := post(tenant, good); code != 200 || out["token_type"] != "Bearer" {
		t.Fatalf("good request: %d %v", code, out)
	}
	for name, change := range map[string]func(url.Values){
		"no secret":         func(v url.Values) { v.Del("client_secret") },
		"an empty secret":   func(v url.Values) { v.Set("client_secret", "") },
		"no scope":          func(v url.Values) { v.Del("scope") },
		"two audiences":     func(v url.Values) { v.Set("scope", "https://a/.default https://b/.default") },
		"a user's grant":    func(v url.Values) { v.Set("grant_type", "password") },
		"no grant type":     func(v url.Values) { v.Del("grant_type") },
		"an unknown client": func(v url.Values) { v.Set("client_id", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			form := url.Values{}
			for k, v := range good {
				form[k] = append([]string(nil), v...)
			}
			change(form)
			code, out := post(tenant, form)
			if code < 400 || code >= 500 || out["error"] == nil || out["access_token"] != nil {
				t.Errorf("answer %d %v", code, out)
			}
		})
	}
	if code, out := post("22222222-2222-3333-4444-555555555555", good); code != 400 || out["error"] != "invalid_tenant" {
		t.Errorf("unknown tenant: %d %v", code, out)
	}
}
