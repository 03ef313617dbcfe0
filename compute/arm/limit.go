package arm

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Rate bounds one caller's calls of one sort: Burst at once, then PerSecond. A Burst of zero is no bound.
type Rate struct {
	Burst     int     `json:"burst"`
	PerSecond float64 `json:"perSecond"`
}

// Rates are the bounds of one caller, each sort on its own as Resource Manager counts them.
type Rates struct {
	Reads   Rate `json:"reads"`
	Writes  Rate `json:"writes"` // PUT, PATCH, POST
	Deletes Rate `json:"deletes"`
}

// Valid tells whether callers that were throttled can ever go on.
func (r Rate) Valid() bool {
	return r.Burst == 0 && r.PerSecond == 0 || r.Burst > 0 && r.PerSecond > 0 && !math.IsInf(r.PerSecond, 0)
}

// Limiter counts the calls of this server's callers, who have proved who they are. Several servers count apart.
type Limiter struct {
	rates Rates

	mu      sync.Mutex
	buckets map[bucketKey]bucket
}

type bucketKey struct{ caller, sort string }

// bucket holds what was left at a time; what has come since is added when it is read.
type bucket struct {
	left float64
	at   time.Time
}

// maxBuckets is the number from which full buckets are dropped: they say nothing.
const maxBuckets = 10_000

// NewLimiter makes a limiter.
func NewLimiter(r Rates) *Limiter { return &Limiter{rates: r, buckets: map[bucketKey]bucket{}} }

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

func (r Rates) of(sort string) Rate {
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
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buckets) >= maxBuckets {
		l.dropFull(now)
	}
	key := bucketKey{caller, sort}
	left := l.left(key, rate, now)
	h := http.Header{}
	remaining := "x-ms-ratelimit-remaining-subscription-" + sort
	if left < 1 {
		wait := int(math.Ceil((1 - left) / rate.PerSecond))
		h.Set("Retry-After", strconv.Itoa(max(wait, 1)))
		h.Set(remaining, "0")
		return h, Errorf(http.StatusTooManyRequests, "TooManyRequests", "The caller has used up its %s: %d at once, then %g a second. Try again after %d seconds.", sort, rate.Burst, rate.PerSecond, max(wait, 1))
	}
	left--
	l.buckets[key] = bucket{left, now}
	h.Set(remaining, strconv.Itoa(int(left)))
	return h, nil
}

func (l *Limiter) left(key bucketKey, rate Rate, now time.Time) float64 {
	b, ok := l.buckets[key]
	if !ok {
		return float64(rate.Burst)
	}
	since := max(now.Sub(b.at), 0) // a clock that was set back takes nothing away
	return min(float64(rate.Burst), b.left+since.Seconds()*rate.PerSecond)
}

func (l *Limiter) dropFull(now time.Time) {
	for key := range l.buckets {
		rate := l.rates.of(key.sort)
		if l.left(key, rate, now) >= float64(rate.Burst) {
			delete(l.buckets, key)
		}
	}
}
