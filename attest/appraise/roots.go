package appraise

import (
	"crypto/x509"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// Roots are the roots of trust that one issuer stands for.
type Roots struct {
	kind     evidence.RootKind
	amd      AMDOptions  // AMD only
	software []soft.Root // for AMD: known to be refused, so that the refusal can say so
}

// AMDOptions are what the hardware issuer asks of AMD's evidence.
type AMDOptions struct {
	Floor       sevsnp.TCB // of the reported TCB
	CRLs        []*x509.RevocationList
	RequireCRLs bool
}

// AMD accepts evidence of AMD processors whose reported TCB is at or above a floor. Software roots that
// the installation also has are refused by name.
func AMD(o AMDOptions, refused []soft.Root) Roots {
	return Roots{kind: evidence.RootAMD, amd: o, software: refused}
}

// Software accepts evidence of the named software roots.
func Software(roots []soft.Root) Roots {
	return Roots{kind: evidence.RootSoftware, software: roots}
}

// authenticate checks who signed a report.
func (r Roots) authenticate(report *sevsnp.Report, chainPEM []byte, at time.Time) (*sevsnp.Authentic, error) {
	chain, err := sevsnp.ParseChain(chainPEM)
	if err != nil {
		return nil, err
	}
	switch r.kind {
	case evidence.RootSoftware:
		return soft.Authenticate(report, chain, r.software, at)
	case evidence.RootAMD:
	default:
		return nil, evidence.Refuse(evidence.CodePolicy, "roots", "none", "roots of trust for this issuer")
	}
	authentic, err := sevsnp.Authenticate(report, chain, sevsnp.Options{At: at, CRLs: r.amd.CRLs, RequireCRL: r.amd.RequireCRLs})
	if err != nil {
		if len(r.software) > 0 {
			if _, softErr := soft.Authenticate(report, chain, r.software, at); softErr == nil {
				return nil, evidence.Refuse(evidence.CodePolicy, "root", string(evidence.RootSoftware), string(evidence.RootAMD)).By("this issuer does not stand for software roots")
			}
		}
		return nil, err
	}
	if got := report.ReportedTCB; !got.Meets(r.amd.Floor) {
		return nil, evidence.Refuse(evidence.CodeTCB, "reported TCB", got.String(), fmt.Sprintf("at least %s", r.amd.Floor)).By("hardware.amd.minimumTCB")
	}
	return authentic, nil
}
