package keys_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"cloister.dev/cloister/identity/identitytest"
)

func b64(b []byte) string            { return base64.RawURLEncoding.EncodeToString(b) }
func unb64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

// The answer before sign-in: the same for everything, and in the form that Azure's clients can read.
func TestChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := `Bearer authorization="https://login.cloister.test/` + identitytest.TenantID + `", resource="https://` + suffix + ":" + w.port + `"`
	expired := w.signIn(identitytest.AdminID, map[string]any{"exp": w.now().Unix()})
	for name, r := range map[string]reply{
		"POST without body":       w.call("POST", "main", "/keys/a/create?api-version=7.4", "", ""),
		"GET of the vault":        w.call("GET", "main", "/", "", ""),
		"without api-version":     w.call("GET", "main", "/keys/a/", "", ""),
		"a bad name":              w.call("GET", "main", "/keys/%2e%2e/x", "", ""),
		"an expired token":        w.call("GET", "main", "/keys/a?api-version=7.4", expired, ""),
		"SVC-05 another audience": w.call("GET", "main", "/keys/a?api-version=7.4", w.signIn(identitytest.AdminID, map[string]any{"aud": "https://management.azure.com"}), ""),
		"SVC-03 not a token":      w.call("GET", "main", "/keys/a?api-version=7.4", "x", ""),
	} {
		if r.status != 401 || r.header.Get("WWW-Authenticate") != want {
			t.Errorf("%s: %d %q", name, r.status, r.header.Get("WWW-Authenticate"))
		}
	}
	admin := w.signIn(identitytest.AdminID, map[string]any{"aud": "https://vault.azure.net"})
	if r := w.call("GET", "main", "/keys/a?api-version=7.4", admin, ""); r.status != 404 {
		t.Errorf("signed in for Azure's own audience: %d %s", r.status, r.body)
	}
}

