package tdx

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

const rule = "TD quote"

// claim is one expectation with its place in a quote. Its code says what a claim not met is.
type claim struct {
	name     string
	code     evidence.Code
	validate func() error
	check    func(a *Authentic) evidence.Check
}

func of[T comparable](code evidence.Code, name string, e evidence.Expectation[T], got func(a *Authentic, b Body) T) claim {
	return claim{name, code, func() error { return e.Validate(name) },
		func(a *Authentic) evidence.Check { return e.Check(name, rule, got(a, a.quote.Body)) }}
}

// ofTCB is of for what only collateral says: without it the check is "unavailable", unless nobody asked.
func ofTCB[T comparable](name string, e evidence.Expectation[T], got func(t *dcap.TCBResult) T) claim {
	return claim{name, evidence.CodeTCB, func() error { return e.Validate(name) }, func(a *Authentic) evidence.Check {
		if a.tcb != nil {
			return e.Check(name, "Intel's collateral", got(a.tcb))
		}
		var none T
		if c := e.Check(name, "Intel's collateral", none); c.Result == evidence.NotAsked {
			c.Got = "not known: no collateral"
			return c
		}
		return evidence.Check{Claim: name, Got: "not known: no collateral", Want: e.String(), Result: evidence.NotHad, Rule: "Intel's collateral"}
	}}
}

func (e Expect) claims() []claim {
	const config, tcb, binding, meas = evidence.CodeConfig, evidence.CodeTCB, evidence.CodeBinding, evidence.CodeMeasurement
	bit := func(name string, e evidence.Expectation[bool], bit Attributes) claim {
		return of(config, "attribute "+name, e, func(_ *Authentic, b Body) bool { return b.TDAttributes.Has(bit) })
	}
	out := []claim{
		of(evidence.CodeChain, "root", e.Root, func(a *Authentic, _ Body) evidence.RootKind { return a.verified.Root() }),
		ofTCB("TCB status", e.TCBStatus, func(t *dcap.TCBResult) dcap.Status { return t.Status }),
		ofTCB("TCB evaluation number", e.EvaluationNumber, func(t *dcap.TCBResult) uint32 { return t.EvaluationNumber }),
		e.advisories(),
		of(meas, "MRTD", e.MRTD, func(_ *Authentic, b Body) [48]byte { return b.MRTD }),
	}
	for i := range e.RTMR {
		out = append(out, of(meas, fmt.Sprintf("RTMR %d", i), e.RTMR[i], func(_ *Authentic, b Body) [48]byte { return b.RTMR[i] }))
	}
	return append(out,
		of(binding, "report data", e.ReportData, func(_ *Authentic, b Body) [64]byte { return b.ReportData }),
		of(binding, "MRCONFIGID", e.MRConfigID, func(_ *Authentic, b Body) [48]byte { return b.MRConfigID }),
		of(binding, "MROWNER", e.MROwner, func(_ *Authentic, b Body) [48]byte { return b.MROwner }),
		of(binding, "MROWNERCONFIG", e.MROwnerConfig, func(_ *Authentic, b Body) [48]byte { return b.MROwnerConfig }),
		of(config, "MRSERVICETD", e.MRServiceTD, func(_ *Authentic, b Body) [48]byte {
			if b.MRServiceTD == nil {
				return [48]byte{}
			}
			return *b.MRServiceTD
		}),
		of(config, "attribute debug", e.Debug, func(_ *Authentic, b Body) bool { return b.TDAttributes.Untrusted() }),
		bit("migratable", e.Migratable, Migratable),
		bit("SEPT_VE_DISABLE", e.SEPTVEDisable, SEPTVEDisable),
		bit("PKS", e.PKS, PKS),
		bit("key locker", e.KeyLocker, KeyLocker),
		bit("perfmon", e.Perfmon, Perfmon),
		of(config, "reserved attributes", e.ReservedBits, func(_ *Authentic, b Body) uint64 { return uint64(b.TDAttributes.Reserved()) }),
		of(config, "XFAM", e.XFAM, func(_ *Authentic, b Body) uint64 { return b.XFAM }),
		of(tcb, "MRSEAM", e.MRSeam, func(_ *Authentic, b Body) [48]byte { return b.MRSeam }),
		of(tcb, "MRSIGNERSEAM", e.MRSignerSeam, func(_ *Authentic, b Body) [48]byte { return b.MRSignerSeam }),
		of(tcb, "SEAM attributes", e.SeamAttributes, func(_ *Authentic, b Body) [8]byte { return b.SeamAttributes }),
		of(tcb, "TEE TCB SVN", e.TEETCBSVN, func(_ *Authentic, b Body) [16]byte { return b.TEETCBSVN }),
		of(tcb, "SVN of the quoting enclave", e.QESVN, func(a *Authentic, _ Body) uint16 { return a.verified.QEReport().ISVSVN }),
		of(tcb, "PCE SVN", e.PCESVN, func(a *Authentic, _ Body) uint16 { return a.verified.PCK().PCESVN }),
		of(binding, "FMSPC", e.FMSPC, func(a *Authentic, _ Body) [6]byte { return a.verified.PCK().FMSPC }),
		of(binding, "PPID", e.PPID, func(a *Authentic, _ Body) [16]byte { return a.verified.PCK().PPID }),
	)
}

