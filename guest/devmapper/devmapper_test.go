package devmapper

import (
	"encoding/binary"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

const root = "3f0a9c1f6c1c9a3f5f6a7d1e2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e"

func TestParseVerity(t *testing.T) {
	good := "1 4096 4096 65536 1 sha256 " + root + " aabb"
	v, err := ParseVerity(good)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := v.table("/dev/vda2", "/dev/vda3"), (Table{"verity", 65536 * 8, "1 /dev/vda2 /dev/vda3 4096 4096 65536 1 sha256 " + root + " aabb", true}); got != want {
		t.Errorf("table %v, want %v", got, want)
	}
	for name, bad := range map[string]string{
		"empty":            "",
		"missing salt":     "1 4096 4096 65536 1 sha256 " + root,
		"optional feature": good + " 1 ignore_corruption",
		"version 0":        strings.Replace(good, "1 ", "0 ", 1),
		"small blocks":     strings.Replace(good, "4096", "512", 1),
		"weak hash":        strings.Replace(good, "sha256", "sha1", 1),
		"no blocks":        strings.Replace(good, "65536", "0", 1),
		"too many blocks":  strings.Replace(good, "65536", "99999999999999", 1),
		"negative start":   strings.Replace(good, " 1 sha256", " -1 sha256", 1),
		"short root":       strings.Replace(good, root, root[:62], 1),
		"upper-case root":  strings.Replace(good, root, strings.ToUpper(root), 1),
		"zero root":        strings.Replace(good, root, strings.Repeat("0", 64), 1),
		"salt with blank":  strings.Replace(good, "aabb", "", 1),
		"odd salt":         strings.Replace(good, "aabb", "abc", 1),
	} {
		if _, err := ParseVerity(bad); evidence.CodeOf(err) != evidence.CodeBoot {
			t.Errorf("%s: got %v, want fail/boot", name, err)
		}
	}
	if _, err := ParseVerity(strings.Replace(good, "aabb", "-", 1)); err != nil {
		t.Errorf("no salt: %v", err)
	}
}

func TestCryptTableHoldsNoKey(t *testing.T) {
	c := Crypt{Name: "root", Device: "/dev/vda4", Cipher: "aes-xts-plain64", Key: []byte(strings.Repeat("k", 64)), Offset: 32768, Sectors: 8, SectorSize: 4096}
	if got, want := c.table().Params, "aes-xts-plain64 :64:logon:cloister:root 0 /dev/vda4 32768 1 sector_size:4096"; got != want {
		t.Errorf("table %q, want %q", got, want)
	}
}

func TestRequest(t *testing.T) {
	b, err := request("root", flagSecure, &Table{Target: "crypt", Sectors: 8, Params: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 312+40+8 || binary.NativeEndian.Uint32(b[atDataSize:]) != 360 || binary.NativeEndian.Uint32(b[atTargetCount:]) != 1 ||
		cString(b[atName:]) != "root" || cString(b[headerLen+24:]) != "crypt" || binary.NativeEndian.Uint32(b[atFlags:]) != flagSecure {
		t.Errorf("request %x", b)
	}
	for name, f := range map[string]func() ([]byte, error){
		"no name":      func() ([]byte, error) { return request("", 0, nil) },
		"path":         func() ([]byte, error) { return request("../x", 0, nil) },
		"long name":    func() ([]byte, error) { return request(strings.Repeat("n", 128), 0, nil) },
		"no sectors":   func() ([]byte, error) { return request("n", 0, &Table{Target: "crypt"}) },
		"NUL in table": func() ([]byte, error) { return request("n", 0, &Table{Target: "crypt", Sectors: 1, Params: "a\x00b"}) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
