package keys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/keystore/hsm"
)

func TestConfig(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "config.yaml")
	load := func() keys.Config {
		t.Helper()
		raw, err := yaml.Marshal(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := keys.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := load().Validate(); err != nil {
		t.Fatalf("the positive twin: %v", err)
	}
	byFile := load()
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, []byte(byFile.Authorities[0].Keys[0].PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile.Authorities[0].Keys[0].PEM, byFile.Authorities[0].Keys[0].PEMFile = "", keyFile
	if err := byFile.Validate(); err != nil {
		t.Errorf("a key in a file: %v", err)
	}
	for _, r := range []struct {
		name   string
		change func(*keys.Config)
		says   string
	}{
		{"SVC-03 no authority", func(c *keys.Config) { c.Authorities = nil }, "authorities"},
		{"SVC-03 an authority without keys", func(c *keys.Config) { c.Authorities[0].Keys = nil }, "no pinned key"},
		{"a key that is none", func(c *keys.Config) { c.Authorities[0].Keys[0].PEM = "x" }, "PEM"},
		{"a key twice", func(c *keys.Config) { c.Authorities[0].Keys = append(c.Authorities[0].Keys, c.Authorities[0].Keys[0]) }, "kid"},
		{"a key in no place", func(c *keys.Config) { c.Authorities[0].Keys[0].PEM = "" }, "pemFile"},
		{"a key in two places", func(c *keys.Config) { c.Authorities[0].Keys[0].PEMFile = keyFile }, "pemFile"},
		{"SVC-34 an issuer with a user", func(c *keys.Config) { c.Authorities[0].Issuer = "https://u@h/" }, "issuer"},
		{"SVC-34 an issuer with a fragment", func(c *keys.Config) { c.Authorities[0].Issuer = "https://h/#x" }, "issuer"},
		{"SVC-34 an issuer without TLS", func(c *keys.Config) { c.Authorities[0].Issuer = "http://h/" }, "issuer"},
		{"SVC-03 nobody signs callers in", func(c *keys.Config) { c.Identity.Issuers = nil }, "issuers"},
		{"sign-in without a tenant", func(c *keys.Config) { c.Identity.SignIn = "https://login.cloister.test" }, "signIn"},
		{"sign-in that breaks the challenge", func(c *keys.Config) { c.Identity.SignIn = "https://login.cloister.test/t?a=b" }, "signIn"},
		{"no vault", func(c *keys.Config) { c.Vaults, c.Pools = nil, nil }, "vaults"},
		{"a pool of the name of a vault", func(c *keys.Config) { c.Vaults, c.Pools = []string{"abc"}, []string{"abc"} }, "vaults"},
		{"two tenants and none named", func(c *keys.Config) {
			second := c.Identity.Issuers[0]
			second.URL, second.TenantID = "https://other.example", "t2"
			c.Identity.Issuers = append(c.Identity.Issuers, second)
		}, "tenantId"},
		{"a control plane without audiences", func(c *keys.Config) { c.Management = &keys.Management{} }, "management"},
		{"a vault that is no name", func(c *keys.Config) { c.Vaults = []string{"../x"} }, "vaults"},
		{"no suffix", func(c *keys.Config) { c.Suffix = "" }, "suffix"},
		{"a suffix with a port", func(c *keys.Config) { c.Suffix = "vault.test:8" }, "suffix"},
		{"no TLS", func(c *keys.Config) { c.TLS = keys.TLS{} }, "tls"},
		{"no listen address", func(c *keys.Config) { c.Listen = "" }, "listen"},
		{"a relative folder", func(c *keys.Config) { c.StateDir = "state" }, "stateDir"},
		{"no passphrase", func(c *keys.Config) { c.Keystore = keys.Keystore{} }, "keystore"},
		{"two passphrases", func(c *keys.Config) { c.Keystore.PassphraseFileEnv = "X" }, "keystore"},
		{"a token without a library", func(c *keys.Config) { c.Keystore.PKCS11 = &keys.PKCS11{Token: "t", PINFile: "/pin"} }, "pkcs11.module"},
		{"a token without a label", func(c *keys.Config) { c.Keystore.PKCS11 = &keys.PKCS11{Module: "/m.so", PINFile: "/pin"} }, "pkcs11.token"},
		{"a token without a PIN", func(c *keys.Config) { c.Keystore.PKCS11 = &keys.PKCS11{Module: "/m.so", Token: "t"} }, "sources of the PIN"},
		{"a token with two PINs", func(c *keys.Config) {
			c.Keystore.PKCS11 = &keys.PKCS11{Module: "/m.so", Token: "t", PINFile: "/pin", PINCredential: "pin"}
		}, "sources of the PIN"},
		{"an unknown exception for a token", func(c *keys.Config) {
			c.Keystore.PKCS11 = &keys.PKCS11{Module: "/m.so", Token: "t", PINFile: "/pin", InMemory: []hsm.InMemory{"all"}}
		}, "inMemory"},
		{"fewer requests than none", func(c *keys.Config) { c.Throttle.RequestsPer10Seconds = -1 }, "throttle"},
		{"too many requests", func(c *keys.Config) { c.Throttle.RequestsPer10Seconds = 1_000_001 }, "throttle"},
		{"a relative keystore", func(c *keys.Config) { c.Keystore.Path = "keystore" }, "keystore.path"},
		{"a relative anchor", func(c *keys.Config) { c.Keystore.Anchor = "anchor" }, "keystore.anchor"},
		{"a relative sealed passphrase", func(c *keys.Config) { c.Keystore = keys.Keystore{PassphraseTPM: &keys.TPM{Sealed: "p"}} }, "passphraseTPM"},
		{"a passphrase in a file and sealed", func(c *keys.Config) { c.Keystore.PassphraseTPM = &keys.TPM{Sealed: "/p"} }, "sources of the passphrase"},
		{"too few days", func(c *keys.Config) { c.SoftDeleteDays = 1 }, "softDeleteDays"},
		{"an unknown role", func(c *keys.Config) {
			c.Roles = append(c.Roles, roles.Assignment{PrincipalID: "x", Role: "King", Scope: "/"})
		}, "King"},
		{"an operator without an id", func(c *keys.Config) { c.Operators = []string{""} }, "operators"},
	} {
		t.Run(r.name, func(t *testing.T) {
			c := load()
			r.change(&c)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), r.says) {
				t.Errorf("%v does not say %q", err, r.says)
			}
			if _, err := keys.New(t.Context(), c, keys.Environment{}, nil); err == nil {
				t.Error("the service started")
			}
		})
	}
	var empty keys.Config
	err := empty.Validate()
	for _, field := range []string{"listen", "tls", "vaults", "suffix", "stateDir", "keystore", "identity.signIn", "authorities", "identity.issuers"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("all mistakes at once: %s is missing in %v", field, err)
		}
	}
	// SVC-23: there is no member that turns attestation off, so naming one is a mistake.
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(raw, []byte("attestation: false\n")...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Load(path); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("SVC-23 an unknown member: %v", err)
	}
}
