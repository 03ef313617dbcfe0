package keys_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys/client"
)

func session(n int) string { return fmt.Sprintf("%064x", n) }

func openRequest(w *world, pub *rsa.PublicKey, generation uint64, n int) client.OpenRequest {
	return client.OpenRequest{VMID: vmID, Generation: generation, Session: session(n), Token: w.token(pub), Nonce: fmt.Sprint("nonce-", n)}
}

func confirmRequest(w *world, pub *rsa.PublicKey, generation uint64, n int) client.ConfirmRequest {
	return client.ConfirmRequest{VMID: vmID, Generation: generation, Session: session(n), Token: w.token(pub), Nonce: fmt.Sprint("confirm-", n)}
}

// The key of a guest state is the same at each start, over restarts of the key keeper, and each start has its generation.
func TestGuestStateLife(t *testing.T) {
	t.Parallel()
	guestStateLife(t, newWorld(t))
}

func guestStateLife(t *testing.T, w *world) {
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	ctx := t.Context()
	var first []byte
	for n := range 3 {
		c := w.client(w.vm(vmID))
		o, err := c.Open(ctx, openRequest(w, &key.PublicKey, uint64(n), n+1))
		if err != nil {
			t.Fatal(err)
		}
		if o.Next != uint64(n+1) || o.OperatorTrusted {
			t.Errorf("%+v", o)
		}
		k, err := o.Unwrap(key)
		if err != nil || len(k) != 32 {
			t.Fatalf("unwrap: %d bytes, %v", len(k), err)
		}
		if first == nil {
			first = k
		}
		if !bytes.Equal(first, k) {
			t.Error("another key")
		}
		if _, err := o.Unwrap(rsaKey(t)); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("SVC-32 another transfer key: %v", err)
		}
		w.restart()
		for range 2 {
			if err := c.Confirm(ctx, confirmRequest(w, &key.PublicKey, o.Next, n+1)); err != nil {
				t.Fatal(err)
			}
		}
		w.restart()
	}
	c := w.client(w.vm(vmID))
	for _, r := range []struct {
		name       string
		generation uint64
		reason     string
	}{{"HD-09 an earlier copy", 2, "rolled back"}, {"HD-09 an emptied guest state", 0, "rolled back"}, {"a generation never promised", 4, "unknown generation"}} {
		_, err := c.Open(ctx, openRequest(w, &key.PublicKey, r.generation, 9))
		if evidence.CodeOf(err) != evidence.CodeBinding || !strings.Contains(err.Error(), r.reason) {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	if _, err := c.Open(ctx, openRequest(w, &key.PublicKey, 3, 9)); err != nil {
		t.Errorf("the newest guest state: %v", err)
	}
}

func TestHD09OneOfManyClonesWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	c := w.client(w.vm(vmID))
	const clones = 100 // SVC-14
	var mu sync.Mutex
	var wg sync.WaitGroup
	var opened sync.WaitGroup
	opened.Add(clones)
	won := 0
	for n := 1; n <= clones; n++ {
		wg.Go(func() {
			o, err := c.Open(t.Context(), openRequest(w, &key.PublicKey, 0, n))
			opened.Done()
			if err != nil {
				t.Error(err)
				return
			}
			opened.Wait()
			err = c.Confirm(t.Context(), confirmRequest(w, &key.PublicKey, o.Next, n))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case evidence.CodeOf(err) != evidence.CodeBinding:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d clones were confirmed, want 1", won)
	}
}

// Each row changes one thing of an open that is accepted.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	evil := rsaKey(t)
	claim := func(name string, v any) func(*client.OpenRequest) {
		return func(r *client.OpenRequest) {
			c := w.claims(&key.PublicKey)
			c[name] = v
			if v == nil {
				delete(c, name)
			}
			r.Token = sign(t, w.attest, "attest-1", c)
		}
	}
	rename := func(kid string, ops ...string) func(*client.OpenRequest) {
		return func(r *client.OpenRequest) {
			c := w.claims(&key.PublicKey)
			k := c["x-ms-runtime"].(map[string]any)["keys"].([]any)[0].(map[string]any)
			k["kid"], k["key_ops"] = kid, ops
			r.Token = sign(t, w.attest, "attest-1", c)
		}
	}
	own := w.vm(vmID)
	for i, r := range []struct {
		name   string
		bearer string
		change func(*client.OpenRequest)
		want   evidence.Code
	}{
		{"a VM's own guest state", own, func(*client.OpenRequest) {}, ""},
		{"a principal with the role", w.signIn(releaser, nil), func(*client.OpenRequest) {}, ""},
		{"no role", w.signIn(stranger, nil), func(*client.OpenRequest) {}, evidence.CodeAuthz},
		{"another VM's identity", w.vm(otherVM), func(*client.OpenRequest) {}, evidence.CodeAuthz},
		{"SVC-13 the officer of another vault", w.signIn(tenantB, nil), func(*client.OpenRequest) {}, evidence.CodeAuthz},
		{"a role without a token", own, func(r *client.OpenRequest) { r.Token = "" }, evidence.CodeParse},
		{"a token without sign-in", "", func(*client.OpenRequest) {}, evidence.CodeAuthz},
		{"SVC-02 signed by a stranger", own, func(r *client.OpenRequest) { r.Token = sign(t, evil, "attest-1", w.claims(&key.PublicKey)) }, evidence.CodeChain},
		{"a key id that is not pinned", own, func(r *client.OpenRequest) { r.Token = sign(t, w.attest, "attest-2", w.claims(&key.PublicKey)) }, evidence.CodeChain},
		{"SVC-04 alg none", own, func(r *client.OpenRequest) {
			p := strings.Split(r.Token, ".")
			r.Token = "eyJhbGciOiJub25lIiwia2lkIjoiYXR0ZXN0LTEifQ." + p[1] + "."
		}, evidence.CodeChain},
		{"SVC-05 expired", own, claim("exp", w.now().Add(-time.Second).Unix()), evidence.CodeBinding},
		{"SVC-05 no exp", own, claim("exp", nil), evidence.CodeBinding},
		{"SVC-05 nbf in the future", own, claim("nbf", w.now().Add(time.Hour).Unix()), evidence.CodeBinding},
		{"SVC-05 no nbf", own, claim("nbf", nil), evidence.CodeBinding},
		{"SVC-05 no iss", own, claim("iss", nil), evidence.CodeBinding},
		{"SVC-05 another iss", own, claim("iss", "https://attest.cloister.test"), evidence.CodeBinding},
		{"another launch digest", own, claim("x-ms-sevsnpvm-launchmeasurement", strings.Repeat("00", 48)), evidence.CodePolicy},
		{"SNP-24 other init data", own, claim("x-ms-sevsnpvm-hostdata", strings.Repeat("00", 32)), evidence.CodePolicy},
		{"SNP-03 debugging", own, claim("x-ms-sevsnpvm-is-debuggable", true), evidence.CodePolicy},
		{"SNP-03 debugging as text", own, claim("x-ms-sevsnpvm-is-debuggable", "false"), evidence.CodePolicy},
		{"SNP-02 another VMPL", own, claim("x-ms-sevsnpvm-vmpl", 2), evidence.CodePolicy},
		{"SVC-26 no VMPL", own, claim("x-ms-sevsnpvm-vmpl", nil), evidence.CodePolicy},
		{"no isolation of the vTPM", own, claim("x-cloister-vtpm-isolation", "none"), evidence.CodePolicy},
		{"another root", own, claim("x-cloister-root", "amd"), evidence.CodePolicy},
		{"a token of a guest", own, claim("x-ms-attestation-type", "azurevm"), evidence.CodePolicy},
		{"SVC-32 no runtime data", own, claim("x-ms-runtime", nil), evidence.CodeBinding},
		{"SVC-32 HCLEkPub", own, rename("HCLEkPub", "encrypt"), evidence.CodeBinding},
		{"SVC-32 a key of another purpose", own, rename("TpmEphemeralEncryptionKey", "encrypt"), evidence.CodeBinding},
		{"SVC-32 a signing key", own, rename("HCLTransferKey", "sign"), evidence.CodeBinding},
		{"no nonce", own, func(r *client.OpenRequest) { r.Nonce = "" }, evidence.CodeParse},
		{"no session", own, func(r *client.OpenRequest) { r.Session = "" }, evidence.CodeParse},
		{"SVC-12 a vmid that climbs", w.signIn(releaser, nil), func(r *client.OpenRequest) { r.VMID = "../keys" }, evidence.CodeAuthz},
		{"SVC-12 a vmid in upper case", own, func(r *client.OpenRequest) { r.VMID = strings.ToUpper(vmID) }, evidence.CodeParse},
		{"a VM without a key", w.vm(otherVM), func(r *client.OpenRequest) { r.VMID = otherVM }, evidence.CodeBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			req := openRequest(w, &key.PublicKey, 0, i+1)
			r.change(&req)
			o, err := w.client(r.bearer).Open(t.Context(), req)
			if evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if err != nil {
				return
			}
			if _, err := o.Unwrap(key); err != nil {
				t.Error(err)
			}
		})
	}
}

