package verity

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	content := bytes.Repeat([]byte("cloister"), 1<<17)
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	const uuid = "c1015e12-0000-4000-8000-000000000003"
	format := func(name string) (Table, []byte) {
		tb, err := Format(context.Background(), data, filepath.Join(dir, name), uuid)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return tb, b
	}
	one, tree := format("a")
	two, again := format("b")
	if one.String() != two.String() || !bytes.Equal(tree, again) {
		t.Error("two hash trees of one content differ")
	}
	if one.DataBlocks != 256 || one.HashStart != 1 {
		t.Errorf("table %s, want 256 blocks from 1", one)
	}
	verify := func() error {
		f := strings.Split(one.String(), " ")
		return exec.Command("veritysetup", "verify", data, filepath.Join(dir, "a"), f[6]).Run()
	}
	if err := verify(); err != nil {
		t.Errorf("veritysetup verify: %v", err)
	}
	content[5000] ^= 1
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if verify() == nil {
		t.Error("a changed block was accepted")
	}
	if err := os.WriteFile(data, content[:5000], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Format(context.Background(), data, filepath.Join(dir, "c"), uuid); err == nil {
		t.Error("a part of a block was accepted")
	}
}

func TestParseTable(t *testing.T) {
	root := strings.Repeat("ab", 32)
	good := "1 4096 4096 256 1 sha256 " + root + " 00ff"
	if tb, err := ParseTable(good); err != nil || tb.String() != good || strings.Contains(tb.CommandLine(), " ") {
		t.Fatalf("positive twin: %v %v", tb, err)
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"HD-03 off":         "off",
		"version 0":         "0" + good[1:],
		"small blocks":      strings.Replace(good, "4096 4096", "4096 512", 1),
		"no blocks":         strings.Replace(good, " 256 ", " 0 ", 1),
		"negative":          strings.Replace(good, " 256 ", " -1 ", 1),
		"leading zero":      strings.Replace(good, " 256 ", " 0256 ", 1),
		"other hash":        strings.Replace(good, "sha256", "sha1", 1),
		"short root":        strings.Replace(good, root, root[2:], 1),
		"upper case":        strings.Replace(good, root, strings.ToUpper(root), 1),
		"no salt":           strings.TrimSuffix(good, "00ff"),
		"optional argument": good + " ignore_corruption",
		"two blanks":        strings.Replace(good, " ", "  ", 1),
	} {
		if _, err := ParseTable(bad); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add("1 4096 4096 256 1 sha256 " + strings.Repeat("ab", 32) + " 00ff")
	f.Fuzz(func(t *testing.T, s string) {
		if tb, err := ParseTable(s); err == nil && tb.String() != s {
			t.Errorf("%q parses as %q", s, tb)
		}
	})
}
