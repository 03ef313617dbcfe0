package boot

import (
	"fmt"
	"io"
)

// copyChunk is how much is read and written at once, in bytes.
const copyChunk = 1 << 20

// copyImage copies the file system of size bytes from src, which verifies what it reads, to dst. The block with the
// superblock goes last, after flush: a destination that begins with one is complete.
func copyImage(dst io.WriterAt, src io.ReaderAt, size uint64, flush func() error, progress func(percent int)) error {
	if size == 0 || size%blockSize != 0 {
		return fmt.Errorf("image of %d bytes", size)
	}
	alloc, err := readAllocation(src, size)
	if err != nil {
		return err
	}
	// No superblock, old or new, while the copy is incomplete.
	if _, err := dst.WriteAt(make([]byte, blockSize), 0); err != nil {
		return err
	}
	blocks := size / blockSize
	last := -1
	buf := make([]byte, copyChunk)
	const most = copyChunk / blockSize
	for b := uint64(1); b < blocks; {
		if p := int(b * 100 / blocks); p/5 != last/5 || last < 0 {
			last = p
			progress(p)
		}
		if alloc.free(b) {
			b++
			continue
		}
		n := uint64(1)
		for n < most && b+n < blocks && !alloc.free(b+n) {
			n++
		}
		part := buf[:n*blockSize]
		if _, err := src.ReadAt(part, int64(b*blockSize)); err != nil {
			return fmt.Errorf("reading image block %d: %w", b, err)
		}
		if err := writeUsed(dst, part, b, alloc); err != nil {
			return err
		}
		b += n
	}
	if err := flush(); err != nil {
		return err
	}
	first := buf[:blockSize]
	if _, err := src.ReadAt(first, 0); err != nil {
		return fmt.Errorf("reading image block 0: %w", err)
	}
	if _, err := dst.WriteAt(first, 0); err != nil {
		return err
	}
	progress(100)
	return flush()
}

// writeUsed writes runs of blocks that must be copied.
func writeUsed(dst io.WriterAt, part []byte, first uint64, alloc *allocation) error {
	for i := 0; i < len(part); {
		end := i
		for end < len(part) && alloc.mustCopy(first+uint64(end/blockSize), isZero(part[end:end+blockSize])) {
			end += blockSize
		}
		if end == i {
			i += blockSize
			continue
		}
		if _, err := dst.WriteAt(part[i:end], int64(first*blockSize)+int64(i)); err != nil {
			return fmt.Errorf("writing block %d: %w", first+uint64(i/blockSize), err)
		}
		i = end
	}
	return nil
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
