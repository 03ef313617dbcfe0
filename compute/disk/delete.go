package disk

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/store"
)

func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	return s.again(ctx, r, func(it store.Item[Disk], there bool) (*arm.Response, error) {
		if !there {
			return arm.NoContent(), nil
		}
		d := it.Value
		switch {
		case d.VM != "":
			return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "Disk %s is attached to VM %s.", d.Meta.ID.Name, d.VM)
		case len(d.Readers) > 0:
			return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "%s is being copied to %s.", d.Meta.ID.Name, strings.Join(d.Readers, ", "))
		case d.Provisioning == deleting:
			return s.accepted(d, r), nil
		}
		tx := s.DB.Txn()
		gone, err := s.DeleteIn(ctx, tx, &it)
		if err != nil {
			return nil, err
		}
		if err := tx.Commit(ctx); err != nil {
			return nil, err
		}
		if gone {
			afterGone.Hit()
			return &arm.Response{Status: http.StatusOK}, nil
		}
		afterDeleting.Hit()
		return s.accepted(it.Value, r), nil
	})
}

func (s *Service) accepted(d Disk, r *arm.Request) *arm.Response {
	op := operations.Operation{ID: d.Operation, Subscription: d.Meta.ID.Subscription}
	return &arm.Response{Status: http.StatusAccepted, Header: s.Operations.Header(op, r.Version)}
}

// DeleteIn deletes a disk in a transaction, attached or not: at once when no host has blocks of it (gone); otherwise its host destroys
// it first, keys before blocks, and the record goes when that is reported. While it is being copied, it waits for that.
func (s *Service) DeleteIn(ctx context.Context, tx *store.Txn, it *store.Item[Disk]) (gone bool, err error) {
	d := &it.Value
	if len(d.Readers) > 0 {
		d.VM, d.Doomed, d.Meta.Etag = "", true, tracked.NewEtag()
		s.of(it.ID).UpdateIn(tx, *it)
		return false, nil
	}
	if err := s.finishIn(ctx, tx, d.Operation, operations.Canceled, arm.Errorf(http.StatusConflict, "OperationPreempted", "The disk was deleted.")); err != nil {
		return false, err
	}
	known := d.Host != "" && !d.OS()
	if known {
		_, err := s.Hosts.Get(ctx, d.Host)
		if known = err == nil; err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	if !known {
		s.of(it.ID).DeleteIn(tx, *it)
		return true, s.doneIn(ctx, tx, *d)
	}
	op := s.Operations.New(d.Meta.ID.Subscription, d.Meta.ID.String())
	s.Operations.Store.CreateIn(tx, op.ID, op)
	d.VM, d.Provisioning, d.Operation, d.Meta.Etag = "", deleting, op.ID, tracked.NewEtag()
	d.Generation++
	s.of(it.ID).UpdateIn(tx, *it)
	return false, nil
}

// finishIn ends the operation under way, if there is one.
func (s *Service) finishIn(ctx context.Context, tx *store.Txn, operation, status string, failure *arm.Error) error {
	if operation == "" {
		return nil
	}
	return s.Operations.FinishIn(ctx, tx, operation, status, failure)
}

// doneIn tells the source of a copy that the host no longer reads it.
func (s *Service) doneIn(ctx context.Context, tx *store.Txn, d Disk) error {
	if d.SourceUnique == "" {
		return nil
	}
	key := arm.Key(d.Source)
	it, err := s.of(key).Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	var left []string
	for _, r := range it.Value.Readers {
		if r != d.Meta.ID.Key() {
			left = append(left, r)
		}
	}
	if len(left) == len(it.Value.Readers) {
		return nil
	}
	if it.Value.Readers = left; it.Value.Doomed && len(left) == 0 {
		_, err := s.DeleteIn(ctx, tx, &it)
		return err
	}
	s.of(key).UpdateIn(tx, it)
	return nil
}

// Clear begins to delete the disks and snapshots of a group that nothing uses.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	for _, k := range []tracked.Kind[Disk]{s.snapshots(), s.kind()} {
		items, err := k.All(ctx, sub, group)
		if err != nil {
			return err
		}
		for _, it := range items {
			if d := it.Value; d.VM != "" || len(d.Readers) > 0 || d.Provisioning == deleting {
				continue
			}
			tx := s.DB.Txn()
			gone, err := s.DeleteIn(ctx, tx, &it)
			if err != nil {
				return err
			}
			if err := tx.Commit(ctx); err != nil {
				return err
			}
			if gone {
				afterGone.Hit()
			} else {
				afterDeleting.Hit()
			}
		}
	}
	return nil
}
