package tdx

import (
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// Expect is what a relying party expects of a TD quote. Every field must be set: the zero value of each refuses. Baseline sets
// those that have one right answer for an ordinary confidential VM.
type Expect struct {
	Root evidence.Expectation[evidence.RootKind]

	// TCBStatus is Intel's judgement of the platform. Without collateral it can't be had, whatever is expected but Any.
	TCBStatus        evidence.Expectation[dcap.Status]
	EvaluationNumber evidence.Expectation[uint32]
	// DeniedAdvisories are advisories that the platform must not be open to. Nil says nothing and refuses; an empty list
	// denies none.
	DeniedAdvisories []string

	MRTD          evidence.Expectation[[48]byte]
	RTMR          [4]evidence.Expectation[[48]byte]
	ReportData    evidence.Expectation[[64]byte]
	MRConfigID    evidence.Expectation[[48]byte]
	MROwner       evidence.Expectation[[48]byte]
	MROwnerConfig evidence.Expectation[[48]byte]
	MRServiceTD   evidence.Expectation[[48]byte] // zeros in a quote of TDX 1.0, which has none

	Debug         evidence.Expectation[bool] // any bit that lets the host look into the TD
	Migratable    evidence.Expectation[bool]
	SEPTVEDisable evidence.Expectation[bool]
	PKS           evidence.Expectation[bool]
	KeyLocker     evidence.Expectation[bool]
	Perfmon       evidence.Expectation[bool]
	ReservedBits  evidence.Expectation[uint64] // attributes that are set and not known here
	XFAM          evidence.Expectation[uint64]

	MRSeam         evidence.Expectation[[48]byte]
	MRSignerSeam   evidence.Expectation[[48]byte]
	SeamAttributes evidence.Expectation[[8]byte]
	TEETCBSVN      evidence.Expectation[[16]byte]
	QESVN          evidence.Expectation[uint16] // ISVSVN of the quoting enclave's report
	PCESVN         evidence.Expectation[uint16]
	FMSPC          evidence.Expectation[[6]byte]
	PPID           evidence.Expectation[[16]byte] // the platform's own id
}

// SVNAtLeast expects every component at or above that of the floor: TEE TCB SVNs are not ordered like numbers.
func SVNAtLeast(floor [16]byte) evidence.Expectation[[16]byte] {
	return evidence.AtLeastFunc(floor, func(got, floor [16]byte) bool {
		for i := range got {
			if got[i] < floor[i] {
				return false
			}
		}
		return true
	})
}

// Baseline expects Intel's TDX module, no way in for the host, no migration, nothing unknown among the attributes, and a platform
// that is up to date or needs hardening in software only. It says Any of all the rest but Root, MRTD, RTMR, ReportData and
// MRConfigID, which stay unset: those the caller knows.
func Baseline() Expect {
	return Expect{
		TCBStatus: evidence.OneOf(dcap.UpToDate, dcap.SWHardeningNeeded), EvaluationNumber: evidence.Any[uint32](), DeniedAdvisories: []string{},
		MROwner: evidence.Any[[48]byte](), MROwnerConfig: evidence.Any[[48]byte](), MRServiceTD: evidence.Exactly([48]byte{}),
		Debug: evidence.Exactly(false), Migratable: evidence.Exactly(false), SEPTVEDisable: evidence.Any[bool](), PKS: evidence.Any[bool](), KeyLocker: evidence.Any[bool](),
		Perfmon: evidence.Any[bool](), ReservedBits: evidence.Exactly[uint64](0), XFAM: evidence.Any[uint64](),
		MRSeam: evidence.Any[[48]byte](), MRSignerSeam: evidence.Exactly([48]byte{}), SeamAttributes: evidence.Exactly([8]byte{}), TEETCBSVN: evidence.Any[[16]byte](),
		QESVN: evidence.Any[uint16](), PCESVN: evidence.Any[uint16](), FMSPC: evidence.Any[[6]byte](), PPID: evidence.Any[[16]byte](),
	}
}
