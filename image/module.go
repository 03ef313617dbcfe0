package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"

	"github.com/klauspost/compress/zstd"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/check"
)

// Bounds on one module, compressed or not, and on the memory of its decompression.
const (
	maxModule    = 16 << 20 // bytes
	moduleWindow = 16 << 20
)

// readModule reads a module and takes its compression off: init hands modules to the kernel as they are. xz has no
// decoder in Go's library, so the program is asked, with a bound on its memory.
func readModule(ctx context.Context, root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = io.LimitReader(f, maxModule)
	switch path.Ext(name) {
	case ".gz":
		if r, err = gzip.NewReader(r); err != nil {
			return nil, malformedModule(name, err)
		}
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(moduleWindow), zstd.WithDecoderMaxMemory(maxModule))
		if err != nil {
			return nil, malformedModule(name, err)
		}
		defer d.Close()
		r = d
	case ".xz":
		return unxz(ctx, name, r)
	}
	return bounded(name, r)
}

func malformedModule(name string, err error) error {
	return evidence.Refuse(evidence.CodeParse, check.Clean(name), err.Error(), "a module that decompresses")
}

func bounded(name string, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, malformedModule(name, err)
	}
	if len(b) > maxModule {
		return nil, evidence.Refuse(evidence.CodeUnsupported, check.Clean(name), "a larger module", fmt.Sprintf("at most %d bytes", maxModule))
	}
	return b, nil
}

func unxz(ctx context.Context, name string, r io.Reader) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a module that goes on for ever is not waited for
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--format=xz", "--memlimit-decompress=128MiB", "--no-warn")
	cmd.Stdin = r
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("xz (package xz-utils): %w", err)
	}
	b, err := bounded(name, out)
	if err != nil {
		cancel()
		_ = cmd.Wait() // it was ended; its status says nothing
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, malformedModule(name, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes())))
	}
	return b, nil
}
