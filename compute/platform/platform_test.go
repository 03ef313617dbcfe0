package platform

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func state(v evidence.Verdict) health.State {
	s := health.State{Verdict: v}
	if v != evidence.Accepted {
		s.Checks = []evidence.Check{{Claim: "reported-tcb", Got: "snp 8", Want: "at least snp 24", Result: evidence.NotMet}}
		s.Mend = []health.Remedy{{Claim: "reported-tcb", Do: "update the SNP firmware"}}
	}
	return s
}

func TestUnfit(t *testing.T) {
	good := Probe{}.Ask([]byte("n"), begin).Take(state(evidence.Accepted), begin)
	for name, r := range map[string]struct {
		h    Health
		tee  string
		at   time.Time
		want string // part of the reason; "" is fit
	}{
		"fit":                              {Health{map[string]Probe{"snp": good}}, "snp", begin, ""},
		"fit until the last moment":        {Health{map[string]Probe{"snp": good}}, "snp", begin.Add(Holds - 1), ""},
		"CP-05 its report is too old":      {Health{map[string]Probe{"snp": good}}, "snp", begin.Add(Holds), "too old"},
		"CP-05 never probed":               {Health{}, "snp", begin, "not been probed"},
		"CP-05 asked, and nothing came":    {Health{map[string]Probe{"snp": Probe{}.Ask([]byte("n"), begin)}}, "snp", begin, "not been probed"},
		"CP-05 another TEE's report":       {Health{map[string]Probe{"snp": good}}, "tdx", begin, "not been probed"},
		"CP-05 refused since":              {Health{map[string]Probe{"snp": good.Take(state(evidence.Refused), begin)}}, "snp", begin, "update the SNP firmware"},
		"unavailable, and fit before":      {Health{map[string]Probe{"snp": good.Take(state(evidence.Unavailable), begin.Add(Every))}}, "snp", begin.Add(Every), ""},
		"CP-05 unavailable for too long":   {Health{map[string]Probe{"snp": good.Take(state(evidence.Unavailable), begin.Add(Every))}}, "snp", begin.Add(Holds), "not fit"},
		"CP-05 unavailable from the start": {Health{map[string]Probe{"snp": Probe{}.Take(state(evidence.Unavailable), begin)}}, "snp", begin, "want at least snp 24"},
	} {
		if got := r.h.Unfit(r.tee, r.at); (got == "") != (r.want == "") || !strings.Contains(got, r.want) {
			t.Errorf("%s: %q, want %q", name, got, r.want)
		}
	}
}

// Whatever happens in whatever order, a host is fit only within Holds of a report that was accepted, and not after a
// refusal that came later.
func TestFitOnlyByAReport(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Probe
		now, accepted := begin, time.Time{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(Every)).Draw(t, "wait")))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				if p.Due(now) {
					p = p.Ask([]byte(now.String()), now)
				}
			case 1:
				p, accepted = p.Take(state(evidence.Accepted), now), now
			case 2:
				p, accepted = p.Take(state(evidence.Refused), now), time.Time{}
			case 3:
				p = p.Take(state(evidence.Unavailable), now)
			}
			fit := Health{map[string]Probe{"snp": p}}.Unfit("snp", now) == ""
			if want := !accepted.IsZero() && now.Sub(accepted) < Holds; fit != want {
				t.Fatalf("fit %v, want %v at %s", fit, want, now)
			}
		}
	})
}

func TestProbesAreAnsweredOnce(t *testing.T) {
	p := Probe{}
	if !p.Due(begin) || p.Answers(nil) || p.Answers([]byte("a")) {
		t.Error("a host that was never probed")
	}
	p = p.Ask([]byte("a"), begin)
	if p.Due(begin.Add(Patience-1)) || !p.Due(begin.Add(Patience)) || !p.Answers([]byte("a")) || p.Answers([]byte("b")) {
		t.Error("a probe that is under way")
	}
	p = p.Ask([]byte("b"), begin.Add(Patience))
	if p.Answers([]byte("a")) {
		t.Error("SVC-14: an answer to a probe that was given up")
	}
	p = p.Take(state(evidence.Accepted), begin)
	if p.Answers([]byte("b")) || p.Due(begin.Add(Every-1)) || !p.Due(begin.Add(Every)) {
		t.Error("SVC-14: an answer that came twice")
	}
}
