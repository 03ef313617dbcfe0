package disk_test

import (
	"context"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/disk/disktest"
)

// modelDisk is what a disk should be.
type modelDisk struct {
	size     int64
	mark     byte // the first byte
	snapshot bool
}

// Whatever is asked in whatever order, a disk holds what was written to it or to what it was copied from, and nothing else changes.
func TestDirectoryAgainstAModel(t *testing.T) {
	dir := t.TempDir()
	ids := rapid.SampledFrom([]string{disktest.A, disktest.B, disktest.C})
	sizes := rapid.SampledFrom([]int64{disk.MinSize, disk.MinSize + 512, 2 * disk.MinSize})
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		run++
		path := filepath.Join(dir, string(rune('a'+run%26)), rapid.StringMatching(`[a-z]{12}`).Draw(t, "folder"))
		s, err := disk.NewDirectory(path)
		if err != nil {
			t.Fatal(err)
		}
		model := map[string]modelDisk{}
		allowed := func(err error, ok bool) bool {
			if code := evidence.CodeOf(err); ok != (err == nil) || err != nil && code == "" {
				t.Fatalf("allowed %v, got %v", ok, err)
			}
			return ok
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				id, size := ids.Draw(t, "id"), sizes.Draw(t, "size")
				have, there := model[id]
				if allowed(s.Create(ctx, id, size, disk.Source{Kind: disk.FromEmpty}), !there || !have.snapshot && have.size == size) && !there {
					model[id] = modelDisk{size: size}
				}
			},
			"copy": func(t *rapid.T) {
				id, from, size := ids.Draw(t, "id"), ids.Draw(t, "from"), sizes.Draw(t, "size")
				have, there := model[id]
				source, known := model[from]
				ok := there && !have.snapshot && have.size == size || !there && known && size >= source.size
				if allowed(s.Create(ctx, id, size, disk.Source{Kind: disk.FromExisting, ID: from}), ok) && !there {
					model[id] = modelDisk{size: size, mark: source.mark}
				}
			},
			"snapshot": func(t *rapid.T) {
				id, of := ids.Draw(t, "id"), ids.Draw(t, "of")
				have, there := model[id]
				source, known := model[of]
				if allowed(s.Snapshot(ctx, id, of), there && have.snapshot || !there && known) && !there {
					model[id] = modelDisk{size: source.size, mark: source.mark, snapshot: true}
				}
			},
			"resize": func(t *rapid.T) {
				id, size := ids.Draw(t, "id"), sizes.Draw(t, "size")
				have, there := model[id]
				if allowed(s.Resize(ctx, id, size), there && !have.snapshot && size >= have.size) {
					have.size = size
					model[id] = have
				}
			},
			"write": func(t *rapid.T) {
				id, mark := ids.Draw(t, "id"), rapid.Byte().Draw(t, "mark")
				have, there := model[id]
				w, r, err := s.Open(ctx, id)
				if !allowed(err, there && !have.snapshot) {
					return
				}
				got := make([]byte, 1)
				if _, err := r.ReadAt(got, 0); err != nil || got[0] != have.mark {
					t.Fatalf("disk %s begins with %x, %v; want %x", id, got, err, have.mark)
				}
				_, err = w.WriteAt([]byte{mark}, 0)
				for _, err := range []error{err, w.Close(), r.Close()} {
					if err != nil {
						t.Fatal(err)
					}
				}
				have.mark = mark
				model[id] = have
			},
			"delete": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if err := s.Delete(ctx, id); err != nil {
					t.Fatal(err)
				}
				delete(model, id)
			},
			"": func(t *rapid.T) {
				list, err := s.List(ctx)
				if err != nil || len(list) != len(model) {
					t.Fatalf("%+v, %v; want %+v", list, err, model)
				}
				for _, info := range list {
					if m := model[info.ID]; info.Size != m.size || info.Snapshot != m.snapshot || info.InUse {
						t.Fatalf("%+v; want %+v", info, m)
					}
				}
			},
		})
	})
}
