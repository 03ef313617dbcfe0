package compute_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/ratelimit"
	"cloister.dev/cloister/internal/tcbfloor"
)

func TestConfig(t *testing.T) {
	var good compute.Config
	newEnv(t, func(c *compute.Config, _ *compute.Deps) { good = *c })
	if err := good.Validate(); err != nil {
		t.Fatal("positive twin:", err)
	}
	for _, r := range []struct {
		field  string
		change func(*compute.Config)
	}{
		{"listen", func(c *compute.Config) { c.Listen = "8443" }},
		{"agentListen", func(c *compute.Config) { c.AgentListen = "" }},
		{"agentListen", func(c *compute.Config) { c.Listen, c.AgentListen = "127.0.0.1:1", "127.0.0.1:1" }},
		{"endpoint", func(c *compute.Config) { c.Endpoint = "http://localhost" }},
		{"endpoint", func(c *compute.Config) { c.Endpoint = "https://localhost/" }},
		{"authority", func(c *compute.Config) { c.Authority = "https://u@localhost" }},
		{"tls.key", func(c *compute.Config) { c.TLS.Key = "" }},
		{"stateDir", func(c *compute.Config) { c.StateDir = "" }},
		{"imageDir", func(c *compute.Config) { c.ImageDir = "" }},
		{"location", func(c *compute.Config) { c.Location = "East US" }},
		{"tenantId", func(c *compute.Config) { c.TenantID = "me" }},
		{"subscriptions", func(c *compute.Config) { c.Subscriptions = nil }},
		{"subscriptions[0]", func(c *compute.Config) { c.Subscriptions = []string{"x"} }},
		{"identity.issuers", func(c *compute.Config) { c.Identity = identity.VerifierConfig{Audiences: []string{"a"}} }},
		{"identity.audiences", func(c *compute.Config) { c.Identity.Audiences = nil }},
		{"roles[0].role", func(c *compute.Config) {
			c.Roles = roles.List{{PrincipalID: identitytest.AdminID, Role: "King", Scope: "/"}}
		}},
		{"minDiskGiB", func(c *compute.Config) { c.MinDiskGiB = 0 }},
		{"quota.cores", func(c *compute.Config) { c.Quota.Cores = 0 }},
		{"quota.families", func(c *compute.Config) { c.Quota.Families = map[string]int{"standardXFamily": 1} }},
		{"cap", func(c *compute.Config) { c.Cap.VCPUs = -1 }},
		{"cpuModel", func(c *compute.Config) { c.CPUModel = "EPYC,+svm" }},
		{"attest", func(c *compute.Config) { c.Attest = initdata.Service{} }},
		{"keys", func(c *compute.Config) { c.Keys.SigningKeys = nil }},
		{"health.minimumTCB", func(c *compute.Config) { c.Health.MinimumTCB = nil }},
		{"health.minimumTCB", func(c *compute.Config) { c.Health.MinimumTCB = map[string]tcbfloor.Floor{"Zen": {}} }},
		{"health.minimumTCB.Milan", func(c *compute.Config) { c.Health.MinimumTCB = map[string]tcbfloor.Floor{"Milan": {}} }},
		{"rateLimits.writes", func(c *compute.Config) { c.RateLimits.Writes = ratelimit.Rate{Burst: 1} }},
		{"rateLimits.reads", func(c *compute.Config) { c.RateLimits.Reads = ratelimit.Rate{PerSecond: 1} }},
		{"health.smt", func(c *compute.Config) { c.Health.SMT = "" }},
		{"health.aliasCheck", func(c *compute.Config) { c.Health.AliasCheck = "true" }},
		{"health.revocationLists", func(c *compute.Config) { c.Health.RequireRevocationLists = true }},
		{"joinTokens[0]", func(c *compute.Config) { c.JoinTokens = []string{"word"} }},
	} {
		c := good
		r.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), r.field+":") {
			t.Errorf("%s: got %v", r.field, err)
		}
	}
	all := compute.Config{}.Validate()
	for _, field := range []string{"listen", "endpoint", "stateDir", "tenantId", "subscriptions", "cpuModel", "quota.cores", "health.minimumTCB", "health.provisional"} {
		if all == nil || !strings.Contains(all.Error(), field+":") {
			t.Errorf("an empty configuration: %s is not reported", field)
		}
	}
	text, err := yaml.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	for _, r := range []struct {
		name, text string
		ok         bool
	}{{"as written", string(text), true}, {"unknown member", string(text) + "\ninsecure: true\n", false}, {"no YAML", "\t{", false}} {
		if err := os.WriteFile(path, []byte(r.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := compute.ReadConfig(path); (err == nil) != r.ok || r.ok && c.Validate() != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}
