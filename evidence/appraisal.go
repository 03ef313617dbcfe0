package evidence

import "errors"

// Result is the outcome of one check. The zero value is "fail".
type Result int

// The results of a check.
const (
	NotMet   Result = iota // the claim is not what was wanted
	Met                    // the claim is what was wanted
	NotAsked               // the relying party said Any
	NotHad                 // a fact that is needed to check the claim could not be had
)

var resultNames = map[Result]string{NotMet: "fail", Met: "pass", NotAsked: "any", NotHad: "unavailable"}

func (r Result) String() string               { return resultNames[r] }
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other word is "fail".
func (r *Result) UnmarshalText(text []byte) error {
	*r = NotMet
	for k, name := range resultNames {
		if name == string(text) {
			*r = k
		}
	}
	return nil
}

// Check is one claim looked at: what came, what was wanted, how it ended, and by which rule.
type Check struct {
	Claim  string `json:"claim"`
	Got    string `json:"got"`
	Want   string `json:"want"`
	Result Result `json:"result"`
	Rule   string `json:"rule"`
}

// Passed is a check of something that was looked at as a whole and held, such as a signature.
func Passed(claim, got, want, rule string) Check {
	return Check{Claim: claim, Got: got, Want: want, Result: Met, Rule: rule}
}

// Failed turns an error into a check. A refusal gives field, got and want; one that says that a fact could
// not be had gives an unavailable check, and everything else one that failed.
func Failed(claim, rule string, err error) Check {
	c := Check{Claim: claim, Got: err.Error(), Want: "well-formed, genuine evidence", Rule: rule}
	var r *Refusal
	if errors.As(err, &r) {
		c.Got, c.Want = r.Got, r.Want
		if r.Field != "" {
			c.Claim = claim + ": " + r.Field
		}
		if r.Code == CodeUnavailable {
			c.Result = NotHad
		}
	}
	return c
}

// Verdict is the end of an appraisal. The zero value is "refused".
type Verdict int

// The verdicts.
const (
	Refused Verdict = iota
	Accepted
	Unavailable // no verdict: something needed could not be had
)

var verdictNames = map[Verdict]string{Refused: "refused", Accepted: "accepted", Unavailable: "unavailable"}

func (v Verdict) String() string               { return verdictNames[v] }
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other word is "refused".
func (v *Verdict) UnmarshalText(text []byte) error {
	*v = Refused
	for k, name := range verdictNames {
		if name == string(text) {
			*v = k
		}
	}
	return nil
}

// Judgement is what people and programs are told of one piece of evidence. The zero value is a refusal.
type Judgement struct {
	Verdict   Verdict        `json:"verdict"`
	Kind      string         `json:"kind"` // as the attestation service names it: "sevsnpvm", "tdxvm", "azurevm", …
	Root      RootKind       `json:"root"`
	Authentic bool           `json:"authentic"` // whoever had to sign it did, whatever it says
	Checks    []Check        `json:"checks"`
	Claims    map[string]any `json:"claims"`
}

// Appraisal is a list of checks and the verdict that follows from them.
type Appraisal struct {
	Verdict Verdict `json:"verdict"`
	Checks  []Check `json:"checks"`
}

// Appraise decides from checks. It is the only place that builds an accepted appraisal: every check
// must be met or explicitly not asked for, and at least one must be met. Where none failed but one
// could not be made, the answer is "unavailable".
func Appraise(checks ...Check) Appraisal {
	a := Appraisal{Checks: checks}
	met, notHad := 0, 0
	for _, c := range checks {
		switch c.Result {
		case Met:
			met++
		case NotAsked:
		case NotHad:
			notHad++
		default:
			return a
		}
	}
	switch {
	case notHad > 0:
		a.Verdict = Unavailable
	case met > 0:
		a.Verdict = Accepted
	}
	return a
}

// Err is nil for an accepted appraisal, and otherwise a refusal that names the first check not met. A check
// that could not be made has the code "unavailable", whatever code the caller gives.
func (a Appraisal) Err(code Code) error {
	if a.Verdict == Accepted {
		return nil
	}
	for _, c := range a.Checks {
		if c.Result == NotMet {
			return Refuse(code, c.Claim, c.Got, c.Want).By(c.Rule)
		}
	}
	for _, c := range a.Checks {
		if c.Result == NotHad {
			return Refuse(CodeUnavailable, c.Claim, c.Got, c.Want).By(c.Rule)
		}
	}
	return Refuse(CodePolicy, "checks", "none was met", "at least one")
}

// RootKind tells which kind of root of trust evidence ends at.
type RootKind string

// The roots of trust. RootSoftware protects from nothing on its own host.
const (
	RootAMD      RootKind = "amd"
	RootIntel    RootKind = "intel"
	RootSoftware RootKind = "software"
)
