// Package softhsmtest makes SoftHSM tokens for tests: real PKCS #11, in software.
package softhsmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Module is where Debian's package softhsm2 puts the library.
const Module = "/usr/lib/softhsm/libsofthsm2.so"

// Token is a fresh token.
type Token struct{ Module, Label, PIN, PINFile, Conf string }

// New makes a token in a folder of the test. It sets SOFTHSM2_CONF, so tests that use it can't run in parallel.
func New(t testing.TB) Token {
	t.Helper()
	dir := t.TempDir()
	token := Token{Module: Module, Label: "cloister-test", PIN: "123456", PINFile: filepath.Join(dir, "pin"), Conf: filepath.Join(dir, "softhsm2.conf")}
	for path, text := range map[string]string{token.Conf: "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n", token.PINFile: token.PIN + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", token.Conf)
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", token.Label, "--pin", token.PIN, "--so-pin", "87654321").CombinedOutput()
	if err != nil {
		t.Fatalf("SoftHSM is needed (package softhsm2): %v\n%s", err, out)
	}
	return token
}