// What befell the key decides, and the answer says which key.
func TestCP04KeyOfAGuestState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	admin := w.signIn(identitytest.AdminID, nil)
	name := client.KeyName(vmID)
	n := 0
	open := func() error {
		n++
		_, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, n))
		return err
	}
	do := func(method, path, body string, status int) {
		t.Helper()
		if r := w.call(method, "main", path+"?api-version=7.4", admin, body); r.status != status {
			t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
		}
	}
	refused := func(what string, code evidence.Code, reason string) {
		t.Helper()
		if err := open(); evidence.CodeOf(err) != code || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	do("PATCH", "/keys/"+name, `{"attributes":{"enabled":false}}`, 200)
	refused("CP-04 disabled", evidence.CodePolicy, name+": got disabled")
	do("PATCH", "/keys/"+name, `{"attributes":{"enabled":true}}`, 200)
	if err := open(); err != nil {
		t.Errorf("CP-04 enabled again: %v", err)
	}
	do("DELETE", "/keys/"+name, "", 200)
	refused("CP-04 deleted", evidence.CodeBinding, "key destroyed")
	do("POST", "/deletedkeys/"+name+"/recover", "", 200)
	if err := open(); err != nil {
		t.Errorf("recovered: %v", err)
	}
	for _, op := range []string{"encrypt", "decrypt", "wrapkey", "unwrapkey"} {
		do("POST", "/keys/"+name+"//"+op, `{"alg":"A256KW","value":"AAAA"}`, 403)
	}
	do("POST", "/keys/"+name+"//release", `{"target":"`+w.token(&key.PublicKey)+`"}`, 403)
	do("POST", "/keys/"+name+"/rotate", "", 409)
	do("DELETE", "/keys/"+name, "", 200)
	do("DELETE", "/deletedkeys/"+name, "", 204)
	refused("CP-10 purged", evidence.CodeBinding, "key destroyed")
	do("GET", "/keys/"+name, "", 404)
	do("POST", "/keys/"+name+"/create", `{"kty":"oct-HSM","key_size":256,"attributes":{"exportable":true},"release_policy":{"data":"`+b64(w.policy())+`"}}`, 409)
	refused("CP-10 the name is never used again", evidence.CodeBinding, "key destroyed")
}

