// Package health says whether a host's platform is fit to run confidential VMs, from the report of a probe VM on it,
// and what would mend it.
//
// It is a library for who places VMs: it asks when a host joins and then every hour. It judges the platform and not
// the probe: no workload is trusted by its answer, and every VM still proves itself.
package health

import (
	"crypto/x509"
	"encoding/hex"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// Floor is what a platform must be. Every expectation must be set; the zero value refuses.
type Floor struct {
	// TCB is the lowest reported, committed and current TCB, by product. A product that is not named is refused.
	TCB map[sevsnp.Product]sevsnp.TCB
	// Provisional: firmware runs that is not committed, so that the host can go back to older one. Azure's do.
	Provisional evidence.Expectation[bool]
	// AliasCheck: firmware looked for memory that answers at two addresses (CVE-2024-21944).
	AliasCheck evidence.Expectation[bool]
	// SMT: two threads share a core.
	SMT evidence.Expectation[bool]
	// CiphertextHiding: the host cannot read a VM's encrypted memory.
	CiphertextHiding evidence.Expectation[bool]
	// RAPLDisabled: the host cannot measure power finely.
	RAPLDisabled evidence.Expectation[bool]
}

// Options are what a judgement depends on besides the probe.
type Options struct {
	At time.Time
	// Challenge is what the caller had the probe put into its report data. A report of another hour is refused.
	Challenge   [64]byte
	CRLs        []*x509.RevocationList
	RequireCRLs bool
	// Software are roots that count as a platform's, for installations without such processors; nil: none.
	Software []soft.Root
}

// State is what the platform is.
type State struct {
	// Verdict: accepted is fit, refused is not, unavailable means that nobody knows: the last known state holds no
	// longer than the caller allows.
	Verdict evidence.Verdict  `json:"verdict"`
	Root    evidence.RootKind `json:"root"`
	Product string            `json:"product"`
	ChipID  string            `json:"chipId"` // hexadecimal digits; of a VLEK platform zeros
	// TCB is the reported one, as text.
	TCB    string           `json:"tcb"`
	Checks []evidence.Check `json:"checks"`
	Mend   []Remedy         `json:"mend,omitempty"`
}

// Remedy is what a host's administrator can do about a check that failed.
type Remedy struct {
	Claim string `json:"claim"`
	Do    string `json:"do"`
}

// SEVSNP judges the report of a probe VM, with its chain in PEM.
func SEVSNP(report, chainPEM []byte, f Floor, o Options) State {
	authentic, err := authenticate(report, chainPEM, o)
	if err != nil {
		return failed(err)
	}
	r := authentic.Report()
	s := State{Root: authentic.Root(), Product: authentic.Product(), ChipID: hex.EncodeToString(r.ChipID[:]), TCB: r.ReportedTCB.String()}
	floor, named := f.TCB[sevsnp.Product(s.Product)]
	if !named {
		s.Checks = []evidence.Check{{Claim: "product", Got: s.Product, Want: "a product with a TCB floor", Rule: rule}}
		s.Mend = remedies(s.Checks, r, floor)
		return s
	}
	e := sevsnp.Baseline()
	e.Root = evidence.OneOf(evidence.RootAMD, evidence.RootSoftware) // which of them counts was decided by Options.Software
	e.Measurement, e.HostData = evidence.Any[[48]byte](), evidence.Any[[32]byte]()
	e.ReportData = evidence.Exactly(o.Challenge)
	e.ReportedTCB, e.CommittedTCB, e.CurrentTCB = sevsnp.TCBAtLeast(floor), sevsnp.TCBAtLeast(floor), sevsnp.TCBAtLeast(floor)
	e.PlatformAliasCheck, e.PlatformSMT, e.PlatformCiphertextHiding, e.PlatformRAPLDisabled = f.AliasCheck, f.SMT, f.CiphertextHiding, f.RAPLDisabled
	e.Provisional = f.Provisional
	judged := sevsnp.Appraise(authentic, e)
	s.Verdict = judged.Verdict
	for _, c := range judged.Checks {
		if c.Result != evidence.NotAsked {
			s.Checks = append(s.Checks, c)
		}
	}
	s.Mend = remedies(s.Checks, r, floor)
	return s
}

const rule = "platform health"

func authenticate(raw, chainPEM []byte, o Options) (*sevsnp.Authentic, error) {
	report, err := sevsnp.Parse(raw)
	if err != nil {
		return nil, err
	}
	chain, err := sevsnp.ParseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	authentic, err := sevsnp.Authenticate(report, chain, sevsnp.Options{At: o.At, CRLs: o.CRLs, RequireCRL: o.RequireCRLs})
	if err == nil || len(o.Software) == 0 {
		return authentic, err
	}
	if byNamed, softErr := soft.Authenticate(report, chain, o.Software, o.At); softErr == nil {
		return byNamed, nil
	}
	return nil, err
}

// failed is a state without genuine evidence.
func failed(err error) State {
	a := evidence.Appraise(evidence.Failed("authenticity", rule, err))
	s := State{Verdict: a.Verdict, Checks: a.Checks}
	if a.Verdict == evidence.Unavailable {
		s.Mend = []Remedy{{Claim: "authenticity", Do: "bring current revocation lists"}}
		return s
	}
	s.Mend = []Remedy{{Claim: "authenticity", Do: "fetch the certificates of this platform anew; if they are right, the report was not made by this hardware"}}
	return s
}

// NoEvidence is the state of a platform whose probe gave nothing to judge.
func NoEvidence(err error) State {
	a := evidence.Appraise(evidence.Failed("probe", rule, err))
	return State{Verdict: a.Verdict, Checks: a.Checks, Mend: []Remedy{{Claim: "probe", Do: "see the agent's log on that host"}}}
}
