package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Trace tells how an evaluation went: what was decided, by which rule, and why each rule fired or did not.
type Trace struct {
	Permitted  bool        `json:"permitted"`
	By         string      `json:"by"`            // the rule that decided, or "denied by default"
	Why        string      `json:"why,omitempty"` // of a denial
	Rules      []RuleTrace `json:"rules"`         // of all sections, in the order of the policy
	Issued     []Claim     `json:"issued"`        // empty where nothing was permitted
	Properties []Claim     `json:"properties"`
}

// RuleTrace tells how one rule went.
type RuleTrace struct {
	Section    string           `json:"section"`
	Number     int              `json:"number"` // in its section, from 1
	Line       int              `json:"line"`
	Column     int              `json:"column"`
	Action     string           `json:"action"`
	Reached    bool             `json:"reached"` // false: the decision came before
	Fired      int              `json:"fired"`   // how often, one time for each combination of claims
	Error      string           `json:"error,omitempty"`
	Conditions []ConditionTrace `json:"conditions"`
}

// ConditionTrace tells how one condition went.
type ConditionTrace struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Reached bool   `json:"reached"`
	Held    bool   `json:"held"`
	Negated bool   `json:"negated,omitempty"`
	Claim   *Claim `json:"claim,omitempty"` // a claim that met every test
	Missed  *Miss  `json:"missed,omitempty"`

	asked string // the type that it asks for
}

// Miss is the test that failed on the claim that came nearest: the one that met most tests before it.
type Miss struct {
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Claim    Claim  `json:"claim"`
	Property string `json:"property"` // type, value, valueType or issuer
	Operator string `json:"operator"`
	Got      Value  `json:"got"`
	Want     Value  `json:"want"`

	met int
}

// Explain evaluates like Evaluate, and tells how it went.
func (p *Policy) Explain(incoming []Claim, s Schema) Trace {
	t := &Trace{Rules: []RuleTrace{}, Issued: []Claim{}, Properties: []Claim{}}
	for _, sec := range []struct {
		section section
		rules   []rule
	}{{configurationRules, p.configuration}, {authorizationRules, p.authorization}, {issuanceRules, p.issuance}} {
		for i, r := range sec.rules {
			rt := RuleTrace{Section: sectionNames[sec.section], Number: i + 1, Line: r.line, Column: r.column, Action: r.action.verb, Conditions: []ConditionTrace{}}
			for _, c := range r.conditions {
				rt.Conditions = append(rt.Conditions, ConditionTrace{Line: c.line, Column: c.column, Negated: c.negated, asked: c.asked()})
			}
			t.Rules = append(t.Rules, rt)
		}
	}
	out, err := p.evaluate(incoming, s, t)
	if err != nil {
		t.Why = err.Error()
		if r := (*evidence.Refusal)(nil); errors.As(err, &r) {
			t.By, t.Why = r.Rule, r.Got
		}
		return *t
	}
	t.Permitted, t.By = true, out.Permit
	t.Issued, t.Properties = append(t.Issued, out.Issued...), append(t.Properties, out.Properties...)
	return *t
}

func (c condition) asked() string {
	for _, t := range c.tests {
		if s, ok := t.operand.literal.(string); ok && t.property == "type" && t.operator == "==" {
			return s
		}
	}
	return ""
}

// rule finds a rule's trace; nil where nobody asked for one.
func (t *Trace) rule(name ruleName) *RuleTrace {
	if t == nil {
		return nil
	}
	i := slices.IndexFunc(t.Rules, func(rt RuleTrace) bool {
		return rt.Section == sectionNames[name.section] && rt.Number == name.number
	})
	t.Rules[i].Reached = true
	return &t.Rules[i]
}

func (r *RuleTrace) outcome(c condition, found bool) {
	if r == nil {
		return
	}
	ct := &r.Conditions[c.number]
	ct.Reached = true
	ct.Held = ct.Held || found != c.negated
}

func (r *RuleTrace) hit(c condition, claim Claim) {
	if r != nil && r.Conditions[c.number].Claim == nil {
		r.Conditions[c.number].Claim = &claim
	}
}

func (r *RuleTrace) miss(c condition, met int, claim Claim, want Value) {
	if r == nil {
		return
	}
	ct, t := &r.Conditions[c.number], c.tests[met]
	if ct.Missed != nil && ct.Missed.met >= met {
		return
	}
	ct.Missed = &Miss{Line: t.at.line, Column: t.at.column, Claim: claim, Property: t.property, Operator: t.operator, Got: property(claim, t.property), Want: want, met: met}
}

// Why tells in one line why a rule fired or did not.
func (r RuleTrace) Why() string {
	switch {
	case !r.Reached:
		return "not reached: the decision came before"
	case r.Error != "":
		return "failed: " + r.Error
	case r.Fired > 0 && len(r.Conditions) == 0:
		return "it has no condition"
	case r.Fired > 0:
		var by []string
		for _, c := range r.Conditions {
			by = append(by, c.Why())
		}
		return strings.Join(by, "; ")
	}
	for _, c := range r.Conditions {
		if c.Reached && !c.Held {
			return c.Why()
		}
	}
	return "no combination of claims met all conditions"
}

// Why tells in one line why a condition held or did not.
func (c ConditionTrace) Why() string {
	switch {
	case c.Claim != nil:
		return fmt.Sprintf("%s is %s", c.Claim.Type, shown(c.Claim.Value))
	case c.Negated && c.asked != "":
		return "no such claim " + c.asked
	case c.Missed == nil || c.Missed.Property == "type" && c.asked != "":
		return "there is no claim " + c.asked
	}
	what := c.Missed.Claim.Type
	if c.Missed.Property != "value" {
		what = c.Missed.Property + " of " + what
	}
	return fmt.Sprintf("%s is %s, want %s %s (line %d column %d)", what, shown(c.Missed.Got), c.Missed.Operator, shown(c.Missed.Want), c.Missed.Line, c.Missed.Column)
}

// shown writes a value on one line, types told apart: texts have quotes.
func shown(v Value) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
