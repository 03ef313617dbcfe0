package arm

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"cloister.dev/cloister/internal/ratelimit"
)

// Rates are the bounds of one caller, each sort on its own as Resource Manager counts them. A burst of zero is no bound.
type Rates struct {
	Reads   ratelimit.Rate `json:"reads"`
	Writes  ratelimit.Rate `json:"writes"` // PUT, PATCH, POST
	Deletes ratelimit.Rate `json:"deletes"`
}

// Limiter counts the calls of this server's callers, who have proved who they are. Several servers count apart.
type Limiter struct {
	rates   Rates
	buckets *ratelimit.Limiter[bucketKey]
}

type bucketKey struct{ caller, sort string }

// NewLimiter makes a limiter.
func NewLimiter(r Rates) *Limiter {
	return &Limiter{rates: r, buckets: ratelimit.New(func(k bucketKey) ratelimit.Rate { return r.of(k.sort) })}
}

// The sorts of calls, as headers name them.
const (
	reads   = "reads"
	writes  = "writes"
	deletes = "deletes"
)

func sortOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return reads
	case http.MethodDelete:
		return deletes
	}
	return writes
}

func (r Rates) of(sort string) ratelimit.Rate {
	switch sort {
	case reads:
		return r.Reads
	case deletes:
		return r.Deletes
	}
	return r.Writes
}

// Take counts one call. The headers go with the answer whether or not there is a refusal.
func (l *Limiter) Take(caller, method string, now time.Time) (http.Header, error) {
	sort := sortOf(method)
	rate := l.rates.of(sort)
	if rate.Burst == 0 {
		return nil, nil
	}
	left, wait := l.buckets.Take(bucketKey{caller, sort}, now)
	h := http.Header{}
	h.Set("x-ms-ratelimit-remaining-subscription-"+sort, strconv.Itoa(left))
	if wait > 0 {
		seconds := int(math.Ceil(wait.Seconds()))
		h.Set("Retry-After", strconv.Itoa(seconds))
		return h, Errorf(http.StatusTooManyRequests, "TooManyRequests", "The caller has used up its %s: %d at once, then %g a second. Try again after %d seconds.", sort, rate.Burst, rate.PerSecond, seconds)
	}
	return h, nil
}
