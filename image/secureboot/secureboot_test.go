package secureboot

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
)

const emptyVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"

func TestEnsureKeysMakesOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first, err := EnsureKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := EnsureKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !first.DB.Private.Equal(second.DB.Private) || !bytes.Equal(first.PK.Certificate.Raw, second.PK.Certificate.Raw) {
		t.Error("the second call made other keys")
	}
	for _, n := range names {
		if i, err := os.Stat(filepath.Join(dir, n+".key")); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v %v, want mode 0600", n, i.Mode(), err)
		}
	}
	for name, spoil := range map[string]func(dir string) error{
		"a key missing":   func(d string) error { return os.Remove(filepath.Join(d, "db.key")) },
		"readable by all": func(d string) error { return os.Chmod(filepath.Join(d, "PK.key"), 0o644) },
		"not PEM":         func(d string) error { return os.WriteFile(filepath.Join(d, "KEK.crt"), []byte("x"), 0o644) },
		"another's certificate": func(d string) error {
			b, err := os.ReadFile(filepath.Join(d, "PK.crt"))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(d, "db.crt"), b, 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "keys")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if err := os.Chmod(filepath.Join(copied, n+".key"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := EnsureKeys(copied); err != nil {
				t.Fatalf("positive twin: %v", err)
			}
			if err := spoil(copied); err != nil {
				t.Fatal(err)
			}
			if _, err := EnsureKeys(copied); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestVariableStore(t *testing.T) {
	empty, err := os.ReadFile(emptyVars)
	if err != nil {
		t.Fatalf("%v: install ovmf", err)
	}
	keys, err := EnsureKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	vars, err := VariableStore(empty, keys)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := VariableStore(empty, keys); !bytes.Equal(vars, again) || len(vars) != len(empty) {
		t.Error("two stores differ, or the size changed")
	}
	if vars[0x64] != 0xaa || vars[0x65] != 0x55 || vars[0x66] != 0x3f {
		t.Errorf("first variable starts %x, want aa553f", vars[0x64:0x67])
	}
	for _, k := range keys.all() {
		if bytes.Count(vars, k.Certificate.Raw) != 1 {
			t.Errorf("%s is not in the store once", k.Certificate.Subject)
		}
	}
	change := func(at int, v byte) []byte {
		b := append([]byte(nil), empty...)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		in   []byte
		want evidence.Code
	}{
		"nothing":             {nil, evidence.CodeParse},
		"other volume":        {change(16, 0), evidence.CodeParse},
		"other store":         {change(0x48, 0), evidence.CodeParse},
		"unformatted":         {change(0x48+20, 0), evidence.CodeParse},
		"store beyond file":   {change(0x48+19, 0xff), evidence.CodeParse},
		"header beyond file":  {change(49, 0xff), evidence.CodeParse},
		"keys enrolled twice": {vars, evidence.CodeConfig},
	} {
		if _, err := VariableStore(c.in, keys); evidence.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
