package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var (
	afterCreate   = failpoint.New("disks/created")
	afterSnapshot = failpoint.New("disks/snapshot")
	afterResize   = failpoint.New("disks/resized")
	afterKeyWipe  = failpoint.New("disks/keys-destroyed")
)

// keyArea is the part at the start of a disk, in bytes, that holds LUKS headers and key slots: they take 16 MiB, on the
// bare disk or in a partition that begins at most 16 MiB in.
const keyArea = 32 << 20

const (
	diskSuffix     = ".img"
	snapshotSuffix = ".snap"
	partSuffix     = ".part"
)

// Directory keeps each disk as a sparse raw file of one folder. A disk in use carries a lock (flock) that QEMU inherits
// with the open file, so that it outlives the agent.
type Directory struct {
	dir     string
	probing sync.Mutex // Stat asks by locking: nobody may take that for use
}

// NewDirectory uses a folder, and makes it when it is missing. What a crash left half made is removed.
func NewDirectory(dir string) (*Directory, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	parts, err := filepath.Glob(filepath.Join(dir, "*"+partSuffix))
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := os.Remove(p); err != nil {
			return nil, err
		}
	}
	return &Directory{dir: dir}, nil
}

func (d *Directory) path(id, suffix string) string { return filepath.Join(d.dir, id+suffix) }

// find tells where a disk or a snapshot is.
func (d *Directory) find(id string) (path string, snapshot bool, err error) {
	if err := checkID(id); err != nil {
		return "", false, err
	}
	for _, suffix := range []string{diskSuffix, snapshotSuffix} {
		_, err := os.Stat(d.path(id, suffix))
		if err == nil {
			return d.path(id, suffix), suffix == snapshotSuffix, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", false, err
		}
	}
	return "", false, missing(id)
}

// lock opens a file and takes it for itself alone.
func (d *Directory) lock(id, path string, flag int) (*os.File, error) {
	d.probing.Lock()
	defer d.probing.Unlock()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, inUse(id)
		}
		return nil, fmt.Errorf("locking disk %s: %w", id, err)
	}
	return f, nil
}

// Create implements Store.
func (d *Directory) Create(ctx context.Context, id string, size int64, from Source) error {
	if err := errors.Join(checkID(id), checkSize(size)); err != nil {
		return err
	}
	info, err := d.Stat(ctx, id)
	switch {
	case err == nil && info.Snapshot:
		return evidence.Refuse(evidence.CodePolicy, "disk "+id, "a snapshot of this id", "an id that is free")
	case err == nil && info.Size == size:
		return nil
	case err == nil:
		return evidence.Refuse(evidence.CodePolicy, "disk "+id, fmt.Sprintf("there with %d bytes", info.Size), fmt.Sprintf("%d bytes, or a free id", size))
	case evidence.CodeOf(err) != evidence.CodeUnavailable:
		return err
	}
	switch from.Kind {
	case FromEmpty:
		err = d.build(ctx, d.path(id, diskSuffix), size, nil)
	case FromExisting:
		err = d.copyOf(ctx, d.path(id, diskSuffix), size, from.ID)
	default:
		return evidence.Refuse(evidence.CodeUnsupported, "source of disk "+id, fmt.Sprintf("%q", from.Kind), "empty or existing")
	}
	if err == nil {
		afterCreate.Hit()
	}
	return err
}

// Snapshot implements Store.
func (d *Directory) Snapshot(ctx context.Context, id, of string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if info, err := d.Stat(ctx, id); err == nil {
		if !info.Snapshot {
			return evidence.Refuse(evidence.CodePolicy, "snapshot "+id, "a disk of this id", "an id that is free")
		}
		return nil
	} else if evidence.CodeOf(err) != evidence.CodeUnavailable {
		return err
	}
	if err := d.copyOf(ctx, d.path(id, snapshotSuffix), 0, of); err != nil {
		return err
	}
	afterSnapshot.Hit()
	return nil
}

