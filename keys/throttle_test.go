package keys_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
)

// A caller that asks too often is refused as Key Vault refuses it, and holds nobody else up.
func TestThrottle(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, func(c *keys.Config) { c.Throttle.RequestsPer10Seconds = 5 })
	get := func(bearer string) reply { return w.call("GET", "main", "/keys?api-version=7.4", bearer, "") }
	admin := w.signIn(identitytest.AdminID, nil)
	for range 5 {
		if r := get(admin); r.status != 200 {
			t.Fatal(r.body)
		}
	}
	r := get(admin)
	if want := `{"error":{"code":"Throttled","message":"Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"}}`; r.status != 429 || r.body != want || r.header.Get("Retry-After") != "2" {
		t.Errorf("%d %q %s", r.status, r.header.Get("Retry-After"), r.body)
	}
	if r := get(w.signIn(operator, nil)); r.status != 200 {
		t.Errorf("another caller: %d", r.status)
	}
	// SVC-30: a caller can't name another one to be counted.
	if r := w.callWith("GET", "/keys?api-version=7.4", admin, http.Header{"X-Forwarded-For": {"10.0.0.1"}, "X-Ms-Client-Principal-Id": {operator}}); r.status != 429 {
		t.Errorf("SVC-30 forwarded headers: %d", r.status)
	}
	w.seconds.Add(2)
	if r := get(admin); r.status != 200 {
		t.Errorf("when Retry-After has passed: %d", r.status)
	}
}

// Azure's own client waits as it is told and comes again.
func TestThrottledClientComesAgain(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, func(c *keys.Config) { c.Throttle.RequestsPer10Seconds = 1 })
	inner := w.http.Transport
	waited := 0
	w.http.Transport = transport(func(r *http.Request) (*http.Response, error) {
		resp, err := inner.RoundTrip(r)
		if err == nil && resp.StatusCode == http.StatusTooManyRequests {
			waited++
			if resp.Header.Get("Retry-After") != "10" {
				t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
			}
			resp.Header.Set("Retry-After", "0") // the world's clock goes on at once
			w.seconds.Add(10)
		}
		return resp, err
	})
	c, err := azkeys.NewClient(w.url("main"), credential{func(string) string { return w.signIn(identitytest.AdminID, nil) }}, &azkeys.ClientOptions{
		ClientOptions: policy.ClientOptions{Transport: w.http, Retry: policy.RetryOptions{MaxRetries: 2, RetryDelay: time.Millisecond}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.NewListKeyPropertiesPager(nil).NextPage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if waited != 1 {
		t.Errorf("throttled %d times, want once", waited)
	}
}
