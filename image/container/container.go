// Package container reads the files that disk images come in: raw, qcow2 of versions 2 and 3, and fixed and dynamic VHD.
// The files are strangers': whatever a header says, only the file itself is read, never another one that it names, and
// memory is bounded by constants.
package container

import (
	"bytes"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
)

// Format is a container's name.
type Format string

// The formats that are read.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
	VHD   Format = "vhd"
)

// MaxSize of a disk in bytes: the largest OS disk that Azure has. A container may claim any size in a few bytes.
const MaxSize = 4 << 40

// Disk is the content of a container, as a VM would see it.
type Disk struct {
	Format  Format
	Variant string // "version 3, zlib", "fixed", "dynamic"; empty for raw
	Notes   []string
	size    int64
	io.ReaderAt
}

// Size of the disk in bytes, not of the file.
func (d *Disk) Size() int64 { return d.size }

func malformed(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, field, got, want)
}

func unsupported(field, got, want string) error {
	return evidence.Refuse(evidence.CodeUnsupported, field, got, want)
}

// Open recognises the container of a file of size bytes by its content. What is well-formed but not taken (a backing file,
// encryption, another format) is refused by CodeUnsupported, what is damaged by CodeParse. Errors of f come back as they are.
func Open(f io.ReaderAt, size int64) (*Disk, error) {
	head := make([]byte, min(size, 512))
	if err := readAt(f, head, 0, "file"); err != nil {
		return nil, err
	}
	if size < 512 {
		return nil, malformed("file/size", fmt.Sprint(size), "at least one sector of 512 bytes")
	}
	for _, o := range others {
		if bytes.HasPrefix(head[min(o.at, len(head)):], []byte(o.magic)) {
			return nil, unsupported("file/format", o.name, o.want)
		}
	}
	if bytes.HasPrefix(head, []byte(qcowMagic)) {
		return openQcow2(f, size)
	}
	d, err := openVHD(f, size, head)
	if d != nil || err != nil {
		return d, err
	}
	if err := checkSize("raw/size", uint64(size)); err != nil {
		return nil, err
	}
	if size%512 != 0 {
		return nil, malformed("raw/size", fmt.Sprint(size), "a multiple of 512 bytes")
	}
	return &Disk{Format: Raw, size: size, ReaderAt: f}, nil
}

// others are formats that are known and not read, by the bytes that they begin with.
var others = []struct {
	at    int
	magic string
	name  string
	want  string
}{
	{0, "vhdxfile", "VHDX", convertFirst},
	{0, "KDMV", "VMDK", convertFirst},
	{0, "# Disk DescriptorFile", "VMDK descriptor", convertFirst},
	{64, "\x7f\x10\xda\xbe", "VDI", convertFirst},
	{0, qcowMagic + "\x00\x00\x00\x01", "qcow version 1", convertFirst},
	{0, "QED\x00", "QED", convertFirst},
	{0, "LUKS\xba\xbe", "a LUKS volume", "an image that is not encrypted: each VM encrypts its own disk"},
	{0, "\x1f\x8b", "gzip", unpackFirst},
	{0, "\xfd7zXZ\x00", "xz", unpackFirst},
	{0, "\x28\xb5\x2f\xfd", "zstd", unpackFirst},
	{0, "BZh", "bzip2", unpackFirst},
	{0, "PK\x03\x04", "zip", unpackFirst},
	{257, "ustar", "a tar archive", "the disk image inside of it, by itself"},
}

const (
	convertFirst = "raw, qcow2 or VHD (qemu-img convert -O raw makes it)"
	unpackFirst  = "the image itself: decompress it first"
)

func checkSize(field string, size uint64) error {
	if size == 0 || size > MaxSize {
		return evidence.Refuse(evidence.CodeUnsupported, field, fmt.Sprintf("%d bytes", size), fmt.Sprintf("1 to %d bytes", int64(MaxSize)))
	}
	return nil
}

// readAt fills b. A file that ends too early is malformed; any other error is the file's own.
func readAt(f io.ReaderAt, b []byte, at int64, field string) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return malformed(field, fmt.Sprintf("the file ends after %d of %d bytes at %d", n, len(b), at), "the whole of it")
	}
	return fmt.Errorf("reading %s: %w", field, err)
}

// inside clips a read to the disk, as io.ReaderAt wants it.
func inside(b []byte, at, size int64) ([]byte, error) {
	if at < 0 {
		return nil, fmt.Errorf("reading a disk at %d: before its beginning", at)
	}
	if at >= size {
		return nil, io.EOF
	}
	if int64(len(b)) > size-at {
		return b[:size-at], io.EOF
	}
	return b, nil
}
