// Package attest is the attestation service: it judges evidence and issues tokens.
//
// One process serves one or two issuers. The hardware issuer stands for AMD's roots, the software issuer
// for software roots that the configuration names; each has its own URL, signing key and policies.
package attest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
)

// Config is the service's configuration, a YAML file.
type Config struct {
	// Listen is host:port.
	Listen string `json:"listen"`
	TLS    TLS    `json:"tls"`
	// StateDir holds keys, policies and the transparency log.
	StateDir string `json:"stateDir"`
	// Hardware is the issuer for evidence of AMD processors; absent: there is none, and such evidence is refused.
	Hardware *Hardware `json:"hardware,omitempty"`
	// Software is the issuer for evidence of software roots; absent: there is none, and such evidence is refused.
	Software *Software `json:"software,omitempty"`
	// Identity says whose sign-in tokens count for policy calls; absent: policy calls are refused.
	Identity *identity.VerifierConfig `json:"identity,omitempty"`
	// Roles say who may read and write policies, at the scope "/attestation".
	Roles roles.List `json:"roles,omitempty"`
}

// TLS names the service's certificate chain and key, PEM files.
type TLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// Hardware is the hardware issuer.
type Hardware struct {
	// Issuer is the URL under which tokens are issued and the API is served.
	Issuer string `json:"issuer"`
	// MinimumTCB is the floor of the reported TCB, component by component. Zeros must be written out:
	// a component left out is a mistake.
	MinimumTCB *TCB `json:"minimumTCB"`
	// RevocationLists are files with AMD's revocation lists (DER), read at start. Out of date, they make
	// judgements "unavailable".
	RevocationLists []string `json:"revocationLists,omitempty"`
	// RequireRevocationLists says whether evidence without a current list for its root is judged at all. It must be
	// written out.
	RequireRevocationLists *bool `json:"requireRevocationLists"`
}

// TCB is a floor of security version numbers, 0 to 255 each. fmc exists on Turin only: 0 elsewhere.
type TCB struct {
	FMC        *uint8 `json:"fmc"`
	BootLoader *uint8 `json:"bootLoader"`
	TEE        *uint8 `json:"tee"`
	SNP        *uint8 `json:"snp"`
	Microcode  *uint8 `json:"microcode"`
}

func (t *TCB) floor() sevsnp.TCB {
	return sevsnp.TCB{FMC: *t.FMC, BootLoader: *t.BootLoader, TEE: *t.TEE, SNP: *t.SNP, Microcode: *t.Microcode}
}

// Software is the software issuer. It protects from nothing on the host that holds the root's key.
type Software struct {
	Issuer string `json:"issuer"`
	// Roots are PEM files with the certificates of the software roots that are believed.
	Roots []string `json:"roots"`
}

// LoadConfig reads a configuration file strictly: unknown and repeated members are mistakes.
func LoadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var c Config
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, c.Validate()
}

// Validate reports all mistakes at once. It opens no files.
func (c Config) Validate() error {
	var mistakes []error
	add := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		add("listen: %q, want host:port", c.Listen)
	}
	if c.TLS.Certificate == "" || c.TLS.Key == "" {
		add("tls: certificate and key are both needed")
	}
	if c.StateDir == "" {
		add("stateDir: empty, want a folder")
	}
	if c.Hardware == nil && c.Software == nil {
		add("hardware, software: neither is there, so no evidence could be accepted")
	}
	if h := c.Hardware; h != nil {
		mistakes = append(mistakes, checkIssuer("hardware.issuer", h.Issuer))
		if t := h.MinimumTCB; t == nil || t.FMC == nil || t.BootLoader == nil || t.TEE == nil || t.SNP == nil || t.Microcode == nil {
			add("hardware.minimumTCB: fmc, bootLoader, tee, snp and microcode are all needed, also where they are 0")
		}
		if h.RequireRevocationLists == nil {
			add("hardware.requireRevocationLists: absent, want true or false")
		} else if *h.RequireRevocationLists && len(h.RevocationLists) == 0 {
			add("hardware.revocationLists: none, though requireRevocationLists asks for them")
		}
	}
	if s := c.Software; s != nil {
		mistakes = append(mistakes, checkIssuer("software.issuer", s.Issuer))
		if len(s.Roots) == 0 {
			add("software.roots: none, so no evidence could be accepted")
		}
		for i, r := range s.Roots {
			if r == "" {
				add("software.roots[%d]: empty, want a file", i)
			}
		}
	}
	if c.Hardware != nil && c.Software != nil {
		if path(c.Hardware.Issuer) == path(c.Software.Issuer) {
			add("hardware.issuer, software.issuer: both have the path %q, want different ones", path(c.Hardware.Issuer))
		}
	}
	if c.Identity != nil {
		if _, err := identity.NewVerifier(*c.Identity); err != nil {
			add("identity: %w", err)
		}
	} else if len(c.Roles) > 0 {
		add("roles: given without identity, so nobody could use them")
	}
	if err := c.Roles.Validate(); err != nil {
		add("roles: %w", err)
	}
	return errors.Join(mistakes...)
}

func path(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(u.Path, "/")
}

// checkIssuer wants the plainest form of a URL: relying parties compare it as text.
func checkIssuer(field, issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%s: %q, want https://host[:port][/path]", field, issuer)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(issuer, "#"):
		return fmt.Errorf("%s: %q has a user, a query or a fragment, want none", field, issuer)
	case strings.HasSuffix(issuer, "/") || strings.Contains(u.Path, "//") || strings.Contains(u.Path, "."):
		return fmt.Errorf("%s: %q, want no final slash, no empty and no dotted path segments", field, issuer)
	}
	return nil
}
