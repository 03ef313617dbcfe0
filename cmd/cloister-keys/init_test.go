package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := command()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// trustFile is what an installation gives its tenants, with an operator whose issuer the test has.
func trustFile(t *testing.T, operator *identitytest.Issuer) string {
	t.Helper()
	issuer := operator.Config(t, "unused").Issuers[0]
	raw, err := json.Marshal(operatorTrust{Attest: initdata.Service{URL: "https://attest.test", SigningKeys: issuer.Keys}, VMIdentity: issuer})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A key keeper that a tenant set up: its owner signs in and makes keys with Azure's clients, and the operator of the VMs is
// believed about VMs and nothing else.
func TestInit(t *testing.T) {
	operator := identitytest.New(t, time.Now)
	server := httptest.NewUnstartedServer(nil)
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "mine")
	out, err := execute(t, "init", dir, "--trust", trustFile(t, operator), "--listen", server.Listener.Addr().String())
	if err != nil || !strings.Contains(out, "cloister-keys serve --config") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := execute(t, "config", "check", filepath.Join(dir, "config.yaml")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c, err := keys.Load(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	service, err := keys.New(t.Context(), c, environment(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	}()
	cert, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.Handler = service.Handler()
	server.StartTLS()

	raw, err := os.ReadFile(filepath.Join(dir, "access.json"))
	if err != nil {
		t.Fatal(err)
	}
	access, err := client.ParseAccess(raw)
	if err != nil {
		t.Fatal(err)
	}
	if access.Service.SigningKeys[0] != service.SigningKeys()[0] {
		t.Error("the keys that sign answers are others than those in access.json")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(access.Service.TLSCA))
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}}}
	defer h.CloseIdleConnections()
	options := azcore.ClientOptions{Transport: h, Retry: policy.RetryOptions{MaxRetries: -1}, Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: access.Authority}}
	signIn := func(secret string) *azkeys.Client {
		cred, err := azidentity.NewClientSecretCredential(access.TenantID, access.ClientID, secret, &azidentity.ClientSecretCredentialOptions{DisableInstanceDiscovery: true, ClientOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		vault, err := azkeys.NewClient(access.Service.URL, cred, &azkeys.ClientOptions{ClientOptions: options})
		if err != nil {
			t.Fatal(err)
		}
		return vault
	}
	if _, err := signIn(access.ClientSecret).CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := signIn("guessed").GetKey(t.Context(), "k", "", nil); err == nil {
		t.Error("signed in with another secret")
	}
	status := func(bearer string) int {
		req, err := http.NewRequestWithContext(t.Context(), "GET", access.Service.URL+"/keys/k?api-version=7.4", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	app, err := operator.MintClient(identitytest.AdminID, "https://vault.azure.net")
	if err != nil {
		t.Fatal(err)
	}
	if got := status(app); got != http.StatusUnauthorized {
		t.Errorf("the operator's administrator: %d", got)
	}
	vm, err := operator.MintVM("0e4a1b7c-0000-4000-8000-000000000001", "/r", "https://vault.azure.net")
	if err != nil {
		t.Fatal(err)
	}
	if got := status(vm); got != http.StatusForbidden {
		t.Errorf("a VM's identity reads keys: %d", got)
	}
}

func TestInitRefused(t *testing.T) {
	trust := trustFile(t, identitytest.New(t, time.Now))
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	there := t.TempDir()
	for name, args := range map[string][]string{
		"a folder that is there":       {there, "--trust", trust},
		"no trust":                     {"new"},
		"trust that is not there":      {"new", "--trust", "absent.json"},
		"trust in nobody":              {"new", "--trust", empty},
		"no port":                      {"new", "--trust", trust, "--listen", "127.0.0.1"},
		"a vault's name that is none":  {"new", "--trust", trust, "--vault", "Mine!"},
		"a suffix that is no hostname": {"new", "--trust", trust, "--suffix", "Keys Localhost"},
	} {
		t.Run(name, func(t *testing.T) {
			if args[0] == "new" {
				args = append([]string{filepath.Join(t.TempDir(), "new")}, args[1:]...)
			}
			if out, err := execute(t, append([]string{"init"}, args...)...); err == nil {
				t.Fatalf("done: %s", out)
			}
			if args[0] != there {
				if _, err := os.Stat(args[0]); err == nil {
					t.Error("something was left")
				}
			}
		})
	}
}
