package attest

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"cloister.dev/cloister/attest/api"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/tcbfloor"
)

// Instance is an issuer of one tenant. Nothing of it is shared with others but the process and the transparency log.
type Instance struct {
	// Name is that of its files in StateDir, and of its scope "/attestation/NAME": small letters, digits, hyphens.
	Name string `json:"name"`
	// Exactly one of these says what it stands for.
	Hardware *Hardware `json:"hardware,omitempty"`
	Software *Software `json:"software,omitempty"`
	External *External `json:"external,omitempty"`
	// TrustMode is "AAD" (the default: whoever has the role sets policies) or "Isolated" (only a policy signed by one
	// of PolicySigners counts).
	TrustMode string `json:"trustMode,omitempty"`
	// PolicySigners are PEM files with the certificates whose keys may sign policies at first, "Isolated" only. They
	// are read when the instance is made; afterwards the certificate calls change the list.
	PolicySigners []string `json:"policySigners,omitempty"`
	// Identity says whose sign-in tokens count here; absent: the service's identity and roles.
	Identity *identity.VerifierConfig `json:"identity,omitempty"`
	// Roles count where the instance has an identity of its own.
	Roles roles.List `json:"roles,omitempty"`
}

// Hardware is an issuer for evidence of processors. At least one maker is named.
type Hardware struct {
	// Issuer is the URL under which tokens are issued and the API is served.
	Issuer string `json:"issuer"`
	// AMD says what is asked of SEV-SNP evidence; absent: such evidence is refused.
	AMD *AMD `json:"amd,omitempty"`
	// Intel says what is asked of TD quotes; absent: such evidence is refused. The service's collateral is needed.
	Intel *Intel `json:"intel,omitempty"`
}

// Intel is what is asked of TD quotes.
type Intel struct {
	// AcceptTCB lists the statuses of a platform, in Intel's words, that are accepted: UpToDate, SWHardeningNeeded,
	// ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded. It must be written
	// out. A revoked platform is never accepted.
	AcceptTCB []string `json:"acceptTCB"`
	// MinimumEvaluationNumber is the lowest TCB evaluation number of collateral that is taken.
	MinimumEvaluationNumber uint32 `json:"minimumEvaluationNumber,omitempty"`
}

// acceptable are the statuses that a configuration may accept.
var acceptable = []dcap.Status{dcap.UpToDate, dcap.SWHardeningNeeded, dcap.ConfigurationNeeded, dcap.ConfigurationAndSWHardeningNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded}

// AMD is what is asked of SEV-SNP evidence.
type AMD struct {
	// MinimumTCB is the floor of the reported TCB, component by component. Zeros must be written out:
	// a component left out is a mistake.
	MinimumTCB *tcbfloor.Floor `json:"minimumTCB"`
	// RevocationLists are files with AMD's revocation lists (DER), read at start. Where they are required and none of
	// them holds, the service's collateral is asked; without an answer judgements are "unavailable".
	RevocationLists []string `json:"revocationLists,omitempty"`
	// RequireRevocationLists says whether evidence without a current list for its root is judged at all. It must be
	// written out.
	RequireRevocationLists *bool `json:"requireRevocationLists"`
}

// Software is a software issuer. It protects from nothing on the host that holds the root's key.
type Software struct {
	Issuer string `json:"issuer"`
	// Roots are PEM files with the certificates of the software roots that are believed for SEV-SNP reports.
	Roots []string `json:"roots,omitempty"`
	// TDXRoots are those that are believed for TD quotes. At least one root of either kind is needed.
	TDXRoots []string `json:"tdxRoots,omitempty"`
}

// placed is an instance with its place in the configuration, for complaints, and its roles' scope.
type placed struct {
	Instance
	field, scope string
}

// scopeOf is the roles' scope of the service; instances lie below it.
const serviceScope = "/attestation"

// issuers lists all: the two at the top of the file have their names from there.
func (c Config) issuers() []placed {
	var out []placed
	if c.Hardware != nil {
		out = append(out, placed{Instance{Name: "hardware", Hardware: c.Hardware}, "hardware", serviceScope})
	}
	if c.Software != nil {
		out = append(out, placed{Instance{Name: "software", Software: c.Software}, "software", serviceScope})
	}
	for n, i := range c.Instances {
		out = append(out, placed{i, fmt.Sprintf("instances[%d]", n), serviceScope + "/" + i.Name})
	}
	for n := range out {
		if out[n].Identity == nil {
			out[n].Identity, out[n].Roles = c.Identity, c.Roles
		}
	}
	return out
}

