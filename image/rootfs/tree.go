// Package rootfs builds the distribution's root file system: mmdebstrap makes it, and this package takes out
// what differs from build to build, adds the few files of ours, and writes an ext4 file system from the result.
//
// Owner, mode and order come from the tar stream, not from a folder on disk; so no step here needs root.
package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// Node is one file of a tree.
type Node struct {
	Kind         byte  // a type of archive/tar: TypeReg, TypeDir, TypeSymlink, TypeLink, TypeChar, TypeBlock, TypeFifo
	Mode         int64 // permission bits with setuid, setgid, sticky
	UID, GID     int
	Link         string // target of a symbolic link, or the tree's path of a hard link's first name
	Major, Minor int64
	Data         []byte
	Attribute    string // name of an extended attribute, if there is one: the file system writer has none
}

// Tree maps clean paths without a leading slash to nodes. The root folder itself is not in it.
type Tree map[string]Node

// ReadTar reads a whole root.
func ReadTar(r io.Reader) (Tree, error) {
	t := Tree{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the root's archive: %w", err)
		}
		p := path.Clean("/" + h.Name)[1:]
		if p == "" {
			continue
		}
		n := Node{Kind: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Link: h.Linkname, Major: h.Devmajor, Minor: h.Devminor}
		for k := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				n.Attribute = name
			}
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if n.Data, err = io.ReadAll(tr); err != nil {
				return nil, fmt.Errorf("reading %s from the root's archive: %w", p, err)
			}
		case tar.TypeLink:
			n.Link = path.Clean("/" + h.Linkname)[1:]
		case tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		default:
			return nil, fmt.Errorf("%s in the root's archive has the unknown type %q", p, h.Typeflag)
		}
		t[p] = n
	}
}

// Paths lists the tree with folders before what is in them.
func (t Tree) Paths() []string {
	out := make([]string, 0, len(t))
	for p := range t {
		out = append(out, p)
	}
	// '/' sorts before all else, so that a folder's content follows the folder.
	sort.Slice(out, func(i, j int) bool {
		return strings.ReplaceAll(out[i], "/", "\x00") < strings.ReplaceAll(out[j], "/", "\x00")
	})
	return out
}

// File adds or replaces a file of root's, with its folders.
func (t Tree) File(p string, mode int64, data string) {
	t.parents(p)
	t[p] = Node{Kind: tar.TypeReg, Mode: mode, Data: []byte(data)}
}

// Symlink adds or replaces a symbolic link.
func (t Tree) Symlink(p, target string) {
	t.parents(p)
	t[p] = Node{Kind: tar.TypeSymlink, Mode: 0o777, Link: target}
}

func (t Tree) parents(p string) {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if _, ok := t[d]; !ok {
			t[d] = Node{Kind: tar.TypeDir, Mode: 0o755}
		}
	}
}

// Remove takes out a path with all below it. A file with hard links elsewhere must not vanish under them.
func (t Tree) Remove(p string) {
	for q := range t {
		if q == p || strings.HasPrefix(q, p+"/") {
			delete(t, q)
		}
	}
}

// Empty takes out all below a folder and keeps the folder.
func (t Tree) Empty(dir string) {
	for q := range t {
		if strings.HasPrefix(q, dir+"/") {
			delete(t, q)
		}
	}
}
