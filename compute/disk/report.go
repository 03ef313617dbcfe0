package disk

import (
	"context"
	"errors"
	"net/http"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// Reported takes what a host says of one of its disks, and ends the operation that waited for it. What it says of others, or of
// what is no longer wanted, is passed over.
func (s *Service) Reported(ctx context.Context, host string, seen api.DiskStatus) error {
	for {
		err := s.reported(ctx, host, seen)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Service) reported(ctx context.Context, host string, seen api.DiskStatus) error {
	if seen.Resource == "" {
		return nil
	}
	it, err := s.of(seen.Resource).Get(ctx, seen.Resource)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	d := &it.Value
	if d.OS() || d.Host != host || d.UniqueID != seen.ID || d.Generation != seen.Generation {
		return nil
	}
	tx, after := s.DB.Txn(), afterSettled
	switch {
	case seen.State == api.DiskDeleted && d.Provisioning == deleting:
		if err := errors.Join(s.doneIn(ctx, tx, *d), s.finishIn(ctx, tx, d.Operation, operations.Succeeded, nil)); err != nil {
			return err
		}
		s.of(it.ID).DeleteIn(tx, it)
		after = afterGone
	case seen.State == api.DiskReady && (d.Operation != "" || d.Provisioning == failed):
		if err := errors.Join(s.doneIn(ctx, tx, *d), s.finishIn(ctx, tx, d.Operation, operations.Succeeded, nil)); err != nil {
			return err
		}
		d.Operation, d.Provisioning, d.Failure = "", succeeded, nil
		s.of(it.ID).UpdateIn(tx, it)
	case seen.State == api.DiskFailed && d.Operation != "" && d.Provisioning != deleting:
		// The host goes on trying, and may still read the source of a copy: that stays bound until the copy is made or deleted.
		d.Provisioning, d.Failure = failed, arm.Errorf(http.StatusConflict, "DiskFailed", "The host reports a failure without a reason.")
		if seen.Failure != nil {
			d.Failure = arm.Errorf(http.StatusConflict, "DiskFailed", "%s", seen.Failure.Error())
		}
		if err := s.finishIn(ctx, tx, d.Operation, operations.Failed, d.Failure); err != nil {
			return err
		}
		d.Operation = ""
		s.of(it.ID).UpdateIn(tx, it)
	default:
		return nil
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	after.Hit()
	return nil
}
