// Package ratelimit bounds how often each of many callers may ask.
package ratelimit

import (
	"math"
	"sync"
	"time"
)

// Rate is a bucket: Burst calls at once, then PerSecond as time goes by.
type Rate struct {
	Burst     int     `json:"burst"`
	PerSecond float64 `json:"perSecond"`
}

// Valid tells whether a caller that was refused can ever go on. The zero rate, which bounds nothing, is valid too.
func (r Rate) Valid() bool {
	return r.Burst == 0 && r.PerSecond == 0 || r.Burst > 0 && r.PerSecond > 0 && !math.IsInf(r.PerSecond, 0)
}

// Limiter counts calls by key. One process counts for itself.
type Limiter[K comparable] struct {
	rate func(K) Rate

	mu      sync.Mutex
	buckets map[K]bucket
}

// bucket holds what was left at a time; what has come since is added when it is read.
type bucket struct {
	left float64
	at   time.Time
}

// maxBuckets is the number from which full buckets are dropped: they say nothing.
const maxBuckets = 10_000

// New makes a limiter. The rate of a key never changes.
func New[K comparable](rate func(K) Rate) *Limiter[K] {
	return &Limiter[K]{rate: rate, buckets: map[K]bucket{}}
}

// Take counts a call. It gives how many are left, and how long to wait where there was none: a call that is refused costs
// nothing.
func (l *Limiter[K]) Take(key K, now time.Time) (left int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[key]
	if !known {
		if len(l.buckets) >= maxBuckets {
			l.dropFull(now)
		}
		b = bucket{float64(l.rate(key).Burst), now}
	}
	b = l.filled(key, b, now)
	if b.left >= 1 {
		b.left--
	} else {
		wait = time.Duration(math.Ceil((1 - b.left) / l.rate(key).PerSecond * float64(time.Second)))
	}
	l.buckets[key] = b
	return int(b.left), wait
}

// filled is a bucket as it is now. A clock that was set back adds nothing and takes nothing away.
func (l *Limiter[K]) filled(key K, b bucket, now time.Time) bucket {
	if since := now.Sub(b.at); since > 0 {
		rate := l.rate(key)
		b.left, b.at = min(float64(rate.Burst), b.left+since.Seconds()*rate.PerSecond), now
	}
	return b
}

func (l *Limiter[K]) dropFull(now time.Time) {
	for key, b := range l.buckets {
		if l.filled(key, b, now).left >= float64(l.rate(key).Burst) {
			delete(l.buckets, key)
		}
	}
}
