package sevsnp

import (
	"errors"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Expect is what a relying party expects of a report. Every field must be set: the zero value of each
// refuses. Baseline sets those that have one right answer for an ordinary confidential VM.
type Expect struct {
	Root              evidence.Expectation[evidence.RootKind]
	RevocationChecked evidence.Expectation[bool]

	Measurement evidence.Expectation[[48]byte]
	HostData    evidence.Expectation[[32]byte]
	ReportData  evidence.Expectation[[64]byte]

	VMPL             evidence.Expectation[uint32]
	Debug            evidence.Expectation[bool]
	MigrationAgent   evidence.Expectation[bool]
	SMT              evidence.Expectation[bool] // the policy allows it
	SingleSocket     evidence.Expectation[bool]
	CXL              evidence.Expectation[bool]
	MemAES256XTS     evidence.Expectation[bool]
	RAPLDisabled     evidence.Expectation[bool]
	CiphertextHiding evidence.Expectation[bool]
	PageSwapDisabled evidence.Expectation[bool]
	ABI              evidence.Expectation[ABI]

	ReportedTCB  evidence.Expectation[TCB]
	LaunchTCB    evidence.Expectation[TCB]
	CommittedTCB evidence.Expectation[TCB]
	CurrentTCB   evidence.Expectation[TCB]
	Provisional  evidence.Expectation[bool] // firmware runs that is not committed: committed below current

	PlatformSMT              evidence.Expectation[bool]
	PlatformTSME             evidence.Expectation[bool]
	PlatformECC              evidence.Expectation[bool]
	PlatformRAPLDisabled     evidence.Expectation[bool]
	PlatformCiphertextHiding evidence.Expectation[bool]
	PlatformAliasCheck       evidence.Expectation[bool]
	PlatformIOMMUWriteSafe   evidence.Expectation[bool]
	PlatformTIO              evidence.Expectation[bool]
	LaunchMitigations        evidence.Expectation[uint64] // see Mitigated; zero in versions before 4
	CurrentMitigations       evidence.Expectation[uint64]

	GuestSVN         evidence.Expectation[uint32]
	FamilyID         evidence.Expectation[[16]byte]
	ImageID          evidence.Expectation[[16]byte]
	IDKeyDigest      evidence.Expectation[[48]byte]
	AuthorKeyEnabled evidence.Expectation[bool]
	AuthorKeyDigest  evidence.Expectation[[48]byte]
	ChipID           evidence.Expectation[[64]byte]
	SigningKey       evidence.Expectation[SigningKey]
	ReportIDMA       evidence.Expectation[[32]byte]
}

// Baseline expects VMPL 0, no debugging, no migration agent and no provisional firmware, and says Any of
// all the rest but Root, Measurement, HostData and ReportData, which stay unset: those the caller knows.
func Baseline() Expect {
	return Expect{
		RevocationChecked: evidence.Any[bool](),
		VMPL:              evidence.Exactly[uint32](0), Debug: evidence.Exactly(false), MigrationAgent: evidence.Exactly(false), Provisional: evidence.Exactly(false),
		SMT: evidence.Any[bool](), SingleSocket: evidence.Any[bool](), CXL: evidence.Any[bool](), MemAES256XTS: evidence.Any[bool](),
		RAPLDisabled: evidence.Any[bool](), CiphertextHiding: evidence.Any[bool](), PageSwapDisabled: evidence.Any[bool](), ABI: evidence.Any[ABI](),
		ReportedTCB: evidence.Any[TCB](), LaunchTCB: evidence.Any[TCB](), CommittedTCB: evidence.Any[TCB](), CurrentTCB: evidence.Any[TCB](),
		PlatformSMT: evidence.Any[bool](), PlatformTSME: evidence.Any[bool](), PlatformECC: evidence.Any[bool](), PlatformRAPLDisabled: evidence.Any[bool](),
		PlatformCiphertextHiding: evidence.Any[bool](), PlatformAliasCheck: evidence.Any[bool](), PlatformIOMMUWriteSafe: evidence.Any[bool](), PlatformTIO: evidence.Any[bool](),
		LaunchMitigations: evidence.Any[uint64](), CurrentMitigations: evidence.Any[uint64](),
		GuestSVN: evidence.Any[uint32](), FamilyID: evidence.Any[[16]byte](), ImageID: evidence.Any[[16]byte](), IDKeyDigest: evidence.Any[[48]byte](),
		AuthorKeyEnabled: evidence.Any[bool](), AuthorKeyDigest: evidence.Any[[48]byte](), ChipID: evidence.Any[[64]byte](), SigningKey: evidence.Any[SigningKey](),
		ReportIDMA: evidence.Any[[32]byte](),
	}
}

// Mitigated expects all these bits of a mitigation vector. What each bit stands for differs per product; AMD's bulletins
// tell.
func Mitigated(bits uint64) evidence.Expectation[uint64] {
	return evidence.AtLeastFunc(bits, func(got, want uint64) bool { return got&want == want })
}

// claim is one expectation with its place in a report. Its code says what a claim not met is.
type claim struct {
	name     string
	code     evidence.Code
	validate func() error
	check    func(a *Authentic) evidence.Check
}

const rule = "SEV-SNP report"

func of[T comparable](code evidence.Code, name string, e evidence.Expectation[T], got func(a *Authentic, r *Report) T) claim {
	return claim{name, code, func() error { return e.Validate(name) },
		func(a *Authentic) evidence.Check { return e.Check(name, rule, got(a, a.report)) }}
}

func bit(name string, e evidence.Expectation[bool], b PlatformInfo) claim {
	return of(evidence.CodeConfig, name, e, func(_ *Authentic, r *Report) bool { return r.PlatformInfo.Has(b) })
}

func (e Expect) claims() []claim {
	const config, tcb, binding, meas = evidence.CodeConfig, evidence.CodeTCB, evidence.CodeBinding, evidence.CodeMeasurement
	policy := func(name string, e evidence.Expectation[bool], f func(Policy) bool) claim {
		return of(config, "policy "+name, e, func(_ *Authentic, r *Report) bool { return f(r.Policy) })
	}
	level := func(name string, e evidence.Expectation[TCB], f func(*Report) TCB) claim {
		return of(tcb, name, e, func(_ *Authentic, r *Report) TCB { return f(r) })
	}
	return []claim{
		of(evidence.CodeChain, "root", e.Root, func(a *Authentic, _ *Report) evidence.RootKind { return a.root }),
		of(evidence.CodeUnavailable, "revocation checked", e.RevocationChecked, func(a *Authentic, _ *Report) bool { return a.revocationChecked }),
		of(meas, "measurement", e.Measurement, func(_ *Authentic, r *Report) [48]byte { return r.Measurement }),
		of(binding, "host data", e.HostData, func(_ *Authentic, r *Report) [32]byte { return r.HostData }),
		of(binding, "report data", e.ReportData, func(_ *Authentic, r *Report) [64]byte { return r.ReportData }),
		of(config, "VMPL", e.VMPL, func(_ *Authentic, r *Report) uint32 { return r.VMPL }),
		policy("debug", e.Debug, Policy.Debug),
		policy("migration agent", e.MigrationAgent, Policy.MigrationAgent),
		policy("SMT", e.SMT, Policy.SMT),
		policy("single socket", e.SingleSocket, Policy.SingleSocket),
		policy("CXL", e.CXL, Policy.CXL),
		policy("AES-256-XTS", e.MemAES256XTS, Policy.MemAES256XTS),
		policy("RAPL disabled", e.RAPLDisabled, Policy.RAPLDisabled),
		policy("ciphertext hiding", e.CiphertextHiding, Policy.CiphertextHiding),
		policy("page swap disabled", e.PageSwapDisabled, Policy.PageSwapDisabled),
		of(config, "policy ABI", e.ABI, func(_ *Authentic, r *Report) ABI { return r.Policy.ABI() }),
		level("reported TCB", e.ReportedTCB, func(r *Report) TCB { return r.ReportedTCB }),
		level("launch TCB", e.LaunchTCB, func(r *Report) TCB { return r.LaunchTCB }),
		level("committed TCB", e.CommittedTCB, func(r *Report) TCB { return r.CommittedTCB }),
		level("current TCB", e.CurrentTCB, func(r *Report) TCB { return r.CurrentTCB }),
		of(tcb, "provisional firmware", e.Provisional, func(_ *Authentic, r *Report) bool {
			return !r.CommittedTCB.Meets(r.CurrentTCB) || r.Committed != r.Current
		}),
		bit("platform SMT", e.PlatformSMT, PlatformSMT),
		bit("platform TSME", e.PlatformTSME, PlatformTSME),
		bit("platform ECC", e.PlatformECC, PlatformECC),
		bit("platform RAPL disabled", e.PlatformRAPLDisabled, PlatformRAPLDisabled),
		bit("platform ciphertext hiding", e.PlatformCiphertextHiding, PlatformCiphertextHiding),
		bit("platform alias check", e.PlatformAliasCheck, PlatformAliasCheck),
		bit("platform IOMMU write safe", e.PlatformIOMMUWriteSafe, PlatformIOMMUWriteSafe),
		bit("platform TIO", e.PlatformTIO, PlatformTIO),
		of(tcb, "launch mitigations", e.LaunchMitigations, func(_ *Authentic, r *Report) uint64 { return r.LaunchMitigations }),
		of(tcb, "current mitigations", e.CurrentMitigations, func(_ *Authentic, r *Report) uint64 { return r.CurrentMitigations }),
		of(meas, "guest SVN", e.GuestSVN, func(_ *Authentic, r *Report) uint32 { return r.GuestSVN }),
		of(meas, "family id", e.FamilyID, func(_ *Authentic, r *Report) [16]byte { return r.FamilyID }),
		of(meas, "image id", e.ImageID, func(_ *Authentic, r *Report) [16]byte { return r.ImageID }),
		of(meas, "id key digest", e.IDKeyDigest, func(_ *Authentic, r *Report) [48]byte { return r.IDKeyDigest }),
		of(meas, "author key enabled", e.AuthorKeyEnabled, func(_ *Authentic, r *Report) bool { return r.KeyInfo.AuthorKeyEnabled }),
		of(meas, "author key digest", e.AuthorKeyDigest, func(_ *Authentic, r *Report) [48]byte { return r.AuthorKeyDigest }),
		of(binding, "chip id", e.ChipID, func(_ *Authentic, r *Report) [64]byte { return r.ChipID }),
		of(evidence.CodeChain, "signing key", e.SigningKey, func(_ *Authentic, r *Report) SigningKey { return r.KeyInfo.SigningKey }),
		of(config, "migration agent's report id", e.ReportIDMA, func(_ *Authentic, r *Report) [32]byte { return r.ReportIDMA }),
	}
}

// Validate reports every expectation that is missing or could never be met.
func (e Expect) Validate() error {
	var errs []error
	for _, c := range e.claims() {
		errs = append(errs, c.validate())
	}
	return errors.Join(errs...)
}

// Appraise compares every claim with what is expected. Expectations that are not valid refuse, before any
// claim is looked at.
func Appraise(a *Authentic, e Expect) evidence.Appraisal {
	if err := e.Validate(); err != nil {
		return evidence.Appraise(evidence.Check{Claim: "expectations", Got: err.Error(), Want: "every one set", Rule: rule})
	}
	if !a.valid() {
		return evidence.Appraise(evidence.Check{Claim: "authenticity", Got: "a report that nobody authenticated", Want: "one that Authenticate made", Rule: rule})
	}
	checks := make([]evidence.Check, 0, 48)
	for _, c := range e.claims() {
		checks = append(checks, c.check(a))
	}
	return evidence.Appraise(checks...)
}

// CodeFor is the code that a refusal over this claim has; claims are named as in the appraisal's checks.
func CodeFor(name string) evidence.Code {
	for _, c := range (Expect{}).claims() {
		if c.name == name {
			return c.code
		}
	}
	return evidence.CodePolicy
}

// Refusal is nil for an accepted appraisal, and otherwise a refusal with the code of the first claim not met.
func Refusal(a evidence.Appraisal) error {
	for _, c := range a.Checks {
		if c.Result == evidence.NotMet {
			return fmt.Errorf("appraising the SNP report: %w", a.Err(CodeFor(c.Claim)))
		}
	}
	return a.Err(evidence.CodePolicy)
}
