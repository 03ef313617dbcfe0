// Package disktest says what every store of managed disks must do, as tests that take a constructor.
package disktest

import (
	"bytes"
	"context"
	"os"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/disk"
)

// Ids that the suite uses.
const (
	A = "0e4a1b7c-0000-4000-8000-00000000000a"
	B = "0e4a1b7c-0000-4000-8000-00000000000b"
	C = "0e4a1b7c-0000-4000-8000-00000000000c"
)

const size = disk.MinSize

// Conformance runs the suite; each part gets a store of its own.
func Conformance(t *testing.T, open func(t *testing.T) disk.Store) {
	ctx := context.Background()
	for _, part := range []struct {
		name string
		test func(t *testing.T, s disk.Store)
	}{
		{"an empty disk takes no room and reads as zeros", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			info, err := s.Stat(ctx, A)
			if err != nil || info.Size != size || info.Allocated > 1<<20 || info.InUse || info.Snapshot {
				t.Errorf("%+v, %v", info, err)
			}
			if got := read(t, s, A, size-8, 8); !bytes.Equal(got, make([]byte, 8)) {
				t.Errorf("ends with %x", got)
			}
		}},
		{"a repeated call leaves what the VM wrote", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			write(t, s, A, "the VM wrote")
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			if got := read(t, s, A, 0, 12); string(got) != "the VM wrote" {
				t.Errorf("%q", got)
			}
			wants(t, s.Create(ctx, A, 2*size, disk.Source{Kind: disk.FromEmpty}), evidence.CodePolicy)
		}},
		{"a copy and a snapshot keep what was", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			write(t, s, A, "before")
			must(t, s.Snapshot(ctx, B, A))
			write(t, s, A, "after!")
			must(t, s.Snapshot(ctx, B, A)) // again, after a crash: the first one stays
			create(t, s, C, 2*size, disk.Source{Kind: disk.FromExisting, ID: B})
			if got := read(t, s, C, 0, 6); string(got) != "before" {
				t.Errorf("the copy of the snapshot begins with %q", got)
			}
			_, _, err := s.Open(ctx, B)
			wants(t, err, evidence.CodePolicy)
			wants(t, s.Resize(ctx, B, 2*size), evidence.CodePolicy)
			wants(t, s.Create(ctx, B, size, disk.Source{Kind: disk.FromEmpty}), evidence.CodePolicy)
			wants(t, s.Snapshot(ctx, A, B), evidence.CodePolicy)
		}},
		{"a disk grows and never shrinks", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			write(t, s, A, "kept")
			must(t, s.Resize(ctx, A, 2*size))
			must(t, s.Resize(ctx, A, 2*size))
			if got := read(t, s, A, 0, 4); string(got) != "kept" {
				t.Errorf("%q", got)
			}
			wants(t, s.Resize(ctx, A, size), evidence.CodePolicy)
			if info, err := s.Stat(ctx, A); err != nil || info.Size != 2*size {
				t.Errorf("%+v, %v", info, err)
			}
		}},
		{"a disk in use is given to nobody else, and neither copied, resized nor deleted", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			w, r, err := s.Open(ctx, A)
			must(t, err)
			if info, err := s.Stat(ctx, A); err != nil || !info.InUse {
				t.Errorf("%+v, %v", info, err)
			}
			_, _, err = s.Open(ctx, A)
			wants(t, err, evidence.CodePolicy)
			wants(t, s.Snapshot(ctx, B, A), evidence.CodePolicy)
			wants(t, s.Create(ctx, C, size, disk.Source{Kind: disk.FromExisting, ID: A}), evidence.CodePolicy)
			wants(t, s.Resize(ctx, A, 2*size), evidence.CodePolicy)
			wants(t, s.Delete(ctx, A), evidence.CodePolicy)
			must(t, w.Close())
			must(t, r.Close())
			must(t, s.Resize(ctx, A, 2*size))
			if list, err := s.List(ctx); err != nil || len(list) != 1 || list[0].ID != A {
				t.Errorf("%+v, %v", list, err)
			}
		}},
		{"a deleted disk is gone, and its keys before it", func(t *testing.T, s disk.Store) {
			create(t, s, A, size, disk.Source{Kind: disk.FromEmpty})
			write(t, s, A, "LUKS\xba\xbe and key slots")
			writeAt(t, s, A, "a partition's key slots", 17<<20)
			w, r, err := s.Open(ctx, A)
			must(t, err)
			must(t, w.Close())
			must(t, s.Delete(ctx, A))
			got := make([]byte, 64)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, 64)) {
				t.Errorf("who still had it open reads %q, %v", got, err)
			}
			if _, err := r.ReadAt(got, 17<<20); err != nil || !bytes.Equal(got, make([]byte, 64)) {
				t.Errorf("and of a partition %q, %v", got, err)
			}
			must(t, r.Close())
			must(t, s.Delete(ctx, A))
			_, err = s.Stat(ctx, A)
			wants(t, err, evidence.CodeUnavailable)
		}},
		{"bad names, sizes and sources are refused and leave nothing", func(t *testing.T, s disk.Store) {
			empty := disk.Source{Kind: disk.FromEmpty}
			for _, id := range []string{"", "../x", "0E4A1B7C-0000-4000-8000-00000000000A", A + "/.."} {
				wants(t, s.Create(ctx, id, size, empty), evidence.CodeParse)
				wants(t, s.Delete(ctx, id), evidence.CodeParse)
				_, _, err := s.Open(ctx, id)
				wants(t, err, evidence.CodeParse)
			}
			for _, n := range []int64{-1, 0, disk.MinSize - 512, disk.MinSize + 1, disk.MaxSize + 512} {
				wants(t, s.Create(ctx, A, n, empty), evidence.CodeParse)
			}
			wants(t, s.Create(ctx, A, size, disk.Source{}), evidence.CodeUnsupported)
			wants(t, s.Create(ctx, A, size, disk.Source{Kind: disk.FromExisting, ID: B}), evidence.CodeUnavailable)
			wants(t, s.Snapshot(ctx, A, B), evidence.CodeUnavailable)
			wants(t, s.Resize(ctx, A, size), evidence.CodeUnavailable)
			if list, err := s.List(ctx); err != nil || len(list) != 0 {
				t.Errorf("left: %+v, %v", list, err)
			}
		}},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, err error, code evidence.Code) {
	t.Helper()
	if evidence.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func create(t *testing.T, s disk.Store, id string, size int64, from disk.Source) {
	t.Helper()
	must(t, s.Create(context.Background(), id, size, from))
}

func with(t *testing.T, s disk.Store, id string, do func(w, r *os.File) error) {
	t.Helper()
	w, r, err := s.Open(context.Background(), id)
	must(t, err)
	must(t, do(w, r))
	must(t, w.Close())
	must(t, r.Close())
}

func write(t *testing.T, s disk.Store, id, text string) {
	t.Helper()
	writeAt(t, s, id, text, 0)
}

func writeAt(t *testing.T, s disk.Store, id, text string, at int64) {
	t.Helper()
	with(t, s, id, func(w, _ *os.File) error { _, err := w.WriteAt([]byte(text), at); return err })
}

func read(t *testing.T, s disk.Store, id string, at, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	with(t, s, id, func(_, r *os.File) error { _, err := r.ReadAt(b, at); return err })
	return b
}
