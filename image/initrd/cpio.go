// Package initrd writes the initial file system of a VM: the guest program as init, and the few kernel
// modules it needs, in load order.
package initrd

import (
	"bytes"
	"fmt"
	"strings"
)

// Entry is one node of a newc archive. Mode holds type and permission bits as in stat(2).
type Entry struct {
	Path         string // without a leading slash
	Mode         uint32
	Data         []byte // a file's content or a symbolic link's target
	Major, Minor uint32 // of a device node
}

// File types of stat(2).
const (
	TypeDir  = 0o040000
	TypeFile = 0o100000
	TypeLink = 0o120000
	TypeChar = 0o020000
)

const cpioBlock = 512 // the archive's length is a multiple of this, in bytes

// Archive writes entries in the given order in the newc format: 13 fields of 8 hex digits after the magic,
// names and contents padded to 4 bytes. Owner and time are 0 and inode numbers count from 1, so the same
// entries give the same bytes.
func Archive(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	seen := map[string]bool{}
	put := func(ino int, e Entry) {
		links := 1
		if e.Mode&0o170000 == TypeDir {
			links = 2
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			ino, e.Mode, 0, 0, links, 0, len(e.Data), 0, 0, e.Major, e.Minor, len(e.Path)+1, 0)
		b.WriteString(e.Path)
		b.WriteByte(0)
		pad(&b, 4)
		b.Write(e.Data)
		pad(&b, 4)
	}
	for i, e := range entries {
		switch {
		case e.Path == "" || strings.HasPrefix(e.Path, "/") || strings.ContainsRune(e.Path, 0):
			return nil, fmt.Errorf("archive entry %q: want a relative path", e.Path)
		case seen[e.Path]:
			return nil, fmt.Errorf("archive entry %q comes twice", e.Path)
		case e.Mode&0o170000 == 0:
			return nil, fmt.Errorf("archive entry %q has no file type", e.Path)
		case uint64(len(e.Data)) > 0xffffffff:
			return nil, fmt.Errorf("archive entry %q has %d bytes: want less than 4 GiB", e.Path, len(e.Data))
		}
		seen[e.Path] = true
		put(i+1, e)
	}
	put(0, Entry{Path: "TRAILER!!!"})
	pad(&b, cpioBlock)
	return b.Bytes(), nil
}

func pad(b *bytes.Buffer, to int) {
	if r := b.Len() % to; r != 0 {
		b.Write(make([]byte, to-r))
	}
}
