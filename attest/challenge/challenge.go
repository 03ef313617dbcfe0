// Package challenge hands out nonces that count once.
//
// A client that wants a token to be fresh asks for a nonce, puts it into what its hardware signs, and names it in
// its request. The verifier takes the nonce out of the store before it answers; who comes second, comes late. The
// protocol of Azure's service has no such step, so nobody has to take it.
package challenge

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
)

// Size of a nonce in bytes; it travels as base64url without padding.
const Size = 32

// Limits of what a configuration may say.
const (
	MinLife = 10 * time.Second
	MaxLife = 10 * time.Minute
	MaxOpen = 1_000_000
)

// Store keeps what was handed out. Replicas that share one store share its nonces. Ids are hexadecimal digits and
// say nothing of the nonce.
type Store interface {
	// Put keeps an id until it expires.
	Put(ctx context.Context, id string, expires, now time.Time) error
	// Take removes an id and tells whether it was there and had not expired. Of any number of callers at once, at
	// most one is told true.
	Take(ctx context.Context, id string, now time.Time) (bool, error)
}

// Challenge is a nonce with its end.
type Challenge struct {
	Nonce   string
	Expires time.Time
}

// Challenges hands out nonces and redeems them.
type Challenges struct {
	store Store
	life  time.Duration
	max   int

	mu   sync.Mutex
	open []time.Time // when those that this process handed out expire, ascending
}

// New makes challenges that live for a time. At most max that were handed out here are unexpired at once, redeemed
// or not, so that asking for nonces cannot fill the store.
func New(s Store, life time.Duration, max int) (*Challenges, error) {
	if s == nil || life < MinLife || life > MaxLife || max < 1 || max > MaxOpen {
		return nil, fmt.Errorf("challenges that live %s, at most %d: want a store, %s to %s, 1 to %d", life, max, MinLife, MaxLife, MaxOpen)
	}
	return &Challenges{store: s, life: life, max: max}, nil
}

// Issue hands out a nonce. Refusals: unavailable, when too many are out or the store can't be reached.
func (c *Challenges) Issue(ctx context.Context, now time.Time) (Challenge, error) {
	if err := c.admit(now); err != nil {
		return Challenge{}, err
	}
	var raw [Size]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return Challenge{}, err
	}
	out := Challenge{Nonce: base64.RawURLEncoding.EncodeToString(raw[:]), Expires: now.Add(c.life).UTC().Truncate(time.Second)}
	if err := c.store.Put(ctx, id(raw[:]), out.Expires, now); err != nil {
		return Challenge{}, unavailable(err)
	}
	return out, nil
}

func (c *Challenges) admit(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := 0
	for gone < len(c.open) && !now.Before(c.open[gone]) {
		gone++
	}
	c.open = c.open[gone:]
	if len(c.open) >= c.max {
		return evidence.Refuse(evidence.CodeUnavailable, "challenges", fmt.Sprintf("%d handed out", len(c.open)), fmt.Sprintf("fewer than %d unexpired ones", c.max))
	}
	c.open = append(c.open, now.Add(c.life))
	return nil
}

// Redeem takes a nonce. Nobody can take it again. Refusals: parse; binding, when it was never handed out, has
// expired or was redeemed; unavailable, when the store can't be reached.
func (c *Challenges) Redeem(ctx context.Context, nonce string, now time.Time) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(raw) != Size {
		return evidence.Refuse(evidence.CodeParse, "challenge", "another form", "a nonce that this service handed out")
	}
	taken, err := c.store.Take(ctx, id(raw), now)
	if err != nil {
		return unavailable(err)
	}
	if !taken {
		return evidence.Refuse(evidence.CodeBinding, "challenge", "unknown, expired or redeemed", "a nonce that this service handed out, once, in its time")
	}
	return nil
}

// id is the nonce's digest, so that neither looking it up nor reading the store tells the nonce.
func id(nonce []byte) string {
	sum := sha256.Sum256(nonce)
	return hex.EncodeToString(sum[:])
}

func unavailable(err error) error {
	var r *evidence.Refusal
	if errors.As(err, &r) {
		return err
	}
	return fmt.Errorf("%w: %w", evidence.Refuse(evidence.CodeUnavailable, "challenges", "the store can't be used", "the store"), err)
}
