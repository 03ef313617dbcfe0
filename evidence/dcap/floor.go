package dcap

import (
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
)

// Floor is the oldest collateral that is taken: a host that hands out collateral could otherwise bring back older parts,
// not expired yet, from before a hole was known. The zero value is no floor.
//
// A relying party keeps one per FMSPC, TEE and PCK CA, and raises it with the floor of each collateral that it took.
type Floor struct {
	EvaluationNumber uint32    // of TCB info and QE identity
	TCBInfo          time.Time // issue dates
	QEIdentity       time.Time
	PCKCRL           time.Time
	RootCRL          time.Time
}

// Raise gives the higher one of each part.
func (f Floor) Raise(g Floor) Floor {
	later := func(a, b time.Time) time.Time {
		if b.After(a) {
			return b
		}
		return a
	}
	return Floor{
		EvaluationNumber: max(f.EvaluationNumber, g.EvaluationNumber),
		TCBInfo:          later(f.TCBInfo, g.TCBInfo),
		QEIdentity:       later(f.QEIdentity, g.QEIdentity),
		PCKCRL:           later(f.PCKCRL, g.PCKCRL),
		RootCRL:          later(f.RootCRL, g.RootCRL),
	}
}

// met checks what a collateral is against the floor. Refusals have the code refuse/tcb.
func (f Floor) met(c Floor) error {
	if c.EvaluationNumber < f.EvaluationNumber {
		return evidence.Refuse(evidence.CodeTCB, "TCB evaluation number", fmt.Sprint(c.EvaluationNumber), fmt.Sprintf("at least %d, which was seen", f.EvaluationNumber))
	}
	for _, d := range []struct {
		what      string
		got, want time.Time
	}{{"TCB info", c.TCBInfo, f.TCBInfo}, {"QE identity", c.QEIdentity, f.QEIdentity}, {"PCK CRL", c.PCKCRL, f.PCKCRL}, {"root CRL", c.RootCRL, f.RootCRL}} {
		if d.got.Before(d.want) {
			return evidence.Refuse(evidence.CodeTCB, "issue date of the "+d.what, stamp(d.got), "not before "+stamp(d.want)+", which was seen")
		}
	}
	return nil
}
