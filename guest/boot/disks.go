package boot

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
)

// The names of the partitions of an image. A name only says where to look: what is there is proven by its hash tree, or by
// the vTPM that seals its key.
const (
	labelImage  = "cloister-image"
	labelVerity = "cloister-verity"
	labelRoot   = "cloister-root"
)

// partition is a block device node and its length in sectors of 512 bytes.
type partition struct {
	node    string
	sectors uint64
}

// disks is what was found.
type disks struct {
	initData            partition
	image, verity, root partition
}

// findDisks looks through sysfs. Two candidates for one thing are refused rather than picked from.
func findDisks(sys fs.FS) (disks, error) {
	var found disks
	names, err := fs.ReadDir(sys, "block")
	if err != nil {
		return found, err
	}
	var imageDisks, initDisks []string
	for _, n := range names {
		dir := path.Join("block", n.Name())
		if serial, err := fs.ReadFile(sys, path.Join(dir, "serial")); err == nil && strings.TrimSpace(string(serial)) == initdata.DiskSerial {
			initDisks = append(initDisks, n.Name())
			if found.initData, err = readPartition(sys, dir, n.Name()); err != nil {
				return found, err
			}
			continue
		}
		parts, err := partitions(sys, dir)
		if err != nil {
			return found, err
		}
		image, ok1 := parts[labelImage]
		verity, ok2 := parts[labelVerity]
		root, ok3 := parts[labelRoot]
		if ok1 && ok2 && ok3 {
			imageDisks = append(imageDisks, n.Name())
			found.image, found.verity, found.root = image, verity, root
		}
	}
	for _, c := range []struct {
		what  string
		disks []string
	}{{"init data disk", initDisks}, {"OS disk", imageDisks}} {
		if len(c.disks) != 1 {
			return found, evidence.Refuse(evidence.CodeBoot, c.what, fmt.Sprintf("%d (%s)", len(c.disks), strings.Join(c.disks, " ")), "1")
		}
	}
	return found, nil
}

// partitions finds the named partitions of a disk; a name that comes twice on one disk is refused.
func partitions(sys fs.FS, dir string) (map[string]partition, error) {
	entries, err := fs.ReadDir(sys, dir)
	if err != nil {
		return nil, err
	}
	out := map[string]partition{}
	for _, e := range entries {
		sub := path.Join(dir, e.Name())
		if _, err := fs.Stat(sys, path.Join(sub, "partition")); err != nil {
			continue // not a partition
		}
		text, err := fs.ReadFile(sys, path.Join(sub, "uevent"))
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(text), "\n") {
			name, ok := strings.CutPrefix(line, "PARTNAME=")
			if !ok {
				continue
			}
			if _, twice := out[name]; twice {
				return nil, evidence.Refuse(evidence.CodeBoot, "partition "+name, "twice", "once")
			}
			if out[name], err = readPartition(sys, sub, e.Name()); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func readPartition(sys fs.FS, dir, name string) (partition, error) {
	text, err := fs.ReadFile(sys, path.Join(dir, "size"))
	if err != nil {
		return partition{}, err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54) // 2^54 sectors are 2^63 bytes
	if err != nil {
		return partition{}, fmt.Errorf("size of %s: %w", name, err)
	}
	return partition{node: "/dev/" + name, sectors: sectors}, nil
}
