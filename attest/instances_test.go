package attest

import (
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
)

// tenants opens a service with two tenants' instances under one software root, and one under another.
func tenants(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: sevsnptest.Now}
	w.identity = identitytest.New(t, w.clock)
	c := config(t, w.dir, w.chip)
	otherDir := filepath.Join(w.dir, "other")
	if err := os.Mkdir(otherDir, 0o700); err != nil {
		t.Fatal(err)
	}
	other := config(t, otherDir, newSoftwareChip(t))
	instance := func(name string, roots []string) Instance {
		return Instance{Name: name, Software: &Software{Issuer: hardwareURL + "/" + name, Roots: roots}}
	}
	c.Hardware, c.Software = nil, nil
	c.Instances = []Instance{instance("alpha", []string{filepath.Join(w.dir, "root.pem")}), instance("beta", []string{filepath.Join(w.dir, "root.pem")}), instance("gamma", other.Software.Roots)}
	ids := w.identity.Config(t, "https://attest.azure.net")
	c.Identity = &ids
	c.Roles = roles.List{{PrincipalID: identitytest.AdminID, Role: "Attestation Contributor", Scope: "/attestation/alpha"}}
	w.serve(t, c)
	return w
}

func TestInstances(t *testing.T) {
	w := tenants(t)
	ctx := t.Context()
	alpha := readAuthority(t, filepath.Join(w.dir, "state", "alpha.public.json"))
	beta := readAuthority(t, filepath.Join(w.dir, "state", "beta.public.json"))
	compact, err := w.client("/alpha").SevSnpVM(ctx, w.report(t, w.chip, nil))
	if err != nil {
		t.Fatal(err)
	}
	if tok, err := token.Verify(compact, []token.Authority{alpha}, w.now); err != nil || tok.Issuer != hardwareURL+"/alpha" {
		t.Errorf("token %v, %v", tok, err)
	}
	if _, err := token.Verify(compact, []token.Authority{beta}, w.now); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-13 a tenant's token under another tenant's key: %v", err)
	}
	if _, err := w.client("/gamma").SevSnpVM(ctx, w.report(t, w.chip, nil)); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-13 evidence under another tenant's root: %v", err)
	}
	admin := func(path string) *client.Client {
		return client.New(client.Options{URL: w.url + path, HTTP: w.http, Bearer: w.bearer(t)})
	}
	if err := admin("/alpha").SetPolicy(ctx, "SevSnpVm", "version=1.0;authorizationrules{=>deny();};"); err != nil {
		t.Fatal(err)
	}
	if err := admin("/beta").SetPolicy(ctx, "SevSnpVm", "version=1.0;authorizationrules{=>deny();};"); evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Errorf("SVC-13 a role at one tenant's scope used at another's: %v", err)
	}
	if _, err := w.client("/alpha").SevSnpVM(ctx, w.report(t, w.chip, nil)); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("under the tenant's own policy: %v", err)
	}
	if _, err := w.client("/beta").SevSnpVM(ctx, w.report(t, w.chip, nil)); err != nil {
		t.Errorf("under another tenant's policy: %v", err)
	}
}

