package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/store"
	"cloister.dev/cloister/store/embedded"
)

type thing struct{ N int }

func open(t *testing.T) *store.DB {
	t.Helper()
	e, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return store.Open(e.Client(), "/test")
}

func TestRevisions(t *testing.T) {
	ctx := t.Context()
	s := store.Of[thing](open(t), "thing")
	if _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v, want not found", err)
	}
	if err := s.Create(ctx, "a", thing{1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "a", thing{2}); !errors.Is(err, store.ErrExists) {
		t.Fatalf("got %v, want exists", err)
	}
	first, err := s.Get(ctx, "a")
	if err != nil || first.Value.N != 1 {
		t.Fatalf("got %+v, %v", first, err)
	}
	first.Value.N = 5
	if err := s.Update(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(ctx, first); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("second update at the same revision: got %v, want conflict", err)
	}
	if err := s.Delete(ctx, first); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("delete at an old revision: got %v, want conflict", err)
	}
	for _, id := range []string{"", "a\x00b"} {
		if err := s.Put(ctx, id, thing{}); err == nil {
			t.Errorf("id %q accepted", id)
		}
	}
}

func TestKindsDoNotMix(t *testing.T) {
	ctx := t.Context()
	db := open(t)
	a, b := store.Of[thing](db, "a"), store.Of[thing](db, "ab")
	if err := b.Put(ctx, "x", thing{1}); err != nil {
		t.Fatal(err)
	}
	if items, _, err := a.List(ctx, ""); err != nil || len(items) != 0 {
		t.Fatalf("got %v, %v; want nothing", items, err)
	}
	if items, _, err := b.List(ctx, ""); err != nil || len(items) != 1 {
		t.Fatalf("got %v, %v; want one", items, err)
	}
}

func TestTransactionIsAllOrNothing(t *testing.T) {
	ctx := t.Context()
	db := open(t)
	s := store.Of[thing](db, "thing")
	if err := s.Put(ctx, "there", thing{1}); err != nil {
		t.Fatal(err)
	}
	tx := db.Txn()
	s.CreateIn(tx, "new", thing{1})
	s.CreateIn(tx, "there", thing{2})
	if err := tx.Commit(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v, want conflict", err)
	}
	if _, err := s.Get(ctx, "new"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("half a transaction was written: %v", err)
	}
}

func TestMutateUnderContention(t *testing.T) {
	ctx := t.Context()
	s := store.Of[thing](open(t), "thing")
	if err := s.Put(ctx, "n", thing{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Mutate(ctx, "n", func(v *thing) error { v.N++; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if it, _ := s.Get(ctx, "n"); it.Value.N != 20 {
		t.Fatalf("got %d, want 20", it.Value.N)
	}
}

func TestFollow(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := store.Of[thing](open(t), "thing")
	if err := s.Put(ctx, "x/1", thing{1}); err != nil {
		t.Fatal(err)
	}
	done := errors.New("done")
	var seen []string
	err := s.Follow(ctx, "x/", func(items []store.Item[thing]) error {
		for _, it := range items {
			seen = append(seen, fmt.Sprintf("list %s=%d", it.ID, it.Value.N))
		}
		if err := s.Put(ctx, "x/2", thing{2}); err != nil {
			return err
		}
		if err := s.Put(ctx, "y/1", thing{9}); err != nil {
			return err
		}
		it, err := s.Get(ctx, "x/1")
		if err != nil {
			return err
		}
		return s.Delete(ctx, it)
	}, func(e store.Event[thing]) error {
		seen = append(seen, fmt.Sprintf("event %s=%d %t", e.Item.ID, e.Item.Value.N, e.Deleted))
		if e.Deleted {
			return done
		}
		return nil
	})
	want := "[list x/1=1 event x/2=2 false event x/1=1 true]"
	if !errors.Is(err, done) || fmt.Sprint(seen) != want {
		t.Fatalf("got %v, %v; want %s", seen, err, want)
	}
}

func TestLeaseEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := store.Of[thing](open(t), "thing")
	_, rev, err := s.List(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutLeased(ctx, "a", thing{1}, 1); err != nil {
		t.Fatal(err)
	}
	done := errors.New("done")
	err = s.Watch(ctx, "", rev, func(e store.Event[thing]) error {
		if e.Deleted {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatalf("got %v, want the lease to end", err)
	}
}

func TestRestartKeepsData(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	for round := range 2 {
		e, err := embedded.Start(ctx, embedded.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s := store.Of[thing](store.Open(e.Client(), "/test"), "thing")
		if round == 0 {
			err = s.Create(ctx, "a", thing{7})
		} else {
			_, err = s.Get(ctx, "a")
		}
		e.Stop()
		if err != nil {
			t.Fatal(err)
		}
	}
}
