package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/internal/sbin"
)

// FileSystem says what an ext4 file system is made with. Nothing in it is random.
type FileSystem struct {
	UUID     string
	HashSeed string // UUID that seeds the hashes of folder indexes
	Label    string
	Time     time.Time // of every inode and of the superblock
	SlackMiB int64     // free space beyond what the tree needs
}

// BlockSize is that of the file system and of dm-verity, in bytes.
const BlockSize = 4096

const (
	inodeSize     = 256
	bytesPerInode = 16384
	journalMiB    = 8
	alignMiB      = 4
)

// WriteExt4 writes the tree into a new file img. mke2fs makes the empty file system and debugfs fills it in
// the tree's order; mke2fs -d would take owner, order and ctime from the host's folder. Needs no root.
func WriteExt4(ctx context.Context, img string, t Tree, fs FileSystem) error {
	var bytesUsed int64
	for _, n := range t {
		bytesUsed += (int64(len(n.Data)) + BlockSize - 1) / BlockSize * BlockSize
		if n.Kind == tar.TypeDir {
			bytesUsed += BlockSize
		}
	}
	const mib = 1 << 20
	size := bytesUsed + (journalMiB+fs.SlackMiB)*mib
	size += size / bytesPerInode * inodeSize // inode tables
	size = (size + alignMiB*mib - 1) / (alignMiB * mib) * (alignMiB * mib)
	if int64(len(t)) > size/bytesPerInode*9/10 {
		return fmt.Errorf("the root has %d files: too many for a file system of %d MiB", len(t), size/mib)
	}
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		return fmt.Errorf("making the file system: %w", err)
	}
	if err := os.Truncate(img, size); err != nil {
		return fmt.Errorf("making the file system: %w", err)
	}
	stamp := fmt.Sprint(fs.Time.Unix())
	env := append(os.Environ(), "E2FSPROGS_FAKE_TIME="+stamp, "SOURCE_DATE_EPOCH="+stamp, "MKE2FS_CONFIG=/dev/null", "TZ=UTC", "LC_ALL=C")

	// Inode tables are cleared here, so that no VM spends its first minutes on that.
	mk := exec.CommandContext(ctx, sbin.Path("mke2fs"), "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(BlockSize), "-I", fmt.Sprint(inodeSize),
		"-i", fmt.Sprint(bytesPerInode), "-J", fmt.Sprintf("size=%d", journalMiB), "-m", "1", "-L", fs.Label, "-U", fs.UUID,
		"-O", "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,filetype,sparse_super,large_file,resize_inode,dir_index,ext_attr",
		"-E", "hash_seed="+fs.HashSeed+",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", img)
	mk.Env = env
	if out, err := mk.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs (package e2fsprogs): %w: %s", err, bytes.TrimSpace(out))
	}

	stage, err := os.MkdirTemp(filepath.Dir(img), ".stage-")
	if err != nil {
		return fmt.Errorf("staging the root: %w", err)
	}
	defer os.RemoveAll(stage)
	script, err := debugfsScript(t, stage, fs.Time)
	if err != nil {
		return err
	}
	list := filepath.Join(stage, "script")
	if err := os.WriteFile(list, script, 0o600); err != nil {
		return fmt.Errorf("staging the root: %w", err)
	}
	fill := exec.CommandContext(ctx, sbin.Path("debugfs"), "-w", "-f", list, img)
	fill.Env = env
	var stderr bytes.Buffer
	fill.Stderr = &stderr
	if err := fill.Run(); err != nil {
		return fmt.Errorf("debugfs (package e2fsprogs): %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	// debugfs ends with 0 whatever happened; all it says on stderr beyond its version is an error.
	for _, l := range strings.Split(strings.TrimSpace(stderr.String()), "\n") {
		if l != "" && !strings.HasPrefix(l, "debugfs 1.") {
			return fmt.Errorf("filling the file system: debugfs says %q", l)
		}
	}
	check := exec.CommandContext(ctx, sbin.Path("e2fsck"), "-f", "-n", img)
	check.Env = env
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("e2fsck does not like the new file system: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// debugfsScript writes file contents below stage and gives the commands that build the tree from them.
func debugfsScript(t Tree, stage string, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "set_current_time @%d\n", at.Unix())
	cwd := ""
	links := map[string]int{}
	var later []string
	for i, p := range t.Paths() {
		n := t[p]
		if strings.ContainsAny(p+n.Link, "\"\n") {
			return nil, fmt.Errorf("the path %q cannot be given to debugfs", p)
		}
		if n.Attribute != "" {
			return nil, fmt.Errorf("%s has the extended attribute %s, which would be lost", p, n.Attribute)
		}
		dir, base := path.Dir(p), path.Base(p)
		if dir == "." {
			dir = ""
		}
		if parent, ok := t[dir]; dir != "" && (!ok || parent.Kind != tar.TypeDir) {
			return nil, fmt.Errorf("%s lies in no folder of the tree", p)
		}
		if n.Kind == tar.TypeLink {
			first, ok := t[n.Link]
			if !ok || first.Kind != tar.TypeReg {
				return nil, fmt.Errorf("%s is a hard link to %s, which is no file of the tree", p, n.Link)
			}
			links[n.Link]++
			later = append(later, p)
			continue
		}
		if dir != cwd || i == 0 {
			fmt.Fprintf(&b, "cd \"/%s\"\n", dir)
			cwd = dir
		}
		kind := int64(0)
		switch n.Kind {
		case tar.TypeDir:
			fmt.Fprintf(&b, "mkdir \"%s\"\n", base)
			kind = 0o040000
		case tar.TypeReg:
			host := filepath.Join(stage, fmt.Sprint(i))
			if err := os.WriteFile(host, n.Data, 0o600); err != nil {
				return nil, fmt.Errorf("staging the root: %w", err)
			}
			fmt.Fprintf(&b, "write %s \"%s\"\n", host, base)
			kind = 0o100000
		case tar.TypeSymlink:
			fmt.Fprintf(&b, "symlink \"%s\" \"%s\"\n", base, n.Link)
		case tar.TypeChar:
			fmt.Fprintf(&b, "mknod \"%s\" c %d %d\n", base, n.Major, n.Minor)
			kind = 0o020000
		case tar.TypeBlock:
			fmt.Fprintf(&b, "mknod \"%s\" b %d %d\n", base, n.Major, n.Minor)
			kind = 0o060000
		case tar.TypeFifo:
			fmt.Fprintf(&b, "mknod \"%s\" p\n", base)
			kind = 0o010000
		}
		if kind != 0 {
			fmt.Fprintf(&b, "sif \"%s\" mode 0%o\n", base, kind|n.Mode)
		}
		if n.UID != 0 {
			fmt.Fprintf(&b, "sif \"%s\" uid %d\n", base, n.UID)
		}
		if n.GID != 0 {
			fmt.Fprintf(&b, "sif \"%s\" gid %d\n", base, n.GID)
		}
	}
	for _, p := range later {
		fmt.Fprintf(&b, "cd \"/%s\"\nln \"/%s\" \"%s\"\n", strings.TrimPrefix(path.Dir(p), "."), t[p].Link, path.Base(p))
	}
	for _, p := range t.Paths() {
		if c := links[p]; c > 0 {
			fmt.Fprintf(&b, "sif \"/%s\" links_count %d\n", p, c+1)
		}
	}
	return b.Bytes(), nil
}
