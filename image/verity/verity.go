// Package verity makes the hash tree over an image's root and the table that goes on the kernel's command line.
package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/sbin"
)

// BlockSize of data and hashes, in bytes.
const BlockSize = 4096

// Table is a dm-verity table without its devices. The hash tree starts after one block of superblock.
type Table struct {
	DataBlocks uint64
	HashStart  uint64 // in hash blocks
	RootHash   [32]byte
	Salt       []byte
}

// String is the table as dm-verity writes it, less the two devices.
func (t Table) String() string {
	return fmt.Sprintf("1 %d %d %d %d sha256 %x %x", BlockSize, BlockSize, t.DataBlocks, t.HashStart, t.RootHash, t.Salt)
}

// CommandLine is the table with '_' for blanks, as one word of the kernel's command line.
func (t Table) CommandLine() string { return strings.ReplaceAll(t.String(), " ", "_") }

// ParseTable reads what String writes, and nothing else.
func ParseTable(s string) (Table, error) {
	refuse := func(field, got, want string) (Table, error) {
		return Table{}, evidence.Refuse(evidence.CodeParse, "verity/"+field, got, want)
	}
	f := strings.Split(s, " ")
	if len(f) != 8 || f[0] != "1" || f[1] != "4096" || f[2] != "4096" || f[5] != "sha256" {
		return refuse("table", strconv.Quote(s), "1 4096 4096 BLOCKS START sha256 ROOT SALT")
	}
	var t Table
	var err error
	if t.DataBlocks, err = strconv.ParseUint(f[3], 10, 48); err != nil || t.DataBlocks == 0 {
		return refuse("dataBlocks", f[3], "a positive number")
	}
	if t.HashStart, err = strconv.ParseUint(f[4], 10, 48); err != nil {
		return refuse("hashStart", f[4], "a number")
	}
	root, err := hex.DecodeString(f[6])
	if err != nil || len(root) != 32 {
		return refuse("rootHash", f[6], "64 hex digits")
	}
	copy(t.RootHash[:], root)
	if t.Salt, err = hex.DecodeString(f[7]); err != nil || len(t.Salt) == 0 || len(t.Salt) > 256 {
		return refuse("salt", f[7], "1 to 256 bytes in hex")
	}
	if t.String() != s {
		return refuse("table", strconv.Quote(s), "its canonical form "+strconv.Quote(t.String()))
	}
	return t, nil
}

var rootHashLine = regexp.MustCompile(`(?m)^Root hash:\s+([0-9a-f]{64})$`)

// Format writes the hash tree of the file data into the new file hash. The salt comes from the content, so that
// the same content has the same root hash, and other content shares no hash block with it.
func Format(ctx context.Context, data, hash, uuid string) (Table, error) {
	f, err := os.Open(data)
	if err != nil {
		return Table{}, fmt.Errorf("reading the root: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	h.Write([]byte("cloister.verity-salt/1\x00"))
	size, err := io.Copy(h, f)
	if err != nil {
		return Table{}, fmt.Errorf("reading the root: %w", err)
	}
	if size == 0 || size%BlockSize != 0 {
		return Table{}, fmt.Errorf("the root has %d bytes: want a multiple of %d", size, BlockSize)
	}
	t := Table{DataBlocks: uint64(size) / BlockSize, HashStart: 1, Salt: h.Sum(nil)}
	if err := os.WriteFile(hash, nil, 0o600); err != nil {
		return Table{}, fmt.Errorf("making the hash tree: %w", err)
	}
	cmd := exec.CommandContext(ctx, sbin.Path("veritysetup"), "format", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096",
		"--uuid="+uuid, "--salt="+hex.EncodeToString(t.Salt), data, hash)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Table{}, fmt.Errorf("veritysetup (package cryptsetup-bin): %w: %s", err, bytes.TrimSpace(out))
	}
	m := rootHashLine.FindSubmatch(out)
	if m == nil {
		return Table{}, fmt.Errorf("veritysetup printed no root hash: %s", bytes.TrimSpace(out))
	}
	if _, err := hex.Decode(t.RootHash[:], m[1]); err != nil {
		return Table{}, err
	}
	return t, nil
}
