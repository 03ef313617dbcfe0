//go:build failpoints

package policystore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"cloister.dev/cloister/internal/failpoint"
)

const crashDir = "CLOISTER_TEST_CRASH_DIR"

// signers reads the two certificates that a life needs, or makes them: a successor must have the same.
func signers(t *testing.T, dir string) []*x509.Certificate {
	t.Helper()
	var list [][]byte
	path := filepath.Join(dir, "certificates")
	if raw, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
	} else {
		for n := range int64(2) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(n), NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, der)
		}
		raw, err := json.Marshal(list)
		if err == nil {
			err = os.WriteFile(path, raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var out []*x509.Certificate
	for _, der := range list {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// life sets a policy and adds a signer. Each is noted in a log before it holds.
func life(t *testing.T, dir string) (*Store, *Signers) {
	t.Helper()
	noted := func(what string) func() error {
		return func() error { return os.WriteFile(filepath.Join(dir, what), nil, 0o600) }
	}
	certs := signers(t, dir)
	list, err := OpenSigners(filepath.Join(dir, "signers.json"), certs[:1])
	if err != nil {
		t.Fatal(err)
	}
	add := func(have []*x509.Certificate) ([]*x509.Certificate, error) {
		if slices.ContainsFunc(have, certs[1].Equal) {
			return have, nil
		}
		return append(have, certs[1]), nil
	}
	if err := list.Change(add, noted("signer noted")); err != nil {
		t.Fatal(err)
	}
	policies, err := Open(filepath.Join(dir, "policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := policies.Set("SevSnpVm", Policy{Text: "a"}, noted("policy noted")); err != nil {
		t.Fatal(err)
	}
	return policies, list
}

// The service is killed after each durable write of policies and their signers. What holds afterwards was noted, and a
// successor ends where the first would have.
func TestKilledAtEachWrite(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		life(t, dir)
		return
	}
	points := []string{"attest/policies", "attest/policy-signers", "attest/policy-signers#2"}
	for _, name := range failpoint.Names() {
		if !slices.Contains(points, name) {
			t.Errorf("CP-09 %s: a durable write that this test doesn't kill at", name)
		}
	}
	for _, point := range points {
		t.Run("CP-09 "+point, func(t *testing.T) {
			dir := t.TempDir()
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledAtEachWrite$")
			c.Env = append(os.Environ(), crashDir+"="+dir, "CLOISTER_FAILPOINT="+point)
			out, err := c.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed at the point: %v\n%s", err, out)
			}
			certs := signers(t, dir)
			left, err := OpenSigners(filepath.Join(dir, "signers.json"), nil)
			if err != nil {
				t.Fatal(err)
			}
			there := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
			if slices.ContainsFunc(left.List(), certs[1].Equal) && !there("signer noted") {
				t.Error("a signer counts that was never noted")
			}
			kept, err := Open(filepath.Join(dir, "policies.json"))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := kept.Get("SevSnpVm"); ok != (point == "attest/policies") || ok && !there("policy noted") {
				t.Errorf("a policy holds: %v, noted: %v", ok, there("policy noted"))
			}
			policies, list := life(t, dir)
			if p, ok := policies.Get("SevSnpVm"); !ok || p.Text != "a" || !slices.EqualFunc(list.List(), certs, (*x509.Certificate).Equal) {
				t.Errorf("afterwards: %v %v, %d signers", p, ok, len(list.List()))
			}
		})
	}
}
