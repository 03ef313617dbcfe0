package arm_test

import (
	"net/http"
	"testing"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/internal/ratelimit"
)

func TestLimiter(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	rates := arm.Rates{Writes: ratelimit.Rate{Burst: 2, PerSecond: 0.5}, Deletes: ratelimit.Rate{Burst: 1, PerSecond: 1}}
	l := arm.NewLimiter(rates)
	for i, c := range []struct {
		caller, method string
		after          time.Duration
		remaining      string // of the sort that was asked for
		retry          string // "" is: not refused
	}{
		{"a", "PUT", 0, "1", ""},
		{"a", "POST", 0, "0", ""},
		{"a", "PATCH", 0, "0", "2"},
		{"a", "PUT", time.Second, "0", "1"},
		{"a", "DELETE", time.Second, "0", ""},
		{"b", "PUT", time.Second, "1", ""},
		{"a", "PUT", 2 * time.Second, "0", ""},
		{"a", "PUT", time.Second, "0", "2"}, // the clock went back
		{"a", "PUT", time.Hour, "1", ""},    // never more than the burst
		{"a", "GET", 0, "", ""},             // no bound
	} {
		h, err := l.Take(c.caller, c.method, start.Add(c.after))
		if (err != nil) != (c.retry != "") || h.Get("Retry-After") != c.retry {
			t.Errorf("row %d: got %v, Retry-After %q, want %q", i, err, h.Get("Retry-After"), c.retry)
		}
		sort := map[string]string{"DELETE": "deletes", "GET": "reads"}[c.method]
		if sort == "" {
			sort = "writes"
		}
		if got := h.Get("x-ms-ratelimit-remaining-subscription-" + sort); got != c.remaining {
			t.Errorf("row %d: remaining %q, want %q", i, got, c.remaining)
		}
		if err != nil && arm.AsError(err).Status != http.StatusTooManyRequests {
			t.Errorf("row %d: %v", i, err)
		}
	}
}
