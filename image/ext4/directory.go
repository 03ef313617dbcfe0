package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Bounds on folders.
const (
	maxFolder   = 64 << 20 // bytes
	maxEntries  = 1 << 17
	foldersKept = 32
	keptEntries = 1 << 13 // of a folder that is kept
)

type entry struct {
	name   string
	number uint32
}

// directory reads a folder that was reached from another: its ".." must say so. So no folder is in two places, and no
// walk goes round in a circle. "." and ".." are not among the entries, which are sorted by name.
func (f *FS) directory(number, parent uint32) ([]entry, error) {
	key := [2]uint32{number, parent}
	if kept, ok := f.folders[key]; ok {
		return kept, nil
	}
	out, err := f.readDirectory(number, parent)
	if err != nil || len(out) > keptEntries {
		return out, err
	}
	if len(f.folders) >= foldersKept {
		clear(f.folders)
	}
	f.folders[key] = out
	return out, nil
}

func (f *FS) readDirectory(number, parent uint32) ([]entry, error) {
	i, err := f.inode(number)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("folder %d", number)
	if !i.fileMode().IsDir() {
		return nil, malformed(what, i.fileMode().String(), "a folder")
	}
	if i.size > maxFolder {
		return nil, malformed(what, fmt.Sprintf("%d bytes", i.size), fmt.Sprintf("at most %d", maxFolder))
	}
	var out []entry
	above := uint32(0)
	take := func(b []byte) error {
		more, up, err := entries(what, b)
		if up != 0 {
			above = up
		}
		if out = append(out, more...); len(out) > maxEntries {
			return malformed(what, "more files", fmt.Sprintf("at most %d", maxEntries))
		}
		return err
	}
	if i.flags&inodeInline != 0 {
		data, err := f.inline(i)
		if err != nil {
			return nil, err
		}
		// The first four bytes stand for "..", and the two parts are like two blocks.
		above = binary.LittleEndian.Uint32(data)
		if err := take(data[4:blockAreaSize]); err != nil {
			return nil, err
		}
		if err := take(data[blockAreaSize:]); err != nil {
			return nil, err
		}
	} else {
		b := make([]byte, f.BlockSize)
		for at := int64(0); at < i.size; at += f.BlockSize {
			if n, err := f.read(i, b, at); err != nil || n < len(b) {
				return nil, fmt.Errorf("%s: %d bytes of a block: %w", what, n, orCut(err))
			}
			if err := f.checkFolder(i, b, what); err != nil {
				return nil, err
			}
			if err := take(b); err != nil {
				return nil, err
			}
		}
	}
	if above != parent {
		return nil, malformed(what, fmt.Sprintf("its \"..\" is %d", above), fmt.Sprintf("%d, where it was found: a folder has one place", parent))
	}
	slices.SortFunc(out, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for n := 1; n < len(out); n++ {
		if out[n].name == out[n-1].name {
			return nil, malformed(what, fmt.Sprintf("%q twice", out[n].name), "each name once")
		}
	}
	return out, nil
}

func orCut(err error) error {
	if err == nil {
		return malformed("folder", "a size that is no multiple of blocks", "whole blocks")
	}
	return err
}

const tailSize = 12 // of a folder's block, with its checksum; it looks like an unused entry

// checkFolder verifies a block with a tail. The inner nodes of a hashed folder have none; as entries they read as unused.
func (f *FS) checkFolder(i *inode, b []byte, what string) error {
	le := binary.LittleEndian
	tail := b[len(b)-tailSize:]
	if !f.checksums || le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != tailSize || tail[6] != 0 || tail[7] != 0xde {
		return nil
	}
	if got, want := crc(i.seed, b[:len(b)-tailSize]), le.Uint32(tail[8:]); got != want {
		return malformed(what+"/checksum", fmt.Sprintf("%#x", got), fmt.Sprintf("%#x", want))
	}
	return nil
}

// entries reads a block's entries, and ".." by itself.
func entries(what string, b []byte) (out []entry, above uint32, err error) {
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, 0, malformed(what, fmt.Sprintf("%d bytes after the last entry", len(b)), "entries up to the end")
		}
		number, length, nameLen := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if length < 8 || length%4 != 0 || length > len(b) || number != 0 && 8+nameLen > length {
			return nil, 0, malformed(what, fmt.Sprintf("an entry of %d bytes with a name of %d", length, nameLen), fmt.Sprintf("one inside the %d that are left", len(b)))
		}
		if name := string(b[8:min(8+nameLen, length)]); number != 0 {
			switch {
			case name == "..":
				above = number
			case name == ".":
			case name == "" || strings.ContainsAny(name, "/\x00"):
				return nil, 0, malformed(what, fmt.Sprintf("the name %q", name), "a name without slashes")
			default:
				out = append(out, entry{name, number})
			}
		}
		b = b[length:]
	}
	return out, above, nil
}
