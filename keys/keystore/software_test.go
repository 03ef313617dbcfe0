package keystore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/keystoretest"
)

var (
	passphrase = []byte("a passphrase for tests only")
	cheap      = keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1}
)

func TestSoftware(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keystore")
	keystoretest.Run(t, func(t *testing.T) keystore.Backend {
		s, err := keystore.OpenSoftware(keystore.In(path), passphrase, cheap)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestSoftwareRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keystore")
	id := keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "secret-name"}
	s, err := keystore.OpenSoftware(keystore.In(path), passphrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), id, func(*keystore.Key) (*keystore.Key, error) { return &keystore.Key{ID: id}, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.OpenSoftware(keystore.In(path), passphrase, cheap); err == nil {
		t.Error("opened twice at once")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(good, []byte("secret-name")) {
		t.Error("the file shows a name")
	}
	attacker := filepath.Join(dir, "attacker")
	a, err := keystore.OpenSoftware(keystore.In(attacker), []byte("the attacker's passphrase"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(attacker)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	for _, r := range []struct {
		name string
		file []byte
		pass string
		want evidence.Code
	}{
		{"as written", good, string(passphrase), ""},
		{"another passphrase", good, "some other passphrase", evidence.CodeBinding},
		{"HD-16 a keystore that somebody else made", foreign, string(passphrase), evidence.CodeBinding},
		{"a bit of the records", flip(len(good) - 20), string(passphrase), evidence.CodeBinding},
		{"a bit of the header", bytes.Replace(good, []byte(`"time":1`), []byte(`"time":2`), 1), string(passphrase), evidence.CodeBinding},
		{"a cost that takes all memory", bytes.Replace(good, []byte(`"memoryKiB":64`), []byte(`"memoryKiB":4000000000`), 1), string(passphrase), evidence.CodeParse},
		{"cut", good[:len(good)/2], string(passphrase), ""},
		{"empty", nil, string(passphrase), evidence.CodeParse},
		{"another kind of file", []byte("hello\nhello\n"), string(passphrase), evidence.CodeParse},
		{"a short passphrase", good, "short", evidence.CodePolicy},
		{"no passphrase", good, "", evidence.CodePolicy},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := os.WriteFile(path, r.file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := keystore.OpenSoftware(keystore.In(path), []byte(r.pass), cheap)
			if r.name == "cut" {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			if evidence.CodeOf(err) != r.want {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if err == nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			} else if strings.Contains(err.Error(), r.pass) && r.pass != "" {
				t.Error("the error shows the passphrase")
			}
		})
	}
}

// A write that fails leaves the state of before, in memory and on disk. The folder in the way fails for root too.
func TestSoftwareWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keystore")
	s, err := keystore.OpenSoftware(keystore.In(path), passphrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	id := keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "k"}
	put := func(*keystore.Key) (*keystore.Key, error) { return &keystore.Key{ID: id}, nil }
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), id, put); err == nil {
		t.Fatal("a write into a folder succeeded")
	}
	if _, err := s.Get(t.Context(), id); err == nil {
		t.Error("the record is there though it was never written")
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), id, put); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