// advisories wants none of those that were denied. They are looked at whatever the status is.
func (e Expect) advisories() claim {
	const name = "advisories"
	want := "none of [" + strings.Join(e.DeniedAdvisories, ", ") + "]"
	return claim{name, evidence.CodePolicy, func() error {
		if e.DeniedAdvisories == nil {
			return evidence.Refuse(evidence.CodePolicy, name, "no expectation", "a list of denied advisories, which may be empty")
		}
		return nil
	}, func(a *Authentic) evidence.Check {
		c := evidence.Check{Claim: name, Want: want, Rule: "Intel's collateral"}
		switch {
		case e.DeniedAdvisories == nil:
			c.Got, c.Want = "not looked at", "a list of denied advisories, which may be empty"
		case a.tcb == nil && len(e.DeniedAdvisories) == 0:
			c.Got, c.Result = "not known: no collateral", evidence.NotAsked
		case a.tcb == nil:
			c.Got, c.Result = "not known: no collateral", evidence.NotHad
		default:
			c.Got, c.Result = strings.Join(a.tcb.Advisories, ", "), evidence.Met
			if len(e.DeniedAdvisories) == 0 {
				c.Result = evidence.NotAsked
			}
			for _, d := range e.DeniedAdvisories {
				if slices.ContainsFunc(a.tcb.Advisories, func(x string) bool { return strings.EqualFold(x, d) }) {
					c.Result = evidence.NotMet
				}
			}
		}
		return c
	}}
}

// Validate reports every expectation that was not set or could never be met, and a set that leaves the workload unnamed: RTMRs
// alone are what the TD extended, and say nothing of who it was when it did.
func (e Expect) Validate() error {
	var errs []error
	for _, c := range e.claims() {
		errs = append(errs, c.validate())
	}
	if e.MRTD.Check("", "", [48]byte{}).Result == evidence.Met {
		errs = append(errs, evidence.Refuse(evidence.CodePolicy, "MRTD", "zeros are accepted", "the measurement of a TD"))
	}
	return errors.Join(errs...)
}

// Appraise compares an authentic quote with what is expected of it. The zero value of either is refused.
func Appraise(a *Authentic, e Expect) evidence.Appraisal {
	if !a.valid() {
		return evidence.Appraise(evidence.Check{Claim: "TD quote", Got: "one that was not authenticated", Want: "one that Authenticate accepted", Rule: rule})
	}
	var checks []evidence.Check
	for _, c := range e.claims() {
		checks = append(checks, c.check(a))
	}
	return evidence.Appraise(checks...)
}

// CodeFor is what a claim that is not met means.
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
			return fmt.Errorf("appraising the TD quote: %w", a.Err(CodeFor(c.Claim)))
		}
	}
	return a.Err(evidence.CodePolicy)
}
