package evidence

// Result is the outcome of one check. The zero value is "not met".
type Result int

// The results of a check.
const (
	NotMet   Result = iota // the claim is not what was wanted
	Met                    // the claim is what was wanted
	NotAsked               // the relying party said Any
)

var resultNames = map[Result]string{NotMet: "refused", Met: "accepted", NotAsked: "not asked"}

func (r Result) String() string               { return resultNames[r] }
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other word is "not met".
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

// Verdict is the end of an appraisal. The zero value is "refused".
type Verdict int

// The verdicts.
const (
	Refused Verdict = iota
	Accepted
	Undecided // something needed could not be had
)

var verdictNames = map[Verdict]string{Refused: "refused", Accepted: "accepted", Undecided: "undecided"}

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

// Appraisal is a list of checks and the verdict that follows from them.
type Appraisal struct {
	Verdict Verdict `json:"verdict"`
	Checks  []Check `json:"checks"`
}

// Appraise decides from checks. It is the only place that builds an accepted appraisal: every check
// must be met or explicitly not asked for, and at least one must be met.
func Appraise(checks ...Check) Appraisal {
	a := Appraisal{Checks: checks}
	met := 0
	for _, c := range checks {
		switch c.Result {
		case Met:
			met++
		case NotAsked:
		default:
			return a
		}
	}
	if met > 0 {
		a.Verdict = Accepted
	}
	return a
}

// Err is nil for an accepted appraisal, and otherwise a refusal that names the first check not met.
func (a Appraisal) Err(code Code) error {
	if a.Verdict == Accepted {
		return nil
	}
	for _, c := range a.Checks {
		if c.Result == NotMet {
			return Refuse(code, c.Claim, c.Got, c.Want).By(c.Rule)
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
