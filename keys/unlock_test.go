package keys_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/tpm/tpmtest"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/tpmseal"
)

// One keystore is unlocked by each source of its passphrase in turn, and by none that is wrong.
func TestUnlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	if err := w.service.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.open) // for the cleanup of the world
	pass, err := os.ReadFile(w.cfg.Keystore.PassphraseFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, wrong := write("good", pass), write("wrong", []byte("not the passphrase of this keystore"))
	tpm := tpmtest.Start(t)
	tpm.Boot(map[int]string{7: "secure boot"})
	device := tpm.Path()
	seal := func(name string, secret []byte) string {
		t.Helper()
		b, err := tpmseal.Seal(tpm, []int{7}, secret)
		if err != nil {
			t.Fatal(err)
		}
		return write(name, b)
	}
	sealed, sealedWrong := seal("sealed", pass[:len(pass)-1]), seal("sealedwrong", []byte("not the passphrase of this keystore"))
	env := map[string]string{"CREDENTIALS_DIRECTORY": dir, "GOOD": good, "WRONG": wrong}
	for _, r := range []struct {
		name     string
		keystore keys.Keystore
		env      map[string]string
		ok       bool
		want     evidence.Code
	}{
		{"a file", keys.Keystore{PassphraseFile: good}, nil, true, ""},
		{"a systemd credential", keys.Keystore{PassphraseCredential: "good"}, env, true, ""},
		{"a file that a variable names", keys.Keystore{PassphraseFileEnv: "GOOD"}, env, true, ""},
		{"the TPM", keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: sealed, Device: device}}, nil, true, ""},
		{"a wrong file", keys.Keystore{PassphraseFile: wrong}, nil, false, evidence.CodeBinding},
		{"a file that is not there", keys.Keystore{PassphraseFile: filepath.Join(dir, "none")}, nil, false, ""},
		{"a wrong credential", keys.Keystore{PassphraseCredential: "wrong"}, env, false, evidence.CodeBinding},
		{"a credential that is not there", keys.Keystore{PassphraseCredential: "none"}, env, false, ""},
		{"a credential without systemd", keys.Keystore{PassphraseCredential: "good"}, nil, false, evidence.CodePolicy},
		{"SVC-12 a credential that climbs", keys.Keystore{PassphraseCredential: "../" + filepath.Base(dir) + "/good"}, env, false, evidence.CodePolicy},
		{"a variable that is not set", keys.Keystore{PassphraseFileEnv: "GOOD"}, nil, false, evidence.CodePolicy},
		{"a variable that names a wrong file", keys.Keystore{PassphraseFileEnv: "WRONG"}, env, false, evidence.CodeBinding},
		{"a wrong passphrase from the TPM", keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: sealedWrong, Device: device}}, nil, false, evidence.CodeBinding},
		{"a TPM that is not there", keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: sealed, Device: filepath.Join(dir, "none")}}, nil, false, ""},
		{"a sealed file that is none", keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: good, Device: device}}, nil, false, evidence.CodeParse},
		{"the TPM and a file", keys.Keystore{PassphraseFile: good, PassphraseTPM: &keys.TPM{Sealed: sealed, Device: device}}, nil, false, evidence.CodeParse},
		{"a relative sealed file", keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: "sealed", Device: device}}, nil, false, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := w.cfg
			c.Keystore = r.keystore
			s, err := keys.New(t.Context(), c, keys.Environment{Now: w.now, Getenv: func(n string) string { return r.env[n] }, Cost: keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1}},
				slog.New(slog.NewJSONHandler(io.Discard, nil)))
			if (err == nil) != r.ok || evidence.CodeOf(err) != r.want {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if err == nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
