package devmapper

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Verity is what the signed command line says about an image: a hash tree of version 1 over blocks of 4096 bytes with SHA-256.
type Verity struct {
	DataBlocks uint64 // of 4096 bytes
	HashStart  uint64 // first block of the tree on the hash device
	RootHash   string // 64 hexadecimal digits
	Salt       string // hexadecimal digits, or "-" for none
}

// BlockSize is the only block size, in bytes.
const BlockSize = 4096

var (
	hexRoot = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hexSalt = regexp.MustCompile(`^(-|([0-9a-f]{2}){1,256})$`)
)

// ParseVerity reads "1 4096 4096 <data blocks> <hash start> sha256 <root> <salt>", the dm-verity table without its devices.
func ParseVerity(text string) (Verity, error) {
	bad := func(field, got, want string) (Verity, error) {
		return Verity{}, evidence.Refuse(evidence.CodeBoot, "verity "+field, got, want)
	}
	f := strings.Split(text, " ")
	if len(f) != 8 {
		return bad("table", fmt.Sprintf("%d fields", len(f)), "8")
	}
	for i, want := range map[int]string{0: "1", 1: "4096", 2: "4096", 5: "sha256"} {
		if f[i] != want {
			return bad(fmt.Sprintf("field %d", i), f[i], want)
		}
	}
	var v Verity
	var err error
	// 2^40 blocks are 4 PiB; more would overflow sectors somewhere.
	if v.DataBlocks, err = strconv.ParseUint(f[3], 10, 40); err != nil || v.DataBlocks == 0 {
		return bad("data blocks", f[3], "a number above zero")
	}
	if v.HashStart, err = strconv.ParseUint(f[4], 10, 40); err != nil {
		return bad("hash start", f[4], "a number")
	}
	if v.RootHash = f[6]; !hexRoot.MatchString(v.RootHash) {
		return bad("root hash", f[6], "64 hexadecimal digits in lower case")
	}
	if root, err := hex.DecodeString(v.RootHash); err != nil || isZero(root) {
		return bad("root hash", f[6], "a hash that is not zero")
	}
	if v.Salt = f[7]; !hexSalt.MatchString(v.Salt) {
		return bad("salt", f[7], "hexadecimal digits in lower case, or -")
	}
	return v, nil
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func (v Verity) table(data, hash string) Table {
	return Table{Target: "verity", Sectors: v.DataBlocks * (BlockSize / 512), ReadOnly: true,
		Params: fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s", data, hash, BlockSize, BlockSize, v.DataBlocks, v.HashStart, v.RootHash, v.Salt)}
}

// OpenVerity maps a read-only device each of whose blocks is checked against the root hash as it is read.
func OpenVerity(name string, v Verity, data, hash string) (node string, err error) {
	return Create(name, v.table(data, hash))
}
