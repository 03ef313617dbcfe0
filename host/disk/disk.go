// Package disk lays out what a VM's disks are on the host: sparse raw files.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/internal/failpoint"
)

var afterOSDisk = failpoint.New("host/disk/os-disk")

// sector is the size that a disk's length must be a multiple of, in bytes.
const sector = 512

// FromImage makes a VM's OS disk from an image's disk, unless it is there. It copies only what is not a hole,
// or shares blocks where the file system can. When size, in bytes, is more than the image's, grow makes the disk that
// long, partition table and all. A half-made disk is never seen under the final name.
func FromImage(ctx context.Context, image, path string, size int64, grow func(path string, size int64) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	src, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("image disk: %w", err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	part := path + ".part"
	dst, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(part) // gone after the rename; otherwise half made
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		if err := copySparse(ctx, dst, src, info.Size()); err != nil {
			return fmt.Errorf("copying the image: %w", err)
		}
	}
	if size > info.Size() {
		if err := grow(part, size/sector*sector); err != nil {
			return fmt.Errorf("growing the disk: %w", err)
		}
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	afterOSDisk.Hit()
	return nil
}

func copySparse(ctx context.Context, dst, src *os.File, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(src.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := dst.Seek(from, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(dst, io.NewSectionReader(src, from, to-from)); err != nil {
			return err
		}
		at = to
	}
	return nil
}

// InitData writes the exact bytes, followed by zeros up to a whole sector.
func InitData(path string, raw []byte) error {
	padded := make([]byte, (len(raw)+sector-1)/sector*sector)
	copy(padded, raw)
	return os.WriteFile(path, padded, 0o600)
}
