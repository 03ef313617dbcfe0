package tracked

import (
	"context"
	"errors"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/store"
)

// Groups says whether something may be put into a group, and binds a transaction to it.
type Groups interface {
	Require(ctx context.Context, tx *store.Txn, sub, group string) error
}

// Write makes the resource that a request names, or changes it, in one transaction with its group. A write that another call
// overtook is judged again on what is there then. Made tells whether there was none before.
func (k Kind[T]) Write(ctx context.Context, db *store.DB, groups Groups, r *arm.Request, now func() time.Time, change func(v *T, made bool) error) (v T, made bool, err error) {
	for {
		v, made, err = k.writeOnce(ctx, db, groups, r, now, change)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return v, made, err
		}
	}
}

func (k Kind[T]) writeOnce(ctx context.Context, db *store.DB, groups Groups, r *arm.Request, now func() time.Time, change func(v *T, made bool) error) (v T, made bool, err error) {
	id, tx := r.ID(), db.Txn()
	if err := groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
		return v, false, err
	}
	it, err := k.Store.Get(ctx, id.Key())
	made = errors.Is(err, store.ErrNotFound)
	if err != nil && !made {
		return v, false, err
	}
	if err := Match(r.HTTP.Header, k.Meta(&it.Value).Etag); err != nil {
		return v, false, err
	}
	if made {
		*k.Meta(&it.Value) = Meta{ID: id, Created: now().UTC()}
	}
	if err := change(&it.Value, made); err != nil {
		return v, made, err
	}
	k.Meta(&it.Value).Etag = NewEtag()
	if made {
		k.Store.CreateIn(tx, id.Key(), it.Value)
	} else {
		k.Store.UpdateIn(tx, it)
	}
	return it.Value, made, tx.Commit(ctx)
}

// Metas reads the common parts of all resources of the kind in a subscription, or in one of its groups.
func (k Kind[T]) Metas(ctx context.Context, sub, group string) ([]Meta, error) {
	items, err := k.All(ctx, sub, group)
	if err != nil {
		return nil, err
	}
	var out []Meta
	for _, it := range items {
		out = append(out, *k.Meta(&it.Value))
	}
	return out, nil
}

// Clear removes the resources of a group that nothing uses; unused tells which.
func (k Kind[T]) Clear(ctx context.Context, sub, group string, unused func(T) bool) error {
	items, err := k.All(ctx, sub, group)
	if err != nil {
		return err
	}
	for _, it := range items {
		if !unused(it.Value) {
			continue
		}
		if err := k.Store.Delete(ctx, it); err != nil {
			return err
		}
	}
	return nil
}
