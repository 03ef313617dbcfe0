package store

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Txn gathers conditions and writes over any number of stores of one keyspace. All happen, or none.
type Txn struct {
	client *clientv3.Client
	cmps   []clientv3.Cmp
	ops    []clientv3.Op
	err    error
}

// Txn begins a transaction.
func (db *DB) Txn() *Txn { return &Txn{client: db.client} }

// Commit runs it. ErrConflict: one of the conditions no longer held, and nothing was written.
func (tx *Txn) Commit(ctx context.Context) error {
	if tx.err != nil {
		return tx.err
	}
	resp, err := tx.client.Txn(ctx).If(tx.cmps...).Then(tx.ops...).Commit()
	if err != nil {
		return fmt.Errorf("committing a transaction: %w", err)
	}
	if !resp.Succeeded {
		return ErrConflict
	}
	return nil
}

func (tx *Txn) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

func (s Store[T]) put(tx *Txn, id string, v T, opts ...clientv3.OpOption) {
	key, err := s.key(id)
	if err != nil {
		tx.fail(err)
		return
	}
	raw, err := json.Marshal(v)
	if err != nil {
		tx.fail(fmt.Errorf("encoding %s: %w", key, err))
		return
	}
	tx.ops = append(tx.ops, clientv3.OpPut(key, string(raw), opts...))
}

func (s Store[T]) require(tx *Txn, id string, revision int64) {
	key, err := s.key(id)
	if err != nil {
		tx.fail(err)
		return
	}
	tx.cmps = append(tx.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
}

// CreateIn adds: the value does not exist, and is written.
func (s Store[T]) CreateIn(tx *Txn, id string, v T) {
	s.require(tx, id, 0)
	s.put(tx, id, v)
}

// UpdateIn adds: the value is as it was read, and is written. An item that was never read (revision 0) is created.
func (s Store[T]) UpdateIn(tx *Txn, it Item[T]) {
	s.require(tx, it.ID, it.Revision)
	s.put(tx, it.ID, it.Value)
}

// DeleteIn adds: the value is as it was read, and is removed.
func (s Store[T]) DeleteIn(tx *Txn, it Item[T]) {
	s.require(tx, it.ID, it.Revision)
	key, err := s.key(it.ID)
	if err != nil {
		tx.fail(err)
		return
	}
	tx.ops = append(tx.ops, clientv3.OpDelete(key))
}

// PutIn adds a write without a condition.
func (s Store[T]) PutIn(tx *Txn, id string, v T) { s.put(tx, id, v) }

// UnchangedIn adds: the value is as it was read.
func (s Store[T]) UnchangedIn(tx *Txn, it Item[T]) { s.require(tx, it.ID, it.Revision) }

// AbsentIn adds: the value does not exist.
func (s Store[T]) AbsentIn(tx *Txn, id string) { s.require(tx, id, 0) }
