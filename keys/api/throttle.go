package api

import (
	"fmt"
	"math"
	"net/http"
	"time"

	"cloister.dev/cloister/internal/ratelimit"
)

// DefaultRequests is how many requests a caller may make in throttleWindow: Key Vault's own limit for ordinary operations.
const (
	DefaultRequests = 4000
	throttleWindow  = 10 * time.Second
)

func newLimiter(requests int) *ratelimit.Limiter[string] {
	rate := ratelimit.Rate{Burst: requests, PerSecond: float64(requests) / throttleWindow.Seconds()}
	return ratelimit.New(func(string) ratelimit.Rate { return rate })
}

// throttle refuses a caller that asked too often, as Key Vault does. Clients wait for Retry-After and come again.
func (c *call) throttle(w http.ResponseWriter) error {
	_, wait := c.limiter.Take(c.caller.ObjectID, c.Now())
	if wait == 0 {
		return nil
	}
	c.operation = "throttled"
	w.Header().Set("Retry-After", fmt.Sprint(int(math.Ceil(wait.Seconds()))))
	return &failure{status: http.StatusTooManyRequests, code: "Throttled", message: "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"}
}
