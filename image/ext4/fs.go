package ext4

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Bounds on paths: Linux's own.
const (
	maxLinks = 40
	maxPath  = 4096 // bytes, of a link's target too
)

// found is a file with the folders above it, the root first.
type found struct {
	number uint32
	above  []uint32
}

func (p found) parent() uint32 {
	if len(p.above) == 0 {
		return rootInode
	}
	return p.above[len(p.above)-1]
}

// lookup walks a path from the root. Links are followed inside of the file system: "/" is its root, and ".." stays below it.
func (f *FS) lookup(name string, followLast bool) (found, *inode, error) {
	at, links := found{number: rootInode}, 0
	rest := strings.Split(name, "/")
	for {
		i, err := f.inode(at.number)
		if err != nil || len(rest) == 0 {
			return at, i, err
		}
		step := rest[0]
		rest = rest[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if n := len(at.above); n > 0 {
				at = found{at.above[n-1], at.above[:n-1]}
			}
			continue
		}
		if !i.fileMode().IsDir() {
			return at, nil, fs.ErrNotExist
		}
		children, err := f.directory(at.number, at.parent())
		if err != nil {
			return at, nil, err
		}
		n, ok := slices.BinarySearchFunc(children, step, func(e entry, name string) int { return strings.Compare(e.name, name) })
		if !ok {
			return at, nil, fs.ErrNotExist
		}
		child := children[n].number
		ci, err := f.inode(child)
		if err != nil {
			return at, nil, err
		}
		if ci.fileMode()&fs.ModeSymlink != 0 && (followLast || !blank(rest)) {
			if links++; links > maxLinks {
				return at, nil, syscall.ELOOP
			}
			target, err := f.target(ci)
			if err != nil {
				return at, nil, err
			}
			if strings.HasPrefix(target, "/") {
				at = found{number: rootInode}
			}
			if rest = append(strings.Split(target, "/"), rest...); len(rest) > maxPath {
				return at, nil, syscall.ENAMETOOLONG
			}
			continue
		}
		at = found{child, append(at.above[:len(at.above):len(at.above)], at.number)}
	}
}

func blank(rest []string) bool {
	for _, r := range rest {
		if r != "" && r != "." {
			return false
		}
	}
	return true
}

// target reads a symbolic link: up to 59 bytes lie in the inode, longer ones in a block.
func (f *FS) target(i *inode) (string, error) {
	if i.size <= 0 || i.size >= maxPath {
		return "", malformed(fmt.Sprintf("inode %d", i.number), fmt.Sprintf("a link of %d bytes", i.size), fmt.Sprintf("1 to %d", maxPath-1))
	}
	if i.size < blockAreaSize && i.flags&(inodeExtents|inodeInline) == 0 {
		return string(i.raw[blockAreaAt:][:i.size]), nil
	}
	b := make([]byte, i.size)
	n, err := f.read(i, b, 0)
	return string(b[:n]), err
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file or a folder, through links.
func (f *FS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, pathError("open", name, fs.ErrInvalid)
	}
	at, i, err := f.lookup(name, true)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &file{fs: f, at: at, inode: i, name: path.Base(name)}, nil
}

// Stat tells of a file, through links.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat tells of a file or of the link itself.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, pathError(op, name, fs.ErrInvalid)
	}
	_, i, err := f.lookup(name, follow)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return info{path.Base(name), i}, nil
}

// ReadLink gives a symbolic link's target.
func (f *FS) ReadLink(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	_, i, err := f.lookup(name, false)
	if err == nil && i.fileMode()&fs.ModeSymlink == 0 {
		err = fs.ErrInvalid
	}
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	target, err := f.target(i)
	return target, pathError("readlink", name, err)
}

// ReadDir lists a folder. The kind of each file is its inode's, not what the folder says of it.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	o, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	return o.(*file).ReadDir(-1)
}

type info struct {
	name string
	*inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.fileMode() }
func (i info) ModTime() time.Time { return i.mtime }
func (i info) IsDir() bool        { return i.fileMode().IsDir() }
func (i info) Sys() any           { return Owner{i.number, i.uid, i.gid, i.links} }

// file is an open file or folder.
type file struct {
	fs    *FS
	at    found
	inode *inode
	name  string

	offset  int64
	listed  bool
	entries []fs.DirEntry
}

func (o *file) Stat() (fs.FileInfo, error) { return info{o.name, o.inode}, nil }
func (o *file) Close() error               { return nil }

func (o *file) Read(b []byte) (int, error) {
	n, err := o.ReadAt(b, o.offset)
	o.offset += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt reads a regular file.
func (o *file) ReadAt(b []byte, at int64) (int, error) {
	if !o.inode.fileMode().IsRegular() {
		return 0, pathError("read", o.name, fs.ErrInvalid)
	}
	if at < 0 {
		return 0, pathError("read", o.name, fs.ErrInvalid)
	}
	if len(b) == 0 {
		return 0, nil
	}
	n, err := o.fs.read(o.inode, b, at)
	if err == nil && n < len(b) {
		err = io.EOF
	}
	if err != nil && err != io.EOF {
		err = pathError("read", o.name, err)
	}
	return n, err
}

// ReadDir lists a folder, n entries at a time where n is positive.
func (o *file) ReadDir(n int) ([]fs.DirEntry, error) {
	if !o.listed {
		if !o.inode.fileMode().IsDir() {
			return nil, pathError("readdir", o.name, syscall.ENOTDIR)
		}
		children, err := o.fs.directory(o.at.number, o.at.parent())
		if err != nil {
			return nil, pathError("readdir", o.name, err)
		}
		for _, c := range children {
			i, err := o.fs.inode(c.number)
			if err != nil {
				return nil, pathError("readdir", path.Join(o.name, c.name), err)
			}
			o.entries = append(o.entries, fs.FileInfoToDirEntry(info{c.name, i}))
		}
		o.listed = true
	}
	if n <= 0 {
		out := o.entries
		o.entries = nil
		return out, nil
	}
	if len(o.entries) == 0 {
		return nil, io.EOF
	}
	out := o.entries[:min(n, len(o.entries))]
	o.entries = o.entries[len(out):]
	return out, nil
}