// amd is what is asked of AMD's evidence; nil: it is refused.
func (i Instance) amd() *AMD {
	if i.Hardware == nil {
		return nil
	}
	return i.Hardware.AMD
}

func (i Instance) url() string {
	switch {
	case i.Hardware != nil:
		return i.Hardware.Issuer
	case i.Software != nil:
		return i.Software.Issuer
	case i.External != nil:
		return i.External.Issuer
	}
	return ""
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// reserved are the first segments of paths that the service itself has.
var reserved = []string{"attest", "policies", "certs", "certificates", "cloister", "healthz", "metrics", "tcbbaselines", "operations"}

func (i placed) validate() (mistakes []error) {
	add := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf(i.field+format, args...))
	}
	if !nameForm.MatchString(i.Name) {
		add(".name: %q, want 1 to 40 small letters, digits and hyphens, a letter first", i.Name)
	}
	kinds := 0
	for _, there := range []bool{i.Hardware != nil, i.Software != nil, i.External != nil} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		add(": %d of hardware, software and external, want exactly one of them", kinds)
	}
	mistakes = append(mistakes, checkIssuer(i.field+".issuer", i.url()))
	if first, _, _ := strings.Cut(strings.TrimPrefix(path(i.url()), "/"), "/"); slices.Contains(reserved, first) {
		add(".issuer: the path begins with %q, which is a path of the service", first)
	}
	mistakes = append(mistakes, i.Hardware.validate(i.field)...)
	mistakes = append(mistakes, i.Software.validate(i.field)...)
	mistakes = append(mistakes, i.External.validate(i.field)...)
	switch mode := api.TrustMode(i.TrustMode); {
	case mode != "" && mode != api.TrustAAD && mode != api.TrustIsolated:
		add(".trustMode: %q, want %s or %s", i.TrustMode, api.TrustAAD, api.TrustIsolated)
	case mode == api.TrustIsolated && len(i.PolicySigners) == 0:
		add(".policySigners: none, so nobody could set a policy")
	case mode != api.TrustIsolated && len(i.PolicySigners) > 0:
		add(".policySigners: given without trustMode %s", api.TrustIsolated)
	}
	if i.Instance.Identity != nil {
		mistakes = append(mistakes, checkIdentity(i.field+".", i.Identity, i.Roles)...)
	}
	return mistakes
}

func (h *Hardware) validate(field string) (mistakes []error) {
	if h == nil {
		return nil
	}
	add := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(field+format, args...)) }
	if h.AMD == nil && h.Intel == nil {
		add(": amd and intel are absent, so no evidence could be accepted")
	}
	if h.Intel != nil {
		if len(h.Intel.AcceptTCB) == 0 {
			add(".intel.acceptTCB: empty, so no evidence could be accepted")
		}
		for _, s := range h.Intel.AcceptTCB {
			if !slices.Contains(acceptable, dcap.Status(s)) {
				add(".intel.acceptTCB: %q, want some of %v", s, acceptable)
			}
		}
	}
	if a := h.AMD; a != nil {
		if !a.MinimumTCB.Whole() {
			add(".amd.minimumTCB: fmc, bootLoader, tee, snp and microcode are all needed, also where they are 0")
		}
		if a.RequireRevocationLists == nil {
			add(".amd.requireRevocationLists: absent, want true or false")
		}
	}
	return mistakes
}

func (s *Software) validate(field string) (mistakes []error) {
	if s == nil {
		return nil
	}
	if len(s.Roots) == 0 && len(s.TDXRoots) == 0 {
		mistakes = append(mistakes, fmt.Errorf("%s.roots, tdxRoots: none, so no evidence could be accepted", field))
	}
	for name, files := range map[string][]string{"roots": s.Roots, "tdxRoots": s.TDXRoots} {
		for i, r := range files {
			if r == "" {
				mistakes = append(mistakes, fmt.Errorf("%s.%s[%d]: empty, want a file", field, name, i))
			}
		}
	}
	return mistakes
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