// copyOf copies a disk that nobody writes meanwhile. Size 0 is the source's.
func (d *Directory) copyOf(ctx context.Context, path string, size int64, id string) error {
	from, _, err := d.find(id)
	if err != nil {
		return err
	}
	src, err := d.lock(id, from, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(d.build(ctx, path, size, src), src.Close())
}

// build makes a file under a name that is not looked at, and renames it when it is whole. Size 0 is the source's.
func (d *Directory) build(ctx context.Context, path string, size int64, src *os.File) error {
	var have int64
	if src != nil {
		info, err := src.Stat()
		if err != nil {
			return err
		}
		if have = info.Size(); size == 0 {
			size = have
		}
		if size < have {
			return evidence.Refuse(evidence.CodePolicy, "disk size", fmt.Sprintf("%d bytes", size), fmt.Sprintf("at least the %d of its source", have))
		}
	}
	part := path + partSuffix
	dst, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(part) // gone after the rename; otherwise half made
	defer dst.Close()
	if src != nil {
		if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
			if err := copySparse(ctx, dst, src, have); err != nil {
				return fmt.Errorf("copying a disk: %w", err)
			}
		}
	}
	if err := errors.Join(dst.Truncate(size), dst.Sync(), os.Rename(part, path)); err != nil {
		return err
	}
	return d.sync()
}

// sync has the folder's names on the disk.
func (d *Directory) sync() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Resize implements Store.
func (d *Directory) Resize(_ context.Context, id string, size int64) error {
	if err := errors.Join(checkID(id), checkSize(size)); err != nil {
		return err
	}
	path, snapshot, err := d.find(id)
	if err != nil {
		return err
	}
	if snapshot {
		return evidence.Refuse(evidence.CodePolicy, "disk "+id, "a snapshot", "a disk: snapshots never change")
	}
	f, err := d.lock(id, path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() == size:
		return nil
	case info.Size() > size:
		return evidence.Refuse(evidence.CodePolicy, "disk size", fmt.Sprintf("%d bytes", size), fmt.Sprintf("at least %d: a disk never shrinks", info.Size()))
	}
	if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
		return err
	}
	afterResize.Hit()
	return nil
}

// Delete implements Store.
func (d *Directory) Delete(_ context.Context, id string) error {
	path, _, err := d.find(id)
	if evidence.CodeOf(err) == evidence.CodeUnavailable {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := d.lock(id, path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := destroyKeys(f); err != nil {
		return fmt.Errorf("destroying the keys of disk %s: %w", id, err)
	}
	afterKeyWipe.Hit()
	if err := os.Remove(path); err != nil {
		return err
	}
	return d.sync()
}

// destroyKeys overwrites what was ever written to the key area. Holes stay: a full file system must not keep a disk alive.
func destroyKeys(f *os.File) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < keyArea; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for to = min(to, keyArea); from < to; from += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from); err != nil {
				return err
			}
		}
		at = max(to, from)
	}
	return f.Sync()
}

// Open implements Store.
func (d *Directory) Open(_ context.Context, id string) (write, read *os.File, err error) {
	path, snapshot, err := d.find(id)
	if err != nil {
		return nil, nil, err
	}
	if snapshot {
		return nil, nil, evidence.Refuse(evidence.CodePolicy, "disk "+id, "a snapshot", "a disk: make one from the snapshot first")
	}
	if write, err = d.lock(id, path, os.O_RDWR); err != nil {
		return nil, nil, err
	}
	if read, err = os.Open(path); err != nil {
		return nil, nil, errors.Join(err, write.Close())
	}
	return write, read, nil
}

// Stat implements Store.
func (d *Directory) Stat(_ context.Context, id string) (Info, error) {
	path, snapshot, err := d.find(id)
	if err != nil {
		return Info{}, err
	}
	d.probing.Lock()
	defer d.probing.Unlock()
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close() // before others may probe again
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, err
	}
	info := Info{ID: id, Size: st.Size, Allocated: st.Blocks * sector, Snapshot: snapshot}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		info.InUse = true
	case err != nil:
		return Info{}, err
	}
	return info, nil
}

// List implements Store.
func (d *Directory) List(ctx context.Context) ([]Info, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), diskSuffix)
		if !ok {
			id, ok = strings.CutSuffix(e.Name(), snapshotSuffix)
		}
		if !ok || checkID(id) != nil {
			continue
		}
		info, err := d.Stat(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}
