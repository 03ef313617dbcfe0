//go:build boot

package integration

import (
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/keys/keystore/hsm/softhsmtest"
)

// TestCustomerKeyInAnHSM is one VM's life under a key of its tenant's, in a token: it boots, disabling the key stops its
// next start with the reason, enabling it heals, and a new version takes over while nothing else changes.
func TestCustomerKeyInAnHSM(t *testing.T) {
	token := softhsmtest.New(t)
	s := newSystem(t)
	s.run("up", "--hsm-module", token.Module, "--hsm-token", token.Label, "--hsm-pin-file", token.PINFile, "--hsm-env", "SOFTHSM2_CONF="+token.Conf,
		"--hsm-in-memory", "RSA-OAEP-256,RSA-AES-KEY-WRAP")
	s.run("image", "build")
	s.run("key", "create", "disks")
	s.run("encryption-set", "create", "mine", "--key", "disks")
	s.run("vm", "create", "web", "--encryption-set", "mine")
	s.run("vm", "attest", "web")

	s.run("key", "disable", "disks")
	if out, code := s.try("vm", "restart", "web"); code == 0 || !strings.Contains(out, "customer-managed key cloister/disks") || !strings.Contains(out, "disabled") {
		t.Errorf("CP-04 a start under a disabled key: exit status %d\n%s", code, out)
	}
	s.run("key", "enable", "disks")
	from := time.Now()
	s.run("vm", "start", "web")
	s.awaitStep("web", from, "guest-attestation", "done")

	s.run("key", "rotate", "disks")
	var versions []struct{ Version string }
	s.json(&versions, "key", "show", "disks")
	if len(versions) != 2 {
		t.Fatalf("%d versions of the key, want 2", len(versions))
	}
	s.run("vm", "rewrap", "web")
	s.run("key", "disable", "disks", "--version", versions[0].Version)
	from = time.Now()
	s.run("vm", "restart", "web")
	s.awaitStep("web", from, "guest-attestation", "done")
	s.run("vm", "attest", "web")
	s.run("vm", "delete", "web")
	s.run("encryption-set", "delete", "mine")

	t.Run("a key service of the tenant's own", func(t *testing.T) { ownKeyService(t, s) })
}
