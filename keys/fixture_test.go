package keys_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/api"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

const (
	suffix    = "vault.cloister.test"
	attestURL = "https://attest.cloister.test/soft"
	vmID      = "0e4a1b7c-0000-4000-8000-000000000001"
	otherVM   = "0e4a1b7c-0000-4000-8000-000000000002"
	stranger  = "dddddddd-0000-0000-0000-00000000dead"
	releaser  = "dddddddd-0000-0000-0000-000000000001" // may release in the vault "main"
	operator  = "dddddddd-0000-0000-0000-000000000002" // Crypto Officer, and configured as an operator
	tenantB   = "dddddddd-0000-0000-0000-00000000000b" // Crypto Officer of the vault "other" only
)

var start = time.Unix(1_800_000_000, 0)

// world is a key keeper behind TLS, a sign-in issuer, a verifier's signing key and a clock.
type world struct {
	t           *testing.T
	cfg         keys.Config
	service     *keys.Service
	issuer      *identitytest.Issuer
	attest      *rsa.PrivateKey
	port        string
	http        *http.Client
	certificate []byte       // of the server, DER
	seconds     atomic.Int64 // since start
	realTime    bool         // for a key keeper in a process of its own
	audit       api.Auditor  // nil: the file
}

func (w *world) now() time.Time {
	if w.realTime {
		return time.Now()
	}
	return start.Add(time.Duration(w.seconds.Load()) * time.Second)
}

// verifierKey signs the attestation tokens of all worlds; making one takes long.
var verifierKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(t *testing.T, pub *rsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func newWorld(t *testing.T) *world { return newWorldWith(t, nil) }

// newWorldWith is newWorld with another configuration.
func newWorldWith(t *testing.T, change func(*keys.Config)) *world {
	t.Helper()
	w := &world{t: t, attest: verifierKey()}
	w.issuer = identitytest.New(t, w.now)
	dir := t.TempDir()
	pass := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(pass, []byte("a passphrase for tests only\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	_, w.port, _ = net.SplitHostPort(srv.Listener.Addr().String())
	id := w.issuer.Config(t, "https://x").Issuers[0]
	officer := "Key Vault Crypto Officer"
	w.cfg = keys.Config{
		Listen: srv.Listener.Addr().String(), TLS: keys.TLS{Certificate: "unused", Key: "unused"},
		Pools: []string{"main", "other"}, Suffix: suffix, StateDir: dir,
		Keystore:    keys.Keystore{PassphraseFile: pass},
		Authorities: []keys.Authority{{Issuer: attestURL, Keys: []keys.Key{{KID: "attest-1", PEM: pemOf(t, &w.attest.PublicKey)}}}},
		Identity: keys.Identity{SignIn: identitytest.Authority + "/" + identitytest.TenantID,
			Issuers: []keys.Issuer{{URL: id.URL, TenantID: id.TenantID, Keys: []keys.Key{{KID: id.Keys[0].KID, PEM: id.Keys[0].PEM}}}}},
		Roles: roles.List{
			{PrincipalID: identitytest.AdminID, Role: officer, Scope: "/vaults/main"},
			{PrincipalID: operator, Role: officer, Scope: "/vaults/main"},
			{PrincipalID: tenantB, Role: officer, Scope: "/vaults/other"},
			{PrincipalID: releaser, Role: "Key Vault Crypto Service Release User", Scope: "/vaults/main"},
		},
		Operators: []string{operator},
	}
	if change != nil {
		change(&w.cfg)
	}
	w.open()
	srv.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.service.Handler().ServeHTTP(rw, r) })
	srv.StartTLS()
	t.Cleanup(func() {
		srv.Close()
		if err := w.service.Close(); err != nil {
			t.Error(err)
		}
	})
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	w.certificate = srv.Certificate().Raw
	w.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
			},
		},
	}
	t.Cleanup(w.http.CloseIdleConnections)
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.service, err = keys.New(w.t.Context(), w.cfg, keys.Environment{Now: w.now, Getenv: os.Getenv, Audit: w.audit, Cost: keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1}},
		slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
}

// restart ends the process and starts it again, as far as files are concerned.
func (w *world) restart() {
	w.t.Helper()
	if err := w.service.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) url(vault string) string { return "https://" + vault + "." + suffix + ":" + w.port }

