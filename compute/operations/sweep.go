package operations

import (
	"context"
	"errors"
	"time"

	"cloister.dev/cloister/store"
)

// Retention is how long the end of an operation can be read; sweepEvery, how often older ones are taken out.
const (
	Retention  = 24 * time.Hour
	sweepEvery = time.Hour
)

// Run takes out operations that ended long ago, until the context is done. Any number of servers may do so.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("taking out old operations", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep takes out operations that ended longer ago than Retention.
func (s *Service) Sweep(ctx context.Context) error {
	items, _, err := s.Store.List(ctx, "")
	if err != nil {
		return err
	}
	old := s.Now().Add(-Retention)
	var errs []error
	for _, it := range items {
		if it.Value.End == nil || it.Value.End.After(old) {
			continue
		}
		// Another server may have been faster.
		if err := s.Store.Delete(ctx, it); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
