package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The verifier must not hold code of VMs, hosts or images.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		rest, ours := strings.CutPrefix(p, "cloister.dev/cloister/")
		domain, _, _ := strings.Cut(rest, "/")
		switch domain {
		case "attest", "evidence", "identity", "store", "internal", "cmd":
		default:
			if ours {
				t.Errorf("the verifier depends on %s", p)
			}
		}
		if strings.Contains(p, "sevsnptest") || strings.Contains(p, "identitytest") || p == "testing" {
			t.Errorf("the verifier holds test code: %s", p)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	good := `
listen: 127.0.0.1:8443
stateDir: /var/lib/cloister/attest
tls: {certificate: /a, key: /b}
software: {issuer: "https://localhost:8443/software", roots: [/root.pem]}
`
	for _, c := range []struct {
		name, text, want string
	}{
		{"good", good, ""},
		{"unknown member", good + "quoteEnabled: false\n", "quoteEnabled"},
		{"repeated member", good + "listen: 127.0.0.1:1\n", "listen"},
		{"SVC-03 no issuer", "listen: 127.0.0.1:8443\nstateDir: /x\ntls: {certificate: /a, key: /b}\n", "neither"},
		{"no YAML", "\t{", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := command()
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetArgs([]string{"config", "check", file})
			err := cmd.Execute()
			if (err == nil) != (c.name == "good") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
