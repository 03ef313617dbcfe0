//go:build boot

package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"cloister.dev/cloister/host/process"
)

// customDataCanary is a secret that a tenant gives a VM.
const customDataCanary = "canary-of-the-custom-data-5d1f"

// token is what a bearer token begins with: the base64url of two JSON objects.
var token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}`)

// testSecrets looks for the installation's secrets and the tenant's in all that was logged or printed on the way, and on
// the command lines of what runs.
func testSecrets(s *system) {
	secrets := s.secrets()
	texts := map[string][]byte{}
	for _, dir := range []string{"log", filepath.Join("host", "vms")} {
		err := filepath.WalkDir(filepath.Join(s.state, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".log") {
				return err
			}
			texts[path], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	running, err := process.Naming(s.state, s.runDir())
	if err != nil || len(running) < 7 { // five services, a paravisor and QEMU
		s.t.Fatalf("running: %v, %v", running, err)
	}
	for _, h := range running {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", h.PID))
		if err != nil {
			s.t.Fatal(err)
		}
		texts[fmt.Sprintf("command line of process %d", h.PID)] = raw
	}
	for where, text := range texts {
		for what, secret := range secrets {
			if strings.Contains(string(text), secret) {
				s.t.Errorf("%s is in %s", what, where)
			}
		}
		if found := token.Find(text); found != nil {
			s.t.Errorf("a token is in %s: %.20s…", where, found)
		}
	}
	s.t.Logf("%d secrets in none of %d texts", len(secrets), len(texts))
}

// secrets are what nobody may read in a log, by what each is.
func (s *system) secrets() map[string]string {
	s.t.Helper()
	found := map[string]string{"custom data": customDataCanary, "custom data in base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(customDataCanary)), "=")[:36]}
	raw, err := os.ReadFile(filepath.Join(s.state, "installation.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	type client struct{ Secret string }
	var i struct {
		Admin, Tenant, Limited, Compute client
		JoinToken, Passphrase           string
	}
	if err := json.Unmarshal(raw, &i); err != nil {
		s.t.Fatal(err)
	}
	for what, secret := range map[string]string{"the administrator's secret": i.Admin.Secret, "the tenant's secret": i.Tenant.Secret, "the limited client's secret": i.Limited.Secret,
		"the control plane's secret": i.Compute.Secret, "the join token": i.JoinToken, "the keystore's passphrase": i.Passphrase} {
		if len(secret) < 16 {
			s.t.Fatalf("%s is %q", what, secret)
		}
		found[what] = secret
	}
	keys := 0
	err = filepath.WalkDir(s.state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".key") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if lines := strings.Split(strings.TrimSpace(string(raw)), "\n"); len(lines) > 2 && strings.Contains(lines[0], "PRIVATE KEY") {
			found["the private key "+path] = lines[len(lines)/2] // a line in the middle holds some of the private part
			keys++
		}
		return nil
	})
	if err != nil || keys < 5 {
		s.t.Fatalf("%d private keys, %v", keys, err)
	}
	return found
}
