package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is one change. Deleted items carry the last value.
type Event[T any] struct {
	Item    Item[T]
	Deleted bool
}

// Watch calls handle for each change after the revision, in order, until the context is done, handle fails or
// the revision is too old (ErrTooOld: list again).
func (s Store[T]) Watch(ctx context.Context, idPrefix string, after int64, handle func(Event[T]) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := s.db.client.Watch(clientv3.WithRequireLeader(ctx), s.dir+idPrefix,
		clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithPrevKV())
	for resp := range ch {
		if err := resp.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				return ErrTooOld
			}
			return fmt.Errorf("watching %s: %w", s.dir, err)
		}
		for _, ev := range resp.Events {
			out := Event[T]{Deleted: ev.Type == clientv3.EventTypeDelete}
			kv := ev.Kv
			if out.Deleted {
				if kv = ev.PrevKv; kv == nil { // compacted in between: only the id is known
					out.Item.ID = strings.TrimPrefix(string(ev.Kv.Key), s.dir)
					if err := handle(out); err != nil {
						return err
					}
					continue
				}
			}
			it, err := s.item(string(kv.Key), kv.Value, kv.ModRevision, kv.CreateRevision)
			if err != nil {
				return err
			}
			out.Item = it
			if err := handle(out); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// Follow lists, then watches, and begins again after a gap, until the context is done or handle fails. handle
// sees each value at least once, and Reset before each new list.
func (s Store[T]) Follow(ctx context.Context, idPrefix string, reset func([]Item[T]) error, handle func(Event[T]) error) error {
	for {
		items, rev, err := s.List(ctx, idPrefix)
		if err != nil {
			return err
		}
		if err := reset(items); err != nil {
			return err
		}
		if err := s.Watch(ctx, idPrefix, rev, handle); !errors.Is(err, ErrTooOld) {
			return err
		}
	}
}