func TestValidateInstances(t *testing.T) {
	good := func() Config {
		c := config(t, t.TempDir(), softwareChip(t))
		c.Instances = []Instance{{Name: "alpha", Software: &Software{Issuer: hardwareURL + "/alpha", Roots: c.Software.Roots}}}
		c.SigningKeys = &SigningKeys{RotateEvery: "720h"}
		return c
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a name with a path":              {func(c *Config) { c.Instances[0].Name = "../x" }, "instances[0].name"},
		"SVC-12 a name with a dot":        {func(c *Config) { c.Instances[0].Name = "a.b" }, "instances[0].name"},
		"the name of another":             {func(c *Config) { c.Instances[0].Name = "software" }, "another instance"},
		"the path of another":             {func(c *Config) { c.Instances[0].Software.Issuer = softwareURL }, "same"},
		"a path of the service":           {func(c *Config) { c.Instances[0].Software.Issuer = hardwareURL + "/attest" }, "a path of the service"},
		"both kinds of roots":             {func(c *Config) { c.Instances[0].Hardware = c.Hardware }, "exactly one"},
		"no kind of roots":                {func(c *Config) { c.Instances[0].Software = nil }, "exactly one"},
		"SVC-03 no roots":                 {func(c *Config) { c.Instances[0].Software.Roots = nil }, "roots"},
		"an unknown trust mode":           {func(c *Config) { c.Instances[0].TrustMode = "isolated" }, "trustMode"},
		"isolated without signers":        {func(c *Config) { c.Instances[0].TrustMode = "Isolated" }, "policySigners"},
		"signers without isolation":       {func(c *Config) { c.Instances[0].PolicySigners = []string{"x"} }, "policySigners"},
		"keys that change each minute":    {func(c *Config) { c.SigningKeys.RotateEvery = "1m" }, "rotateEvery"},
		"keys that change by no clock":    {func(c *Config) { c.SigningKeys.RotateEvery = "" }, "rotateEvery"},
		"roles that nobody can sign in":   {func(c *Config) { c.Roles = roles.List{{PrincipalID: "x", Role: "Attestation Reader", Scope: "/"}} }, "roles"},
		"TDX-04 no status":                {func(c *Config) { c.Hardware.Intel = &Intel{} }, "intel.acceptTCB"},
		"TDX-05 an unknown status":        {func(c *Config) { c.Hardware.Intel = &Intel{AcceptTCB: []string{"uptodate"}} }, "intel.acceptTCB"},
		"TDX-04 a revoked platform":       {func(c *Config) { c.Hardware.Intel = &Intel{AcceptTCB: []string{"Revoked"}} }, "intel.acceptTCB"},
		"SVC-28 Intel without collateral": {func(c *Config) { c.Hardware.Intel = &Intel{AcceptTCB: []string{"UpToDate"}} }, "without collateral"},
		"collateral from nowhere":         {func(c *Config) { c.Collateral = &collateral.Config{} }, "collateral"},
		"SVC-23 no kind of processor":     {func(c *Config) { c.Hardware.AMD = nil }, "no evidence could be accepted"},
	} {
		c := good()
		r.change(&c)
		want := r.want
		if want == "same" {
			want = "both issuers have the path"
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a complaint about %s", name, err, want)
		}
	}
}

// The service publishes keys that follow as it publishes the first, and tokens are good by either.
func TestAdvance(t *testing.T) {
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: sevsnptest.Now}
	c := config(t, w.dir, w.chip)
	c.Hardware = nil
	c.SigningKeys = &SigningKeys{RotateEvery: "1h"}
	s, err := Open(c, func() time.Time { return w.now }, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(s.Handler)
	t.Cleanup(func() { server.Close(); s.Close() })
	w.url, w.http = server.URL, server.Client()
	file := filepath.Join(c.StateDir, "software.public.json")
	start := readAuthority(t, file)
	before, err := w.client("/software").SevSnpVM(t.Context(), w.report(t, w.chip, nil))
	if err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Hour)
	if err := s.Advance(w.now); err != nil {
		t.Fatal(err)
	}
	after, err := w.client("/software").SevSnpVM(t.Context(), w.report(t, w.chip, nil))
	if err != nil {
		t.Fatal(err)
	}
	if now := readAuthority(t, file); len(start.Keys) != 2 || len(now.Keys) != 3 {
		t.Errorf("%d keys published at the start, %d after the turn", len(start.Keys), len(now.Keys))
	}
	for name, compact := range map[string]string{"before": before, "after": after} {
		for when, a := range map[string]token.Authority{"the start": start, "the turn": readAuthority(t, file)} {
			if _, err := token.Verify(compact, []token.Authority{a}, w.now); err != nil {
				t.Errorf("a token from %s the turn by keys of %s: %v", name, when, err)
			}
		}
	}
}
