// Package compute is the control plane: an Azure Resource Manager API for confidential VMs over etcd, and the API
// of host agents. Each kind of resource has a folder of its own; this package puts them together.
package compute

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/ratelimit"
)

// Config is the configuration file of the control plane.
type Config struct {
	Listen      string `json:"listen"`      // address of the ARM API
	AgentListen string `json:"agentListen"` // address of the agent API
	Endpoint    string `json:"endpoint"`    // URL under which clients reach the ARM API; operation URLs are made of it
	TLS         TLS    `json:"tls"`
	StateDir    string `json:"stateDir"` // embedded etcd and the agent CA
	Etcd        Etcd   `json:"etcd"`

	Location      string   `json:"location"` // such as "local": lower case, no blanks
	Zones         []string `json:"zones,omitempty"`
	TenantID      string   `json:"tenantId"`
	Subscriptions []string `json:"subscriptions"`

	Authority string                  `json:"authority"` // URL of sign-in, without a tenant
	Identity  identity.VerifierConfig `json:"identity"`
	Roles     roles.List              `json:"roles"`

	ImageDir   string       `json:"imageDir"`
	MinDiskGiB int          `json:"minDiskGiB"` // smallest OS disk
	Quota      quota.Limits `json:"quota"`
	// Cap bounds what a VM really gets, for hosts smaller than the sizes say. Zero members are no bound.
	Cap      catalog.Cap `json:"cap"`
	CPUModel string      `json:"cpuModel"` // QEMU's name; enters launch digests

	// Attest and Keys are the services that init data name when compute has to make them.
	Attest      initdata.Service `json:"attest"`
	Keys        initdata.Service `json:"keys"`
	VaultSuffix string           `json:"vaultSuffix"` // host[:port] that vault names end in

	// RateLimits bound the calls of one caller at this server. Absent: none.
	RateLimits arm.Rates `json:"rateLimits"`

	// Health says what hosts' platforms must be to take VMs.
	Health Health `json:"health"`

	// JoinTokens are the hex SHA-256 of one-time tokens with which hosts join.
	JoinTokens []string `json:"joinTokens,omitempty"`
}

// TLS names the server's certificate.
type TLS struct {
	Cert string `json:"cert"` // PEM file, leaf first
	Key  string `json:"key"`  // PEM file
}

// Etcd names an external cluster. Without endpoints the process runs a member of its own.
type Etcd struct {
	Endpoints []string `json:"endpoints,omitempty"`
	CA        string   `json:"ca,omitempty"`
	Cert      string   `json:"cert,omitempty"`
	Key       string   `json:"key,omitempty"`
}

// ReadConfig reads a configuration file. Unknown members are mistakes.
func ReadConfig(path string) (Config, error) {
	var c Config
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("reading the configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return c, fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	return c, nil
}

var (
	guid     = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	digest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	place    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
	cpuModel = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// Validate reports all mistakes.
func (c Config) Validate() error {
	var all []error
	bad := func(field, got, want string) {
		all = append(all, fmt.Errorf("%s: got %q, want %s", field, got, want))
	}
	for field, addr := range map[string]string{"listen": c.Listen, "agentListen": c.AgentListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad(field, addr, "host:port")
		}
	}
	if c.Listen != "" && c.Listen == c.AgentListen && !strings.HasSuffix(c.Listen, ":0") {
		bad("agentListen", c.AgentListen, "another address than listen")
	}
	for field, u := range map[string]string{"endpoint": c.Endpoint, "authority": c.Authority} {
		p, err := url.Parse(u)
		if err != nil || p.Scheme != "https" || p.Host == "" || p.Path != "" || p.User != nil || p.RawQuery != "" || p.Fragment != "" {
			bad(field, u, "https://host[:port], nothing after it")
		}
	}
	for field, v := range map[string]string{"tls.cert": c.TLS.Cert, "tls.key": c.TLS.Key, "stateDir": c.StateDir, "imageDir": c.ImageDir} {
		if v == "" {
			bad(field, v, "a path")
		}
	}
	c.Health.validate(bad)
	for field, r := range map[string]ratelimit.Rate{"rateLimits.reads": c.RateLimits.Reads, "rateLimits.writes": c.RateLimits.Writes, "rateLimits.deletes": c.RateLimits.Deletes} {
		if !r.Valid() {
			bad(field, fmt.Sprintf("%d at once, %g a second", r.Burst, r.PerSecond), "both positive, or both absent")
		}
	}
	if !place.MatchString(c.Location) || arm.Location(c.Location) != c.Location {
		bad("location", c.Location, "lower-case letters, digits and hyphens")
	}
	if !guid.MatchString(c.TenantID) {
		bad("tenantId", c.TenantID, "a GUID in lower case")
	}
	if len(c.Subscriptions) == 0 {
		bad("subscriptions", "none", "at least one")
	}
	for i, s := range c.Subscriptions {
		if !guid.MatchString(s) {
			bad(fmt.Sprintf("subscriptions[%d]", i), s, "a GUID in lower case")
		}
	}
	if _, err := identity.NewVerifier(c.Identity); err != nil {
		all = append(all, err)
	}
	if err := c.Roles.Validate(); err != nil {
		all = append(all, err)
	}
	if c.MinDiskGiB < 1 || c.MinDiskGiB > 4095 {
		bad("minDiskGiB", fmt.Sprint(c.MinDiskGiB), "1 to 4095")
	}
	for field, n := range map[string]int{"quota.cores": c.Quota.Cores, "quota.virtualMachines": c.Quota.VMs, "quota.family": c.Quota.Family} {
		if n < 1 {
			bad(field, fmt.Sprint(n), "a positive number")
		}
	}
	for name := range c.Quota.Families {
		known := false
		for _, f := range catalog.Families() {
			known = known || strings.EqualFold(f, name)
		}
		if !known {
			bad("quota.families", name, strings.Join(catalog.Families(), ", "))
		}
	}
	if c.Cap.VCPUs < 0 || c.Cap.MemoryMiB < 0 {
		bad("cap", fmt.Sprintf("%d vCPUs, %d MiB", c.Cap.VCPUs, c.Cap.MemoryMiB), "nothing negative")
	}
	if !cpuModel.MatchString(c.CPUModel) {
		bad("cpuModel", c.CPUModel, "QEMU's name of a CPU model, such as EPYC")
	}
	for field, s := range map[string]initdata.Service{"attest": c.Attest, "keys": c.Keys} {
		if s.URL == "" || len(s.SigningKeys) == 0 {
			bad(field, s.URL, "url and at least one signing key")
		}
	}
	for i, d := range c.JoinTokens {
		if !digest.MatchString(d) {
			bad(fmt.Sprintf("joinTokens[%d]", i), d, "64 hex digits in lower case")
		}
	}
	return errors.Join(all...)
}