// Requests as they come in, odd ones included. The positive rows are what Azure's clients send.
func TestRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admin := w.signIn(identitytest.AdminID, nil)
	if r := w.call("POST", "main", "/keys/k/create?api-version=7.4", admin, `{"kty":"EC","crv":"P-256"}`); r.status != 200 {
		t.Fatal(r.body)
	}
	digest := b64(make([]byte, 32))
	signBody := `{"alg":"ES256","value":"` + digest + `"}`
	policy := func(data string) string {
		return `{"kty":"oct","attributes":{"exportable":true},"release_policy":{"data":"` + data + `"}}`
	}
	gs := "gs-" + vmID
	for _, r := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"a final slash", "GET", "/keys/k/?api-version=7.4", "", 200},
		{"an empty segment", "POST", "/keys/k//sign?api-version=7.4", signBody, 200},
		{"no segment for the version", "POST", "/keys/k/sign?api-version=7.4", signBody, 200},
		{"an escaped parameter name", "GET", "/keys/k?api%2Dversion=7.6", "", 200},
		{"a version that is a date", "GET", "/keys/k?api-version=2025-07-01", "", 200},
		{"a version of the future", "GET", "/keys/k?api-version=2031-01-01-preview", "", 200},
		{"names have no case", "GET", "/keys/K?api-version=7.4", "", 200},
		{"contacts", "GET", "/certificates/contacts?api-version=7.4", "", 404},
		{"no api-version", "GET", "/keys/k", "", 400},
		{"two api-versions", "GET", "/keys/k?api-version=7.4&api-version=7.5", "", 400},
		{"api-version 7.0", "GET", "/keys/k?api-version=7.0", "", 400},
		{"an old date", "GET", "/keys/k?api-version=2015-06-01", "", 400},
		{"SVC-12 a name that climbs", "GET", "/keys/%2e%2e?api-version=7.4", "", 400},
		{"SVC-12 a slash in a name", "GET", "/keys/a%2fb?api-version=7.4", "", 400},
		{"SVC-12 NUL in a name", "GET", "/keys/a%00b?api-version=7.4", "", 400},
		{"SVC-12 a backslash", "GET", "/keys/a%5cb?api-version=7.4", "", 400},
		{"SVC-12 a look-alike letter", "GET", "/keys/%d0%b0?api-version=7.4", "", 400},
		{"SVC-12 too long", "GET", "/keys/" + strings.Repeat("a", 128) + "?api-version=7.4", "", 400},
		{"SVC-12 a version that is none", "GET", "/keys/k/zz?api-version=7.4", "", 400},
		{"a version that is not there", "GET", "/keys/k/" + strings.Repeat("0", 32) + "?api-version=7.4", "", 404},
		{"SVC-20 a member twice", "POST", "/keys/k//sign?api-version=7.4", `{"alg":"ES256","value":"` + digest + `","value":"AA"}`, 400},
		{"SVC-20 a member twice but for case", "POST", "/keys/k//sign?api-version=7.4", `{"alg":"ES256","value":"` + digest + `","Value":"AA"}`, 400},
		{"SVC-19 a body too large", "POST", "/keys/k//sign?api-version=7.4", `{"value":"` + strings.Repeat("A", 400<<10) + `"}`, 413},
		{"an empty body", "POST", "/keys/n/create?api-version=7.4", "", 400},
		{"an unknown kind", "POST", "/keys/n/create?api-version=7.4", `{"kty":"OKP"}`, 400},
		{"an operation that the kind does not have", "POST", "/keys/n/create?api-version=7.4", `{"kty":"EC","crv":"P-256","key_ops":["encrypt"]}`, 400},
		{"exportable without a policy", "POST", "/keys/n/create?api-version=7.4", `{"kty":"oct","attributes":{"exportable":true}}`, 400},
		{"a policy without exportable", "POST", "/keys/n/create?api-version=7.4", `{"kty":"oct","release_policy":{"data":"` + b64(w.policy()) + `"}}`, 400},
		{"a policy with an unknown operator", "POST", "/keys/n/create?api-version=7.4", policy(b64([]byte(`{"version":"1.0.0","anyOf":[{"authority":"https://a/","allOf":[{"claim":"a","greater":1}]}]}`))), 400},
		{"a policy that is no JSON", "POST", "/keys/n/create?api-version=7.4", policy("AAAA"), 400},
		{"a policy that is no base64", "POST", "/keys/n/create?api-version=7.4", policy("%"), 400},
		{"a good policy", "POST", "/keys/n/create?api-version=7.4", policy(b64(w.policy())), 200},
		{"exportable changed later", "PATCH", "/keys/n?api-version=7.4", `{"attributes":{"exportable":false}}`, 400},
		{"exportable changed by a new version", "POST", "/keys/n/create?api-version=7.4", `{"kty":"oct","attributes":{"exportable":false}}`, 400},
		{"a policy made immutable", "PATCH", "/keys/n?api-version=7.4", `{"release_policy":{"immutable":true,"data":"` + b64(w.policy()) + `"}}`, 200},
		{"an immutable policy changed", "PATCH", "/keys/n?api-version=7.4", `{"release_policy":{"data":"` + b64(w.policy()) + `"}}`, 400},
		{"a guest-state key of RSA", "POST", "/keys/" + gs + "/create?api-version=7.4", `{"kty":"RSA","attributes":{"exportable":true},"release_policy":{"data":"` + b64(w.policy()) + `"}}`, 400},
		{"a guest-state key without a policy", "POST", "/keys/" + gs + "/create?api-version=7.4", `{"kty":"oct-HSM"}`, 400},
		{"a guest-state key in upper case", "POST", "/keys/" + strings.ToUpper(gs) + "/create?api-version=7.4", `{"kty":"oct-HSM"}`, 400},
		{"import is not offered", "PUT", "/keys/x?api-version=7.4", `{"key":{}}`, 400},
		{"another path", "GET", "/secrets/x?api-version=7.4", "", 404},
	} {
		t.Run(r.name, func(t *testing.T) {
			got := w.call(r.method, "main", r.path, admin, r.body)
			if got.status != r.status {
				t.Errorf("%d %s, want %d", got.status, got.body, r.status)
			}
			if got.header.Get("Cache-Control") != "no-cache" || got.header.Get("x-ms-request-id") == "" || got.header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("headers %v", got.header)
			}
			if got.status != 200 && !strings.Contains(got.body, `"code":"`) {
				t.Errorf("body %s", got.body)
			}
		})
	}
}