func TestOperatorTrusted(t *testing.T) {
	for _, r := range []struct {
		name, by string
		tags     map[string]string
		want     bool
	}{
		{"the tenant's key", identitytest.AdminID, nil, false},
		{"a key that compute marked", identitytest.AdminID, map[string]string{client.OperatorTrustedTag: "true"}, true},
		{"a key that the operator made without the mark", operator, nil, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			w.createGuestState(vmID, r.by, r.tags)
			// Taking the tag off later changes nothing.
			if x := w.call("PATCH", "main", "/keys/"+client.KeyName(vmID)+"?api-version=7.4", w.signIn(r.by, nil), `{"tags":{}}`); x.status != 200 {
				t.Fatal(x.body)
			}
			key := rsaKey(t)
			o, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, 1))
			if err != nil || o.OperatorTrusted != r.want {
				t.Errorf("%+v %v", o, err)
			}
		})
	}
}

// A host that plays the key keeper, or repeats what it once heard.
func TestClientRefusesAHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	var heard string
	real := w.http.Transport
	replay := false
	w.http.Transport = transport(func(r *http.Request) (*http.Response, error) {
		resp, err := real.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			return nil, err
		}
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		if replay {
			resp.StatusCode, b = 200, *bytes.NewBufferString(heard)
		} else {
			heard = b.String()
		}
		resp.Body = readCloser{&b}
		return resp, nil
	})
	c := w.client(w.vm(vmID))
	good := openRequest(w, &key.PublicKey, 0, 1)
	if _, err := c.Open(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	replay = true
	if _, err := c.Open(t.Context(), good); err != nil {
		t.Errorf("the answer to this very question: %v", err)
	}
	for name, change := range map[string]func(*client.OpenRequest){
		"a replayed answer: nonce":      func(r *client.OpenRequest) { r.Nonce = "another" },
		"a replayed answer: session":    func(r *client.OpenRequest) { r.Session = session(7) },
		"a replayed answer: generation": func(r *client.OpenRequest) { r.Generation = 1 },
		"another VM's answer":           func(r *client.OpenRequest) { r.VMID = otherVM },
		"SVC-26 an empty nonce":         func(r *client.OpenRequest) { r.Nonce = "" },
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			change(&r)
			if _, err := c.Open(t.Context(), r); evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("%v", err)
			}
		})
	}
	if err := c.Confirm(t.Context(), client.ConfirmRequest{VMID: vmID, Generation: 0, Session: session(1), Nonce: "nonce-1"}); err == nil {
		t.Error("an open answer passed for a confirmation")
	}
	mine := rsaKey(t)
	var parts struct{ Value string }
	if err := json.Unmarshal([]byte(heard), &parts); err != nil {
		t.Fatal(err)
	}
	payload := strings.Split(parts.Value, ".")[1]
	raw, err := unb64(payload)
	if err != nil {
		t.Fatal(err)
	}
	before := heard
	heard = `{"value":"` + sign(t, mine, "mine", json.RawMessage(raw)) + `"}`
	if _, err := c.Open(t.Context(), good); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("signed by the host: %v", err)
	}
	heard = `{"value":"eyJhbGciOiJub25lIn0.` + payload + `."}`
	if _, err := c.Open(t.Context(), good); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-04 unsigned: %v", err)
	}
	heard = before
	if _, err := c.Open(t.Context(), good); err != nil {
		t.Errorf("the positive twin: %v", err)
	}
	other := client.New(client.Options{URL: w.url("main"), HTTP: w.http, Signers: []initdata.SigningKey{{KID: "x", PEM: pemOf(t, &mine.PublicKey)}}})
	if _, err := other.Open(t.Context(), good); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("a wrong signer: %v", err)
	}
	none := client.New(client.Options{URL: w.url("main"), HTTP: w.http})
	if _, err := none.Open(t.Context(), good); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("SVC-03 no pinned signer: %v", err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

type readCloser struct{ *bytes.Buffer }

func (readCloser) Close() error { return nil }

// Every decision is in the log, without anything secret.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	c := w.client(w.vm(vmID))
	req := openRequest(w, &key.PublicKey, 0, 1)
	if _, err := c.Open(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(context.Background(), openRequest(w, &key.PublicKey, 5, 2)); err == nil {
		t.Fatal("accepted")
	}
	if _, err := w.client(w.signIn(stranger, nil)).Open(context.Background(), req); err == nil {
		t.Fatal("accepted")
	}
	raw, err := os.ReadFile(filepath.Join(w.cfg.StateDir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], `"granted"`) || !strings.Contains(lines[1], `unknown generation`) || !strings.Contains(lines[2], `deny/authz`) {
		t.Errorf("audit log:\n%s", raw)
	}
	if strings.Contains(string(raw), req.Session) || strings.Contains(string(raw), req.Token) {
		t.Error("the log holds a session or a token")
	}
}

// Deleted keys are destroyed when their time is over, and not before; of a guest-state key the name stays taken.
func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	get := func() int {
		return w.call("GET", "main", "/deletedkeys/"+client.KeyName(vmID)+"?api-version=7.4", w.signIn(identitytest.AdminID, nil), "").status
	}
	if r := w.call("DELETE", "main", "/keys/"+client.KeyName(vmID)+"?api-version=7.4", w.signIn(identitytest.AdminID, nil), ""); r.status != 200 {
		t.Fatal(r.body)
	}
	for _, r := range []struct {
		seconds int64
		status  int
	}{{90*24*3600 - 1, 200}, {90 * 24 * 3600, 404}} {
		w.seconds.Store(r.seconds)
		if err := w.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := get(); got != r.status {
			t.Errorf("after %d seconds: %d, want %d", r.seconds, got, r.status)
		}
	}
	key := rsaKey(t)
	if _, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, 1)); evidence.CodeOf(err) != evidence.CodeBinding || !strings.Contains(err.Error(), "key destroyed") {
		t.Errorf("%v", err)
	}
}