// signIn makes a sign-in token for any object id.
func (w *world) signIn(oid string, extra map[string]any) string {
	w.t.Helper()
	claims := map[string]any{"iss": w.cfg.Identity.Issuers[0].URL, "tid": identitytest.TenantID, "aud": "https://" + suffix, "oid": oid,
		"iat": w.now().Unix(), "nbf": w.now().Unix(), "exp": w.now().Add(time.Hour).Unix()}
	for k, v := range extra {
		claims[k] = v
	}
	return sign(w.t, w.issuer.Key, "test", claims)
}

func (w *world) vm(id string) string { return w.signIn(id, map[string]any{"xms_vmid": id}) }

func sign(t *testing.T, key *rsa.PrivateKey, kid string, claims any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	measurement = [48]byte{1, 2, 3}
	hostData    = [32]byte{4, 5, 6}
)

// claims are those of a token about the VM whose transfer key is pub.
func (w *world) claims(pub *rsa.PublicKey) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	return map[string]any{
		"iss": attestURL, "jti": "token-1", "iat": w.now().Unix(), "nbf": w.now().Unix(), "exp": w.now().Add(8 * time.Hour).Unix(),
		"x-ms-attestation-type": "sevsnpvm", "x-cloister-root": "software", "x-cloister-vtpm-isolation": "process",
		"x-ms-sevsnpvm-launchmeasurement": hex.EncodeToString(measurement[:]), "x-ms-sevsnpvm-hostdata": hex.EncodeToString(hostData[:]),
		"x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-vmpl": 0,
		"x-ms-runtime": map[string]any{"keys": []any{map[string]any{"kid": "HCLTransferKey", "kty": "RSA", "key_ops": []string{"encrypt"}, "e": b64(big.NewInt(65537).Bytes()), "n": b64(pub.N.Bytes())}}},
	}
}

func (w *world) token(pub *rsa.PublicKey) string {
	return sign(w.t, w.attest, "attest-1", w.claims(pub))
}

func (w *world) policy() []byte {
	return client.GuestStatePolicy(attestURL, [][48]byte{measurement}, hostData)
}

type credential struct{ get func(scope string) string }

func (c credential) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: c.get(o.Scopes[0]), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// azkeys is the real client of Azure's SDK, signed in as the administrator by what the challenge says.
func (w *world) azkeys(vault string) *azkeys.Client {
	w.t.Helper()
	c, err := azkeys.NewClient(w.url(vault), credential{func(scope string) string {
		audience, ok := strings.CutSuffix(scope, "/.default")
		if !ok || audience != "https://"+suffix+":"+w.port {
			w.t.Errorf("the challenge led to scope %q", scope)
		}
		tok, err := w.issuer.MintClient(identitytest.AdminID, audience)
		if err != nil {
			w.t.Fatal(err)
		}
		return tok
	}}, &azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: w.http, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

type reply struct {
	status int
	header http.Header
	body   string
}

// call sends one raw request. The path goes out as it is written here.
func (w *world) call(method, vault, path, bearer, body string) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url(vault)+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return w.do(req)
}

// callWith is call with headers of the test's own.
func (w *world) callWith(method, path, bearer string, h http.Header) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url("main")+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = h
	req.Header.Set("Authorization", "Bearer "+bearer)
	return w.do(req)
}

func (w *world) do(req *http.Request) reply {
	w.t.Helper()
	resp, err := w.http.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		w.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(raw)}
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (w *world) createGuestState(vm string, by string, tags map[string]string) {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"kty": "oct-HSM", "key_size": 256, "attributes": map[string]any{"exportable": true}, "tags": tags,
		"release_policy": map[string]any{"data": base64.RawURLEncoding.EncodeToString(w.policy())}})
	if err != nil {
		w.t.Fatal(err)
	}
	if r := w.call("POST", "main", "/keys/gs-"+vm+"/create?api-version=7.4", w.signIn(by, nil), string(body)); r.status != 200 {
		w.t.Fatalf("creating the key: %d %s", r.status, r.body)
	}
}

func (w *world) client(bearer string) *client.Client {
	return client.New(client.Options{URL: w.url("main"), HTTP: w.http, Signers: w.service.SigningKeys(), Bearer: func(context.Context) (string, error) { return bearer, nil }})
}
