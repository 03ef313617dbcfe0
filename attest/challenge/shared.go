package challenge

import (
	"context"
	"errors"
	"time"

	"cloister.dev/cloister/store"
)

// record is what the shared store holds of a nonce.
type record struct {
	Expires time.Time `json:"expires"`
}

// Shared keeps nonces in etcd, for replicas behind one address: what one handed out, another redeems.
type Shared struct{ ids store.Store[record] }

// NewShared keeps the nonces of one issuer, by its name: those of another are unknown.
func NewShared(db *store.DB, issuer string) *Shared {
	return &Shared{store.Of[record](db, "challenges-"+issuer)}
}

// leaseSlack is how long a nonce stays after its end, in seconds: its end is judged by the service's clock, the lease
// only cleans up.
const leaseSlack = 30

// Put keeps an id under a lease, so that it goes away when nobody takes it.
func (s *Shared) Put(ctx context.Context, id string, expires, now time.Time) error {
	return s.ids.PutLeased(ctx, id, record{expires}, int64(expires.Sub(now)/time.Second)+leaseSlack)
}

// Take removes an id at exactly the revision that was read: of those who read it at once, one writes.
func (s *Shared) Take(ctx context.Context, id string, now time.Time) (bool, error) {
	it, err := s.ids.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch err := s.ids.Delete(ctx, it); {
	case errors.Is(err, store.ErrConflict):
		return false, nil
	case err != nil:
		return false, err
	}
	return now.Before(it.Value.Expires), nil
}