// A caller without a role cannot tell a key that exists from one that does not.
func TestSVC13SameAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	admin := w.signIn(identitytest.AdminID, nil)
	if r := w.call("POST", "main", "/keys/there/create?api-version=7.4", admin, `{"kty":"oct","attributes":{"exportable":true},"release_policy":{"data":"`+b64(w.policy())+`"}}`); r.status != 200 {
		t.Fatal(r.body)
	}
	key := rsaKey(t)
	release := `{"target":"` + w.token(&key.PublicKey) + `","nonce":"n"}`
	if r := w.call("POST", "main", "/keys/there/release?api-version=7.4", w.signIn(releaser, nil), release); r.status != 200 {
		t.Errorf("with role and token: %d %s", r.status, r.body)
	}
	for who, bearer := range map[string]string{"SVC-13 another tenant": w.signIn(tenantB, nil), "nobody": w.signIn(stranger, nil), "a VM": w.vm(vmID), "another VM": w.vm(otherVM)} {
		for _, verb := range []struct{ method, tail string }{{"GET", ""}, {"POST", "/release"}, {"POST", "//sign"}, {"DELETE", ""}, {"PATCH", ""}, {"POST", "/create"}} {
			there := w.call(verb.method, "main", "/keys/there"+verb.tail+"?api-version=7.4", bearer, release)
			absent := w.call(verb.method, "main", "/keys/absent"+verb.tail+"?api-version=7.4", bearer, release)
			if there.status != 403 || absent.status != 403 || there.body != absent.body {
				t.Errorf("%s %s%s: %d %s, and %d %s", who, verb.method, verb.tail, there.status, there.body, absent.status, absent.body)
			}
		}
	}
}

func TestSVC30HeadersAreNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	req := func(change func(*http.Request)) reply {
		r, err := http.NewRequestWithContext(t.Context(), "GET", w.url("main")+"/keys?api-version=7.4", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+w.signIn(tenantB, nil))
		change(r)
		return w.do(r)
	}
	if r := req(func(r *http.Request) { r.Host = "other." + suffix }); r.status != 200 {
		t.Errorf("the tenant's own vault: %d %s", r.status, r.body)
	}
	for name, change := range map[string]func(*http.Request){
		"the other tenant's vault": func(*http.Request) {},
		"X-Forwarded-Host":         func(r *http.Request) { r.Header.Set("X-Forwarded-Host", "other."+suffix) },
		"Forwarded":                func(r *http.Request) { r.Header.Set("Forwarded", "host=other."+suffix) },
		"method override":          func(r *http.Request) { r.Header.Set("X-HTTP-Method-Override", "POST") },
	} {
		if r := req(change); r.status != 403 {
			t.Errorf("%s: %d", name, r.status)
		}
	}
	for _, host := range []string{"evil.example", "main." + suffix + ".evil.example", suffix, "127.0.0.1", `main"x`} {
		if r := req(func(r *http.Request) { r.Host = host }); r.status != 404 && r.status != 400 {
			t.Errorf("host %s: %d", host, r.status)
		}
	}
	if r := req(func(r *http.Request) { r.Host = "other." + suffix; r.Header.Set("Content-Encoding", "gzip") }); r.status != 415 {
		t.Errorf("SVC-19 a compressed body: %d", r.status)
	}
}

func TestServicePaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "cloister_keys_requests_total", "/cloister/signing-keys": "BEGIN PUBLIC KEY"} {
		w.call("GET", "main", "/keys/x?api-version=7.4", "", "")
		if r := w.call("GET", "main", path, "", ""); r.status != 200 || !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}
