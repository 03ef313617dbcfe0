package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"cloister.dev/cloister/store"
)

func TestMigrate(t *testing.T) {
	ctx := t.Context()
	broken := errors.New("broken")
	// Each step adds one, and holds only for what it has read: so it may run twice.
	step := func(from int) store.Migration {
		return func(ctx context.Context, db *store.DB) error {
			_, err := store.Of[thing](db, "thing").Mutate(ctx, "a", func(v *thing) error {
				if v.N == from {
					v.N++
				}
				return nil
			})
			return err
		}
	}
	fail := func(context.Context, *store.DB) error { return broken }
	never := func(context.Context, *store.DB) error { t.Error("ran on an empty store"); return nil }

	t.Run("an empty store needs no migration", func(t *testing.T) {
		db := open(t)
		if err := db.Migrate(ctx, []store.Migration{never}); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(ctx, nil); !errors.Is(err, store.ErrNewer) {
			t.Fatalf("an older program: got %v, want ErrNewer", err)
		}
	})
	t.Run("a store without a version is of the first", func(t *testing.T) {
		db := open(t)
		things := store.Of[thing](db, "thing")
		if err := things.Put(ctx, "a", thing{1}); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(ctx, []store.Migration{step(1), fail}); !errors.Is(err, broken) {
			t.Fatalf("got %v, want the step's error", err)
		}
		var wg sync.WaitGroup
		for range 4 { // several servers start at once
			wg.Go(func() {
				if err := db.Migrate(ctx, []store.Migration{step(1), step(2), step(3)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if it, err := things.Get(ctx, "a"); err != nil || it.Value.N != 4 {
			t.Fatalf("got %+v, %v; want 4", it.Value, err)
		}
	})
	t.Run("a version that is no number", func(t *testing.T) {
		for _, text := range []string{"0", "-1", "x"} {
			db := open(t)
			if err := db.PutRaw(ctx, "schema", text); err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(ctx, nil); err == nil {
				t.Errorf("%q: accepted", text)
			}
		}
	})
}
