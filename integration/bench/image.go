package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/image/check"
	"cloister.dev/cloister/internal/sbin"
)

// The image that is checked: as many files as a server's distribution has, some of which are searched for secrets.
const (
	imageSize   = 2000 << 20 // bytes
	largeFiles  = 2000
	largeSize   = 700 << 10
	smallFiles  = 30000
	smallSize   = 2 << 10
	perFolder   = 300
	firstSector = 2048
)

// imageCheck measures the check of a 2 GB image, beside e2fsck, which reads the same file system's tables and no file.
func imageCheck(ctx context.Context, _ cli, dir string) ([]row, error) {
	image, root, err := largeImage(ctx, filepath.Join(dir, "image"))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ours, reference := math.Inf(1), math.Inf(1)
	for range turns {
		begun := time.Now()
		r, err := check.Run(ctx, f, imageSize, func(string) {})
		if err != nil {
			return nil, err
		}
		ours = min(ours, time.Since(begun).Seconds())
		for _, x := range r.Findings {
			if x.ID == "IMG-SECRETS" && x.Verdict != check.Pass {
				return nil, fmt.Errorf("the image was not searched: %s", x.Reason)
			}
		}
		begun = time.Now()
		if out, err := exec.CommandContext(ctx, sbin.Path("e2fsck"), "-fn", root).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("e2fsck: %w\n%s", err, out)
		}
		reference = min(reference, time.Since(begun).Seconds())
	}
	return []row{{Name: "image check, 2 GB", Ours: ours, Reference: reference, Unit: "s", Target: "< 3 s", Beside: "e2fsck -fn of its root"}}, nil
}

// largeImage makes a disk with a GPT and one file system, and gives that file system alone too.
func largeImage(ctx context.Context, dir string) (image, root string, err error) {
	source := filepath.Join(dir, "source")
	content := make([]byte, largeSize)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	put := func(folder string, n, size int) error {
		binary.LittleEndian.PutUint32(content, uint32(n))
		sub := filepath.Join(source, folder, fmt.Sprint(n/perFolder))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d", n)), content[:size], 0o644)
	}
	for n := range largeFiles {
		if err := put("usr/lib", n, largeSize); err != nil {
			return "", "", err
		}
	}
	for n := range smallFiles {
		if err := put([]string{"usr/share", "var/lib", "etc"}[n%3], n, smallSize); err != nil {
			return "", "", err
		}
	}
	if err := os.WriteFile(filepath.Join(source, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644); err != nil {
		return "", "", err
	}
	image, root = filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return "", "", err
	}
	if err := os.Truncate(image, imageSize); err != nil {
		return "", "", err
	}
	for _, c := range []struct {
		input string
		args  []string
	}{
		{"", []string{sbin.Path("mke2fs"), "-q", "-t", "ext4", "-b", "4096", "-d", source, root, fmt.Sprintf("%dM", imageSize>>20-2)}},
		{fmt.Sprintf("label: gpt\nstart=%d, type=L\n", firstSector), []string{sbin.Path("sfdisk"), "-q", image}},
		{"", []string{"dd", "if=" + root, "of=" + image, "bs=512K", "seek=2", "conv=notrunc,sparse", "status=none"}},
		{"", []string{"rm", "-r", source}},
	} {
		cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
		cmd.Stdin = strings.NewReader(c.input)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("%v: %w\n%s", c.args, err, out)
		}
	}
	return image, root, nil
}
