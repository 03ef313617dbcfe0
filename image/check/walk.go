package check

import (
	"fmt"
	"io/fs"
	"path"

	"cloister.dev/cloister/evidence"
)

// Bounds on walks through a stranger's folders. Paths of one folder may be many, where it has many names.
const (
	maxWalk   = 1 << 20
	maxFolder = 64
)

// walker visits what is below folders, each file once for each of its paths, and follows no links.
type walker struct{ left int }

func (w *walker) walk(f fs.FS, dir string, visit func(string, fs.DirEntry) error) error {
	return w.below(f, dir, 0, visit)
}

func (w *walker) below(f fs.FS, dir string, depth int, visit func(string, fs.DirEntry) error) error {
	if depth > maxFolder {
		return evidence.Refuse(evidence.CodeUnsupported, dir, "deeper folders", fmt.Sprintf("at most %d", maxFolder))
	}
	entries, err := list(f, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if w.left--; w.left < 0 {
			return evidence.Refuse(evidence.CodeUnsupported, dir, "more files", fmt.Sprintf("at most %d", maxWalk))
		}
		p := path.Join(dir, e.Name())
		if err := visit(p, e); err == fs.SkipDir {
			continue
		} else if err != nil {
			return err
		}
		if e.IsDir() {
			if err := w.below(f, p, depth+1, visit); err != nil {
				return err
			}
		}
	}
	return nil
}
