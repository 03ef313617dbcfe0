package vtpm

import (
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Counters are what a TPM counts (TPMS_CLOCK_INFO) and signs with every quote. A caller keeps those of the last quote it
// accepted from one TPM, and compares. Where the attestation key is not in the endorsement or platform hierarchy, a TPM
// adds an offset of that key to both counts, so counters of different keys do not compare.
type Counters struct {
	Clock        uint64 // milliseconds powered on; never goes back while Safe
	ResetCount   uint32 // boots
	RestartCount uint32 // resumes since the boot
	Safe         bool   // no clock value at or above this one was ever given out before
}

func (c Counters) String() string {
	return fmt.Sprintf("reset %d, restart %d, clock %d ms", c.ResetCount, c.RestartCount, c.Clock)
}

// CheckAfter refuses counters that are behind those last seen: an old quote, or a TPM whose state was rolled back. A TPM
// that lost power may lose the last of its clock; it says so (not Safe), and only then may the clock of a later boot
// be lower. A cleared TPM starts again at zero and is refused: it is another TPM's state.
func (c Counters) CheckAfter(last Counters) error {
	behind := false
	switch {
	case c.ResetCount != last.ResetCount:
		behind = c.ResetCount < last.ResetCount || c.Safe && c.Clock < last.Clock
	case c.RestartCount != last.RestartCount:
		behind = c.RestartCount < last.RestartCount || c.Safe && c.Clock < last.Clock
	default:
		behind = c.Clock < last.Clock
	}
	if behind {
		return evidence.Refuse(evidence.CodeBinding, "quote.clockInfo", c.String(), "not behind "+last.String()).By("TPM-17")
	}
	return nil
}

// CheckSameBoot is CheckAfter, and refuses a boot or a resume in between.
func (c Counters) CheckSameBoot(last Counters) error {
	if err := c.CheckAfter(last); err != nil {
		return err
	}
	if c.ResetCount != last.ResetCount || c.RestartCount != last.RestartCount {
		return evidence.Refuse(evidence.CodeBinding, "quote.clockInfo", c.String(), "the boot of "+last.String()).By("TPM-17")
	}
	return nil
}
