package compute_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/internal/ratelimit"
	"cloister.dev/cloister/store/embedded"
)

// A caller who asks too much is told when to come back, and what is left is told before.
func TestCallersAreBounded(t *testing.T) {
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.RateLimits.Reads = ratelimit.Rate{Burst: 2, PerSecond: 0.001}
	})
	const path = "/subscriptions/" + sub + "/resourceGroups"
	for _, left := range []string{"1", "0"} {
		if status, out, h := e.call("GET", path, ""); status != 200 || h.Get("x-ms-ratelimit-remaining-subscription-reads") != left {
			t.Errorf("%d %v, %v", status, out, h)
		}
	}
	status, out, h := e.call("GET", path, "")
	if code, _, _ := errorOf(out); status != 429 || code != "TooManyRequests" || h.Get("Retry-After") == "" || h.Get("Retry-After") == "0" {
		t.Errorf("SVC-11 a caller beyond the bound: %d %v %v", status, out, h)
	}
	if status, out, _ := e.call("PUT", group, `{"location":"local"}`); status != 201 {
		t.Errorf("writes are counted apart: %d %v", status, out)
	}
}

// A store that a later program has written is left alone.
func TestAStoreOfALaterVersionIsLeftAlone(t *testing.T) {
	etcd, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Stop)
	e := newEnv(t)
	if _, err := etcd.Client().Put(context.Background(), "/cloister/compute/schema", "2"); err != nil {
		t.Fatal(err)
	}
	_, err = compute.New(e.cfg, compute.Deps{Etcd: etcd.Client(), MintVM: e.issuer.MintVM, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Keys: e.keys, Maker: e.keys, Judge: judgeFake})
	if err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("got %v", err)
	}
}
