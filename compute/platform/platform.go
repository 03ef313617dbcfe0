// Package platform is what the control plane knows of a host's platform: when it was probed, what was found, and whether
// it may take VMs. Pure; who calls it keeps the record.
package platform

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
)

const (
	// Every is how often a host is probed.
	Every = time.Hour
	// Holds is how long a good report lets a host take VMs: one probe may fail to come.
	Holds = 2 * Every
	// Patience is how long a probe may take before another is asked for.
	Patience = time.Minute
)

// Health is what is known of one host, by TEE type.
type Health struct {
	Probes map[string]Probe `json:"probes"`
}

// Probe is what is known of a host's one TEE.
type Probe struct {
	Nonce    []byte       `json:"nonce,omitempty"` // of the probe that is under way
	Asked    time.Time    `json:"asked"`
	Judged   time.Time    `json:"judged"`
	FitUntil time.Time    `json:"fitUntil"` // zero: not fit
	State    health.State `json:"state"`    // as of Judged
}

// Due tells whether a new probe has to be asked for.
func (p Probe) Due(now time.Time) bool {
	if len(p.Nonce) > 0 {
		return now.Sub(p.Asked) >= Patience
	}
	return now.Sub(p.Judged) >= Every
}

// Ask begins a probe. An earlier one that is under way no longer counts.
func (p Probe) Ask(nonce []byte, now time.Time) Probe {
	p.Nonce, p.Asked = bytes.Clone(nonce), now
	return p
}

// Answers tells whether a report answers the probe that is under way.
func (p Probe) Answers(nonce []byte) bool { return len(p.Nonce) > 0 && bytes.Equal(p.Nonce, nonce) }

// Take ends a probe with its judgement. A host that is refused takes no more VMs at once; where nothing could be found out,
// what was known before holds for as long as it would have.
func (p Probe) Take(s health.State, now time.Time) Probe {
	p.Nonce, p.Judged, p.State = nil, now, s
	switch s.Verdict {
	case evidence.Accepted:
		p.FitUntil = now.Add(Holds)
	case evidence.Unavailable:
	default:
		p.FitUntil = time.Time{}
	}
	return p
}

// Unfit says why the platform can't take VMs of a TEE type, and what would mend it, or "".
func (h Health) Unfit(tee string, now time.Time) string {
	p, ok := h.Probes[tee]
	switch {
	case !ok || p.Judged.IsZero():
		return "its platform has not been probed yet"
	case now.Before(p.FitUntil):
		return ""
	case p.State.Verdict == evidence.Accepted:
		return "its last good report is too old (" + p.Judged.UTC().Format(time.RFC3339) + ")"
	}
	var why []string
	for _, c := range p.State.Checks {
		if c.Result == evidence.NotMet || c.Result == evidence.NotHad {
			why = append(why, fmt.Sprintf("%s is %s, want %s", c.Claim, c.Got, c.Want))
		}
	}
	for _, m := range p.State.Mend {
		why = append(why, m.Do)
	}
	return "its platform is not fit: " + strings.Join(why, "; ")
}
