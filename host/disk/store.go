package disk

import (
	"context"
	"fmt"
	"os"
	"regexp"

	"cloister.dev/cloister/evidence"
)

// The sizes of a managed disk, in bytes.
const (
	MinSize = 4 << 30
	MaxSize = 32767 << 30
)

// Kinds of sources.
const (
	FromEmpty    = "empty"    // nothing but zeros
	FromExisting = "existing" // the blocks of a disk or a snapshot of the same store, which nobody writes meanwhile
)

// Source says what a new disk holds at first.
type Source struct {
	Kind string
	ID   string // of the disk or snapshot; FromExisting only
}

// Info is what a store knows of a disk or a snapshot.
type Info struct {
	ID        string
	Size      int64 // bytes that a VM sees
	Allocated int64 // bytes that it takes on the host
	Snapshot  bool
	InUse     bool // somebody has it open for writing
}

// Store keeps managed disks and their snapshots, each under a UUID in lower case. Every call may be repeated after a
// crash: what is done already stays done, and nothing half made is ever seen.
//
// Errors: refuse/parse for an id or a size that can't be, refuse/policy for what would lose data or is in use,
// unavailable for a disk that is not there.
type Store interface {
	// Create makes a disk of size bytes; what its source lacks reads as zeros. A disk that is there with this size is left as it is.
	Create(ctx context.Context, id string, size int64, from Source) error
	// Snapshot keeps the blocks of a disk as they are now, read-only. The disk must not be in use.
	Snapshot(ctx context.Context, id, of string) error
	// Resize makes a disk longer. It never makes one shorter, and leaves one in use alone.
	Resize(ctx context.Context, id string, size int64) error
	// Delete destroys the part of the disk that holds the keys of its encryption, and then all of it. One that is not there is no error.
	Delete(ctx context.Context, id string) error
	// Open gives a disk to one VM: write is held by the returned files, wherever they are passed on to, until all are closed.
	Open(ctx context.Context, id string) (write, read *os.File, err error)
	Stat(ctx context.Context, id string) (Info, error)
	List(ctx context.Context) ([]Info, error)
}

var idForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return evidence.Refuse(evidence.CodeParse, "disk id", fmt.Sprintf("%.60q", id), "a UUID in lower case")
	}
	return nil
}

func checkSize(size int64) error {
	if size < MinSize || size > MaxSize || size%sector != 0 {
		return evidence.Refuse(evidence.CodeParse, "disk size", fmt.Sprintf("%d bytes", size), fmt.Sprintf("%d to %d, a multiple of %d", int64(MinSize), int64(MaxSize), sector))
	}
	return nil
}

func missing(id string) error {
	return evidence.Refuse(evidence.CodeUnavailable, "disk "+id, "none", "a disk on this host")
}

func inUse(id string) error {
	return evidence.Refuse(evidence.CodePolicy, "disk "+id, "in use by a VM", "a disk that is attached to no running VM")
}
