package collateral

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// folder keeps endorsements as plain files. A nil folder keeps nothing.
type folder struct{ dir string }

// seenFile holds the newest versions seen. It has a name of its own that no endorsement has, and begins with a dot, so that
// readers of the folder pass it over.
const seenFile = ".seen.json"

// maxSeen bounds that file, in bytes.
const maxSeen = 4 << 20

func openFolder(dir string) (*folder, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("folder for endorsements: %w", err)
	}
	return &folder{dir}, nil
}

// read gives the exact bytes, or nil where there are none.
func (f *folder) read(id ID) (raw, issuers []byte, err error) {
	if f == nil {
		return nil, nil, nil
	}
	if raw, err = f.file(id.file(), maxBody); err != nil || raw == nil {
		return nil, nil, err
	}
	issuers, err = f.file(id.issuersFile(), maxBody)
	return raw, issuers, err
}

func (f *folder) file(name string, most int64) ([]byte, error) {
	path := filepath.Join(f.dir, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if info.Size() > most || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, most)
	}
	return os.ReadFile(path)
}

// write replaces an endorsement. Its issuers go first: an old document under new issuers is refused and fetched again,
// whatever happens between the two.
func (f *folder) write(e *entry) error {
	if f == nil {
		return nil
	}
	if len(e.issuers) > 0 {
		if err := f.replace(e.id.issuersFile(), e.issuers); err != nil {
			return err
		}
	}
	return f.replace(e.id.file(), e.raw)
}

// replace writes a file as a whole: whoever reads it sees the old one or the new one.
func (f *folder) replace(name string, raw []byte) (err error) {
	t, err := os.CreateTemp(f.dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(t.Name()))
		}
	}()
	if _, err := t.Write(raw); err != nil {
		return errors.Join(err, t.Close())
	}
	if err := errors.Join(t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), filepath.Join(f.dir, name))
}

func (f *folder) readSeen() (map[ID]mark, error) {
	out := map[ID]mark{}
	if f == nil {
		return out, nil
	}
	raw, err := f.file(seenFile, maxSeen)
	if err != nil || raw == nil {
		return out, err
	}
	var by map[string]mark
	if err := json.Unmarshal(raw, &by); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, seenFile), err)
	}
	for text, m := range by {
		id, err := ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, seenFile), err)
		}
		out[id] = m
	}
	return out, nil
}

func (f *folder) writeSeen(seen map[ID]mark) error {
	if f == nil {
		return nil
	}
	by := map[string]mark{}
	for id, m := range seen {
		by[id.String()] = m
	}
	raw, err := json.MarshalIndent(by, "", "  ")
	if err != nil {
		return err
	}
	return f.replace(seenFile, append(raw, '\n'))
}
