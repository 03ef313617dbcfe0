package health

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/tdx"
)

// TDXFloor is what a platform with TDX must be.
type TDXFloor struct {
	// Accept lists the TCB statuses that are fit; empty refuses all.
	Accept []dcap.Status
	// DeniedAdvisories are advisories that a platform must not be open to. Nil refuses; an empty list denies none.
	DeniedAdvisories []string
}

// TDXOptions are what a judgement depends on besides the probe.
type TDXOptions struct {
	At time.Time
	// Challenge is what the caller had the probe put into its report data.
	Challenge [64]byte
	// Collateral is Intel's of this platform; nil: nobody knows.
	Collateral *dcap.Collateral
}

// TDX judges the quote of a probe TD.
func TDX(quote []byte, f TDXFloor, o TDXOptions) State {
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		return failed(err)
	}
	d := dcap.Options{At: o.At}
	authentic, err := tdx.Authenticate(q, d)
	if err != nil {
		return failed(err)
	}
	pck := authentic.PCK()
	s := State{Root: authentic.Root(), Product: "FMSPC " + hex.EncodeToString(pck.FMSPC[:]), ChipID: hex.EncodeToString(pck.PPID[:])}
	if o.Collateral == nil {
		return s.without(evidence.Refuse(evidence.CodeUnavailable, "collateral", "none", "Intel's collateral of the platform"))
	}
	judged, err := authentic.WithCollateral(o.Collateral, d)
	if err != nil {
		return s.without(err)
	}
	s.TCB = string(judged.TCB().Status)
	e := tdx.Baseline()
	e.Root = evidence.Exactly(evidence.RootIntel)
	e.ReportData = evidence.Exactly(o.Challenge)
	e.MRTD, e.MRConfigID = evidence.Any[[48]byte](), evidence.Any[[48]byte]()
	for i := range e.RTMR {
		e.RTMR[i] = evidence.Any[[48]byte]()
	}
	e.TCBStatus, e.DeniedAdvisories = evidence.OneOf(f.Accept...), f.DeniedAdvisories
	result := tdx.Appraise(judged, e)
	s.Verdict = result.Verdict
	for _, c := range result.Checks {
		if c.Result == evidence.NotAsked {
			continue
		}
		s.Checks = append(s.Checks, c)
		if c.Result != evidence.Met {
			s.Mend = append(s.Mend, Remedy{Claim: c.Claim, Do: tdxRemedy(c, judged.TCB())})
		}
	}
	return s
}

// without is a state whose platform could not be judged, or was found bad by the collateral itself.
func (s State) without(err error) State {
	a := evidence.Appraise(evidence.Failed("collateral", rule, err))
	s.Verdict, s.Checks = a.Verdict, a.Checks
	do := "update the host's BIOS, microcode and TDX module"
	switch evidence.CodeOf(err) {
	case evidence.CodeUnavailable:
		do = "bring current collateral of this platform"
	case evidence.CodeRevoked:
		do = "take the host out of service: its keys are revoked"
	case evidence.CodeBinding:
		do = "bring the collateral of this platform: this is another one's"
	}
	s.Mend = []Remedy{{Claim: "collateral", Do: do}}
	return s
}

func tdxRemedy(c evidence.Check, tcb *dcap.TCBResult) string {
	switch {
	case strings.Contains(strings.ToLower(c.Claim), "tcb status"):
		var do []string
		if slices.Contains([]dcap.Status{dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded}, tcb.Status) {
			do = append(do, "update the host: "+behind(tcb))
		}
		if slices.Contains([]dcap.Status{dcap.ConfigurationNeeded, dcap.ConfigurationAndSWHardeningNeeded, dcap.OutOfDateConfigurationNeeded}, tcb.Status) {
			do = append(do, "change the BIOS settings that the advisories name")
		}
		if slices.Contains([]dcap.Status{dcap.SWHardeningNeeded, dcap.ConfigurationAndSWHardeningNeeded}, tcb.Status) {
			do = append(do, "harden software as the advisories say, and accept the status")
		}
		if len(tcb.Advisories) > 0 {
			do = append(do, "see "+strings.Join(tcb.Advisories, ", "))
		}
		return strings.Join(do, "; ")
	case strings.Contains(c.Claim, "advisor"):
		return "update the host until none of the denied advisories is left: " + strings.Join(tcb.Advisories, ", ")
	case strings.Contains(c.Claim, "report data"):
		return "run the probe anew: its quote is not about this challenge"
	}
	return "run the probe as the agent makes it: this one was not"
}

// behind names the parts that are out of date.
func behind(tcb *dcap.TCBResult) string {
	var parts []string
	for _, p := range []struct {
		name   string
		status dcap.Status
	}{{"BIOS and microcode", tcb.PlatformStatus}, {"TDX module", tcb.ModuleStatus}, {"quoting enclave", tcb.QEStatus}} {
		if p.status == dcap.OutOfDate || p.status == dcap.OutOfDateConfigurationNeeded {
			parts = append(parts, p.name)
		}
	}
	if len(parts) == 0 {
		return "its TCB is of " + tcb.TCBDate.UTC().Format("2006-01-02")
	}
	return fmt.Sprintf("%s (its TCB is of %s)", strings.Join(parts, ", "), tcb.TCBDate.UTC().Format("2006-01-02"))
}
