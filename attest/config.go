// Package attest is the attestation service: it judges evidence and issues tokens.
//
// One process serves any number of issuers. A hardware issuer stands for the roots of the processors' makers, a
// software issuer for software roots that the configuration names. Each issuer has its own URL, signing keys,
// policies and callers; a tenant's instance is an issuer of the tenant's own.
package attest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/issuer"
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
	// Hardware is the issuer for evidence of processors; absent: there is none, and such evidence is refused.
	Hardware *Hardware `json:"hardware,omitempty"`
	// Software is the issuer for evidence of software roots; absent: there is none, and such evidence is refused.
	Software *Software `json:"software,omitempty"`
	// Instances are further issuers, one tenant's each.
	Instances []Instance `json:"instances,omitempty"`
	// SigningKeys says how long a key signs; absent: for ever.
	SigningKeys *SigningKeys `json:"signingKeys,omitempty"`
	// Challenges are the nonces that clients may ask for; absent: they live 2 minutes, at most 10,000 per issuer, in this
	// process.
	Challenges *Challenges `json:"challenges,omitempty"`
	// Collateral says where endorsements come from: Intel's, needed where an issuer stands for Intel, and AMD's revocation
	// lists.
	Collateral *collateral.Config `json:"collateral,omitempty"`
	// Identity says whose sign-in tokens count for policy calls; absent: policy calls are refused.
	Identity *identity.VerifierConfig `json:"identity,omitempty"`
	// Roles say who may read and write policies, at the scope "/attestation", which covers "/attestation/NAME" of an
	// instance.
	Roles roles.List `json:"roles,omitempty"`
	// Operators are the object ids of those who act for the operator. Policies that they set are called the operator's in tokens;
	// absent: all are that were neither signed for an isolated issuer nor set through an identity of the instance's own.
	Operators []string `json:"operators,omitempty"`
}

// TLS names the service's certificate chain and key, PEM files.
type TLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// SigningKeys is the schedule of signing keys.
type SigningKeys struct {
	// RotateEvery is how long each key signs, at least an hour, such as "2160h". The next key is published that long
	// before it signs, and an old one until its last token has expired.
	RotateEvery string `json:"rotateEvery"`
}

func (s *SigningKeys) rotation() (issuer.Rotation, error) {
	if s == nil {
		return issuer.Rotation{}, nil
	}
	every, err := time.ParseDuration(s.RotateEvery)
	if err != nil || every < issuer.MinRotation {
		return issuer.Rotation{}, fmt.Errorf("signingKeys.rotateEvery: %q, want at least %s, such as 2160h", s.RotateEvery, issuer.MinRotation)
	}
	return issuer.Rotation{Every: every}, nil
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
	if c.Hardware == nil && c.Software == nil && len(c.Instances) == 0 {
		add("hardware, software, instances: neither is there, so no evidence could be accepted")
	}
	if _, err := c.SigningKeys.rotation(); err != nil {
		mistakes = append(mistakes, err)
	}
	mistakes = append(mistakes, c.Challenges.validate()...)
	if c.Collateral != nil {
		if err := c.Collateral.Validate(); err != nil {
			add("collateral: %w", err)
		}
	}
	if slices.Contains(c.Operators, "") {
		add("operators: an empty id, want object ids")
	}
	names, paths := map[string]bool{}, map[string]string{}
	for _, i := range c.issuers() {
		mistakes = append(mistakes, i.validate()...)
		if a := i.amd(); a != nil && a.RequireRevocationLists != nil && *a.RequireRevocationLists && len(a.RevocationLists) == 0 && c.Collateral == nil {
			add("%s.amd.revocationLists: none, and no collateral, though requireRevocationLists asks for them", i.field)
		}
		if i.Hardware != nil && i.Hardware.Intel != nil && c.Collateral == nil {
			add("%s.intel: given without collateral, so no platform could be judged", i.field)
		}
		if names[i.Name] {
			add("%s: there is another instance of this name", i.field)
		}
		names[i.Name] = true
		p := path(i.url())
		if other, taken := paths[p]; taken {
			add("%s, %s: both issuers have the path %q, want different ones", other, i.field, p)
		}
		paths[p] = i.field
	}
	mistakes = append(mistakes, checkIdentity("", c.Identity, c.Roles)...)
	return errors.Join(mistakes...)
}

func checkIdentity(prefix string, id *identity.VerifierConfig, list roles.List) (mistakes []error) {
	if id != nil {
		if _, err := identity.NewVerifier(*id); err != nil {
			mistakes = append(mistakes, fmt.Errorf("%sidentity: %w", prefix, err))
		}
	} else if len(list) > 0 {
		mistakes = append(mistakes, fmt.Errorf("%sroles: given without identity, so nobody could use them", prefix))
	}
	if err := list.Validate(); err != nil {
		mistakes = append(mistakes, fmt.Errorf("%sroles: %w", prefix, err))
	}
	return mistakes
}
