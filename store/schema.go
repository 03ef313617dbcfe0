package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrNewer says that a newer program has written the keyspace: this one could misread it.
var ErrNewer = errors.New("the store was written by a newer version")

// Migration brings a keyspace from one schema version to the next. It may run again after a crash, and beside
// itself in another process.
type Migration func(context.Context, *DB) error

// Migrate brings the keyspace to version 1+len(steps); the first step leads from version 1 to 2. An empty keyspace
// gets that version at once; one without a version is of version 1. ErrNewer: it is of a later version, and was left alone.
func (db *DB) Migrate(ctx context.Context, steps []Migration) error {
	key, want := db.prefix+"/schema", 1+len(steps)
	for {
		at, revision, err := db.schema(ctx, key, want)
		switch {
		case err != nil:
			return err
		case at > want:
			return fmt.Errorf("%w: schema %d, and this program knows %d", ErrNewer, at, want)
		case at == want && revision > 0:
			return nil
		}
		next := at
		if at < want {
			if err := steps[at-1](ctx, db); err != nil {
				return fmt.Errorf("migrating the store from schema %d: %w", at, err)
			}
			next++
		}
		// Who was overtaken by another process reads again what is there now.
		if _, err := db.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, strconv.Itoa(next))).Commit(); err != nil {
			return fmt.Errorf("writing the schema version: %w", err)
		}
	}
}

// schema is the version of the keyspace, and the revision of the key that says so: zero where there is none.
func (db *DB) schema(ctx context.Context, key string, whenEmpty int) (version int, revision int64, err error) {
	resp, err := db.client.Get(ctx, key)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the schema version: %w", err)
	}
	if len(resp.Kvs) > 0 {
		text := string(resp.Kvs[0].Value)
		if version, err = strconv.Atoi(text); err != nil || version < 1 {
			return 0, 0, fmt.Errorf("the schema version %q of the store is no number from 1", text)
		}
		return version, resp.Kvs[0].ModRevision, nil
	}
	all, err := db.client.Get(ctx, db.prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return 0, 0, fmt.Errorf("reading the schema version: %w", err)
	}
	if len(all.Kvs) == 0 {
		return whenEmpty, 0, nil
	}
	return 1, 0, nil
}
