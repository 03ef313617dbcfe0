// Package store keeps typed resources in etcd: get, list, watch and transactions over several keys.
//
// It knows no kinds of resources. A Store holds the values of one kind under one prefix, as JSON. Revisions are
// etcd's: each value has the revision of its last change, and a write that names a revision fails with
// ErrConflict when somebody else was faster.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("changed by somebody else")
	ErrExists   = errors.New("exists")
	ErrTooOld   = errors.New("watch revision is compacted; list again")
)

// DB is an etcd keyspace under one prefix.
type DB struct {
	client *clientv3.Client
	prefix string
}

// Open makes a keyspace. The prefix ends without a slash, such as "/cloister/compute".
func Open(client *clientv3.Client, prefix string) *DB {
	return &DB{client: client, prefix: strings.TrimSuffix(prefix, "/")}
}

// Item is a value with its place and revision.
type Item[T any] struct {
	ID       string
	Value    T
	Revision int64 // of the last change
	Created  int64 // revision of the creation: tells a new value under an old name
}

// Store holds values of one kind.
type Store[T any] struct {
	db  *DB
	dir string
}

// Of makes the store of one kind. A kind has no slash.
func Of[T any](db *DB, kind string) Store[T] {
	return Store[T]{db: db, dir: db.prefix + "/" + kind + "/"}
}

// key refuses ids that would leave the kind's folder or hide in a list.
func (s Store[T]) key(id string) (string, error) {
	if id == "" || len(id) > 1024 || strings.ContainsAny(id, "\x00\n") {
		return "", fmt.Errorf("store id %q: empty, too long or with control characters", id)
	}
	return s.dir + id, nil
}

// Get reads one value.
func (s Store[T]) Get(ctx context.Context, id string) (Item[T], error) {
	key, err := s.key(id)
	if err != nil {
		return Item[T]{}, err
	}
	resp, err := s.db.client.Get(ctx, key)
	if err != nil {
		return Item[T]{}, fmt.Errorf("reading %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return Item[T]{}, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	kv := resp.Kvs[0]
	return s.item(string(kv.Key), kv.Value, kv.ModRevision, kv.CreateRevision)
}

// List reads all values whose id begins with idPrefix ("" is all), in order of id, and the revision at which
// that was so: Watch from there on sees each later change.
func (s Store[T]) List(ctx context.Context, idPrefix string) ([]Item[T], int64, error) {
	resp, err := s.db.client.Get(ctx, s.dir+idPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("listing %s: %w", s.dir+idPrefix, err)
	}
	items := make([]Item[T], 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		it, err := s.item(string(kv.Key), kv.Value, kv.ModRevision, kv.CreateRevision)
		if err != nil {
			return nil, 0, err
		}
		items = append(items, it)
	}
	return items, resp.Header.Revision, nil
}

func (s Store[T]) item(key string, raw []byte, rev, created int64) (Item[T], error) {
	it := Item[T]{ID: strings.TrimPrefix(key, s.dir), Revision: rev, Created: created}
	if err := json.Unmarshal(raw, &it.Value); err != nil {
		return it, fmt.Errorf("decoding %s: %w", key, err)
	}
	return it, nil
}

// Create writes a value that must not exist yet.
func (s Store[T]) Create(ctx context.Context, id string, v T) error {
	tx := s.db.Txn()
	s.CreateIn(tx, id, v)
	if err := tx.Commit(ctx); errors.Is(err, ErrConflict) {
		return fmt.Errorf("%s%s: %w", s.dir, id, ErrExists)
	} else {
		return err
	}
}

// Update writes over exactly the revision that was read.
func (s Store[T]) Update(ctx context.Context, it Item[T]) error {
	tx := s.db.Txn()
	s.UpdateIn(tx, it)
	return tx.Commit(ctx)
}

// Delete removes exactly the revision that was read.
func (s Store[T]) Delete(ctx context.Context, it Item[T]) error {
	tx := s.db.Txn()
	s.DeleteIn(tx, it)
	return tx.Commit(ctx)
}

// Put writes a value whatever was there.
func (s Store[T]) Put(ctx context.Context, id string, v T) error {
	tx := s.db.Txn()
	s.PutIn(tx, id, v)
	return tx.Commit(ctx)
}

// PutLeased writes a value that vanishes when it isn't written again for ttl seconds.
func (s Store[T]) PutLeased(ctx context.Context, id string, v T, ttl int64) error {
	lease, err := s.db.client.Grant(ctx, ttl)
	if err != nil {
		return fmt.Errorf("granting a lease: %w", err)
	}
	tx := s.db.Txn()
	s.put(tx, id, v, clientv3.WithLease(lease.ID))
	return tx.Commit(ctx)
}

// Mutate reads, changes and writes until nobody comes in between. The function may run several times; when it
// returns an error, nothing is written.
func (s Store[T]) Mutate(ctx context.Context, id string, change func(*T) error) (Item[T], error) {
	for {
		it, err := s.Get(ctx, id)
		if err != nil {
			return it, err
		}
		if err := change(&it.Value); err != nil {
			return it, err
		}
		if err := s.Update(ctx, it); !errors.Is(err, ErrConflict) {
			return it, err
		}
	}
}
