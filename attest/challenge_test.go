package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/token"
)

func (w *world) challenge(t testing.TB, path string) string {
	t.Helper()
	nonce, expires, err := w.client(path).Challenge(t.Context())
	if err != nil || !expires.Equal(w.now.Add(2*time.Minute)) {
		t.Fatalf("challenge until %s, %v", expires, err)
	}
	return nonce
}

// fresh is good evidence whose runtime data carry members.
func (w *world) fresh(t testing.TB, challenge string, members map[string]any) client.SevSnpVM {
	t.Helper()
	raw, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	in := w.report(t, w.chip, func(r *sevsnp.Report) { r.ReportData = hcl.ReportData(raw) })
	in.RuntimeData, in.Challenge = raw, challenge
	return in
}

func TestChallengeSevSnpVM(t *testing.T) {
	w := newWorld(t)
	ctx, c := t.Context(), w.client("/software")
	nonce := w.challenge(t, "/software")
	sum := sha256.Sum256([]byte(nonce))
	userData := strings.ToUpper(hex.EncodeToString(sum[:])) + strings.Repeat("0", 64)
	other := w.challenge(t, "")
	for _, r := range []struct {
		name string
		in   client.SevSnpVM
		code evidence.Code
	}{
		{"runtime data of another nonce", w.fresh(t, nonce, map[string]any{"nonce": other}), evidence.CodeBinding},
		{"runtime data without nonce", w.fresh(t, nonce, map[string]any{"x": nonce}), evidence.CodeBinding},
		{"user data that hold the nonce elsewhere", w.fresh(t, nonce, map[string]any{"user-data": strings.Repeat("0", 64) + userData[:64]}), evidence.CodeBinding},
		{"SVC-13 another issuer's nonce", w.fresh(t, other, map[string]any{"nonce": other}), evidence.CodeBinding},
		{"a nonce of nobody's", w.fresh(t, strings.Repeat("A", 43), map[string]any{"nonce": strings.Repeat("A", 43)}), evidence.CodeBinding},
		{"SVC-12 a path", w.fresh(t, "../x", map[string]any{"nonce": "../x"}), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got, err := c.SevSnpVM(ctx, r.in); got != "" || evidence.CodeOf(err) != r.code {
				t.Errorf("got %q, %v; want %s", got, err, r.code)
			}
		})
	}
	noData := w.fresh(t, nonce, map[string]any{"nonce": nonce})
	noData.RuntimeData = nil
	if _, err := c.SevSnpVM(ctx, noData); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("no runtime data: %v", err)
	}
	compact, err := c.SevSnpVM(ctx, w.fresh(t, nonce, map[string]any{"user-data": userData}))
	if err != nil {
		t.Fatalf("twin: %v", err)
	}
	if tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now); err != nil || tok.Claims["x-cloister-challenge"] != nonce {
		t.Errorf("token %v, %v", tok, err)
	}
	if _, err := c.SevSnpVM(ctx, w.fresh(t, nonce, map[string]any{"nonce": nonce})); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("SVC-14 redeemed before: %v", err)
	}
	late := w.challenge(t, "/software")
	w.now = w.now.Add(2 * time.Minute)
	if _, err := c.SevSnpVM(ctx, w.fresh(t, late, map[string]any{"nonce": late})); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("after its end: %v", err)
	}
}

// A policy can ask for fresh evidence; a policy cannot make it so.
func TestChallengeAndPolicy(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := client.New(client.Options{URL: w.url + "/software", HTTP: w.http, Bearer: w.bearer(t)})
	if err := admin.SetPolicy(ctx, "SevSnpVm", `version=1.0;authorizationrules{[type=="x-cloister-challenge"]=>permit();};`); err != nil {
		t.Fatal(err)
	}
	nonce := w.challenge(t, "/software")
	stale := w.fresh(t, "", map[string]any{"nonce": nonce})
	if _, err := w.client("/software").SevSnpVM(ctx, stale); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("without a challenge: %v", err)
	}
	if _, err := w.client("/software").SevSnpVM(ctx, w.fresh(t, nonce, map[string]any{"nonce": nonce})); err != nil {
		t.Errorf("twin: %v", err)
	}
}

func TestSVC14OneTokenPerChallenge(t *testing.T) {
	w := newWorld(t)
	nonce := w.challenge(t, "/software")
	in := w.fresh(t, nonce, map[string]any{"nonce": nonce})
	var won atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := w.client("/software").SevSnpVM(t.Context(), in); err == nil {
				won.Add(1)
			} else if evidence.CodeOf(err) != evidence.CodeBinding {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d tokens for one nonce", won.Load())
	}
}

func TestChallengeGuest(t *testing.T) {
	w, f := newWorld(t), newTPM(t)
	ctx, c := t.Context(), w.client("/software")
	nonce := w.challenge(t, "/software")
	stale := w.guest(t, f, goodLog(1), "n1")
	stale.Challenge = nonce
	if _, err := c.AzureGuest(ctx, stale); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("a quote of another nonce: %v", err)
	}
	l := stockLog()
	unbound := f.encrypted(t, w.guest(t, f, l, nonce), tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(l.pcrs))
	unbound.Quote, unbound.QuoteSignature = f.quote(t, l.pcrs, nil, nil)
	unbound.Challenge = nonce
	if _, err := c.AzureGuest(ctx, unbound); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("a nonce that the quote does not carry: %v", err)
	}
	bound := w.guest(t, f, goodLog(1), nonce)
	bound.Challenge = nonce
	compact, err := c.AzureGuest(ctx, bound)
	if err != nil {
		t.Fatalf("twin: %v", err)
	}
	if tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now); err != nil || tok.Claims["x-cloister-challenge"] != nonce {
		t.Errorf("token %v, %v", tok, err)
	}
	if _, err := c.AzureGuest(ctx, bound); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("SVC-14 redeemed before: %v", err)
	}
}

func TestValidateChallenges(t *testing.T) {
	good := func() *Challenges {
		return &Challenges{Life: "1m", Max: 10, Etcd: &Etcd{Endpoints: []string{"https://a:1"}, CA: "a", Cert: "b", Key: "c"}}
	}
	if m := good().validate(); len(m) != 0 {
		t.Fatal(m)
	}
	for name, change := range map[string]func(*Challenges){
		"no life": func(c *Challenges) { c.Life = "" }, "a day": func(c *Challenges) { c.Life = "24h" }, "none": func(c *Challenges) { c.Max = 0 },
		"SVC-11 without end": func(c *Challenges) { c.Max = 1 << 30 }, "no endpoint": func(c *Challenges) { c.Etcd.Endpoints = nil }, "no CA": func(c *Challenges) { c.Etcd.CA = "" },
	} {
		c := good()
		change(c)
		if len(c.validate()) == 0 {
			t.Errorf("%s: valid", name)
		}
	}
}
