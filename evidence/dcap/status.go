package dcap

import (
	"time"

	"cloister.dev/cloister/evidence"
)

// TEE is what a quote is of.
type TEE uint32

// The TEEs, numbered as in a quote's header.
const (
	SGX TEE = 0
	TDX TEE = 0x81
)

func (t TEE) String() string {
	switch t {
	case SGX:
		return "SGX"
	case TDX:
		return "TDX"
	}
	return "unknown TEE"
}

// Status says what a TCB is worth. The set is Intel's and closed; the zero value is none of it.
type Status string

// The statuses.
const (
	UpToDate                          Status = "UpToDate"
	SWHardeningNeeded                 Status = "SWHardeningNeeded"
	ConfigurationNeeded               Status = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded Status = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                         Status = "OutOfDate"
	OutOfDateConfigurationNeeded      Status = "OutOfDateConfigurationNeeded"
	Revoked                           Status = "Revoked"
)

// parts is what a status says: the statuses are combinations of these.
type parts struct{ revoked, outOfDate, configuration, hardening bool }

var statusParts = map[Status]parts{
	UpToDate:                          {},
	SWHardeningNeeded:                 {hardening: true},
	ConfigurationNeeded:               {configuration: true},
	ConfigurationAndSWHardeningNeeded: {configuration: true, hardening: true},
	OutOfDate:                         {outOfDate: true},
	OutOfDateConfigurationNeeded:      {outOfDate: true, configuration: true},
	Revoked:                           {revoked: true},
}

// ParseStatus reads a status. One that is not known has the code refuse/tcb: it can't be good news.
func ParseStatus(s string) (Status, error) {
	if _, ok := statusParts[Status(s)]; !ok {
		return "", evidence.Refuse(evidence.CodeTCB, "TCB status", s, "a status that is known")
	}
	return Status(s), nil
}

// Worse unites two statuses, as Intel's verifier converges that of a platform with those of its TDX module and quoting
// enclave: what either asks for is asked for, and what is out of date is so whatever the software does. A status
// that is not known makes the result Revoked.
func (s Status) Worse(other Status) Status {
	a, known := statusParts[s]
	b, alsoKnown := statusParts[other]
	if !known || !alsoKnown || a.revoked || b.revoked {
		return Revoked
	}
	u := parts{outOfDate: a.outOfDate || b.outOfDate, configuration: a.configuration || b.configuration, hardening: a.hardening || b.hardening}
	u.hardening = u.hardening && !u.outOfDate
	for status, p := range statusParts {
		if p == u {
			return status
		}
	}
	return Revoked
}

// TCBResult is what collateral says of a platform. The zero value has no status, which no policy names.
type TCBResult struct {
	Status           Status         // of platform, TDX module and quoting enclave together; never Revoked: that is refused
	PlatformStatus   Status         // of the platform's level alone
	ModuleStatus     Status         // of the TDX module's level; empty where the platform's level covers the module
	QEStatus         Status         // of the quoting enclave's level
	Advisories       []string       // of all levels that matched, sorted, each once
	TCBDate          time.Time      // the earliest of the levels that matched
	EvaluationNumber uint32         // the lower one of TCB info and QE identity
	MatchedLevel     int            // index of the platform's level in the TCB info; 0 is the newest
	Module           ModuleIdentity // for the caller to match with the quote's body; empty for SGX
}
