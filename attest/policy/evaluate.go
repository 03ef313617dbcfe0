package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
)

// Outcome is what a policy that permitted adds to a token.
type Outcome struct {
	Permit     string // the rule that permitted, for people
	Issued     []Claim
	Properties []Claim
}

// Evaluate runs a policy on the incoming claims. It returns an outcome only when a rule permitted, none
// denied, and nothing went wrong; everything else is a refusal with the code refuse/policy.
func (p *Policy) Evaluate(incoming []Claim, s Schema) (*Outcome, error) {
	return p.evaluate(incoming, s, nil)
}

func (p *Policy) evaluate(incoming []Claim, s Schema, trace *Trace) (*Outcome, error) {
	m := &machine{schema: s, incoming: slices.Clone(incoming)}
	if len(incoming) > maxClaims {
		return nil, evidence.Refuse(evidence.CodePolicy, "claims", fmt.Sprint(len(incoming)), fmt.Sprintf("at most %d", maxClaims))
	}
	for _, sec := range []struct {
		section section
		rules   []rule
	}{{configurationRules, p.configuration}, {authorizationRules, p.authorization}, {issuanceRules, p.issuance}} {
		for i, r := range sec.rules {
			name := ruleName{sec.section, i + 1, r.line}
			m.watch = trace.rule(name)
			if err := m.run(r, name); err != nil {
				if m.watch != nil {
					m.watch.Error = err.Error()
				}
				return nil, evidence.Refuse(evidence.CodePolicy, "policy", err.Error(), "a rule that can be evaluated").By(name.String())
			}
		}
		if sec.section != authorizationRules {
			continue
		}
		switch {
		case m.deny.number != 0:
			return nil, evidence.Refuse(evidence.CodePolicy, "policy", "a deny rule fired", "no deny rule that fires").By(m.deny.String())
		case m.permit.number == 0:
			return nil, evidence.Refuse(evidence.CodePolicy, "policy", "no permit rule fired", "a permit rule that fires").By("denied by default")
		}
	}
	return &Outcome{Permit: m.permit.String(), Issued: m.issued, Properties: m.properties}, nil
}

type machine struct {
	schema       Schema
	incoming     []Claim
	issued       []Claim
	properties   []Claim
	permit, deny ruleName // the first that did
	steps        int
	watch        *RuleTrace // nil: nobody asked
}

// ruleName names a rule for people; it becomes text only when somebody reads it.
type ruleName struct {
	section      section
	number, line int // from 1; 0 is no rule
}

func (n ruleName) String() string {
	return fmt.Sprintf("%s rule %d (line %d)", sectionNames[n.section], n.number, n.line)
}

// spend counts work, in comparisons or their like.
func (m *machine) spend(n int) error {
	if m.steps += n; m.steps > maxSteps {
		return fmt.Errorf("more than %d steps", maxSteps)
	}
	return nil
}

// weight is what a pass over a text of so many bytes counts.
func weight(n int) int { return 1 + n/64 }

// errNothing is JsonToClaimValue of null: the rule does nothing.
var errNothing = errors.New("no value")

func (m *machine) run(r rule, name ruleName) error {
	// Claims that the rule adds are seen by later rules, not by its own conditions.
	view := m.incoming
	return m.match(view, r.conditions, map[string]Claim{}, func(names map[string]Claim) error {
		if m.watch != nil {
			m.watch.Fired++
		}
		return m.act(r.action, name, names)
	})
}

// match calls fire for each combination of claims that the named conditions match. A condition without a
// name asks only whether some claim matches.
func (m *machine) match(view []Claim, conditions []condition, names map[string]Claim, fire func(map[string]Claim) error) error {
	if len(conditions) == 0 {
		return fire(names)
	}
	c, rest := conditions[0], conditions[1:]
	found := false
	for _, claim := range view {
		ok, err := m.meets(claim, c, names)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		found = true
		if c.name == "" {
			break
		}
		names[c.name] = claim
		err = m.match(view, rest, names, fire)
		delete(names, c.name)
		if err != nil {
			return err
		}
	}
	m.watch.outcome(c, found)
	if c.name == "" && found != c.negated {
		return m.match(view, rest, names, fire)
	}
	return nil
}

// meets tells whether one claim (one member of it, where it is a set) meets every test.
func (m *machine) meets(c Claim, by condition, names map[string]Claim) (bool, error) {
	set, isSet := c.Value.(Set)
	if !isSet {
		return m.meetsMember(c, by, names)
	}
	for _, member := range set {
		ok, err := m.meetsMember(Claim{Type: c.Type, Value: member, Issuer: c.Issuer}, by, names)
		if ok || err != nil {
			return ok, err
		}
	}
	return false, m.spend(1)
}

func (m *machine) meetsMember(c Claim, by condition, names map[string]Claim) (bool, error) {
	if err := m.spend(1); err != nil {
		return false, err
	}
	for i, t := range by.tests {
		if t.pattern != nil {
			ok, err := m.matches(c, t)
			if err != nil {
				return false, fmt.Errorf("line %d column %d: claim %q: %w", t.at.line, t.at.column, c.Type, err)
			}
			if !ok {
				m.watch.miss(by, i, c, t.operand.literal)
				return false, nil
			}
			continue
		}
		want, err := m.value(t.operand, names)
		if errors.Is(err, errNothing) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		ok, err := compare(property(c, t.property), t.operator, want)
		if err != nil {
			return false, fmt.Errorf("line %d column %d: claim %q: %w", t.at.line, t.at.column, c.Type, err)
		}
		if !ok {
			m.watch.miss(by, i, c, want)
			return false, nil
		}
	}
	m.watch.hit(by, c)
	return true, nil
}

// matches tells whether a text matches, or does not match, a pattern. Values that are no texts are an error: else
// a pattern that must not match would hold for every number.
func (m *machine) matches(c Claim, t test) (bool, error) {
	s, ok := property(c, t.property).(string)
	if !ok {
		return false, fmt.Errorf("%s needs a text", t.operator)
	}
	if err := m.spend(weight(len(s))); err != nil {
		return false, err
	}
	return t.pattern.MatchString(s) == (t.operator == "=~"), nil
}

func property(c Claim, name string) Value {
	switch name {
	case "type":
		return c.Type
	case "issuer":
		return c.Issuer
	case "valueType":
		return valueType(c.Value)
	}
	return c.Value
}

// compare knows equality of like types, and order of integers. Values of different types are never equal.
func compare(got Value, operator string, want Value) (bool, error) {
	if s, ok := want.(Set); ok {
		if len(s) != 1 {
			return false, fmt.Errorf("a set of %d values has no comparison", len(s))
		}
		want = s[0]
	}
	switch operator {
	case "==":
		return got == want, nil
	case "!=":
		return got != want, nil
	}
	a, okA := got.(int64)
	b, okB := want.(int64)
	if !okA || !okB {
		return false, fmt.Errorf("%s needs integers", operator)
	}
	switch operator {
	case "<":
		return a < b, nil
	case "<=":
		return a <= b, nil
	case ">":
		return a > b, nil
	case ">=":
		return a >= b, nil
	}
	return false, fmt.Errorf("unknown operator %s", operator)
}

func (m *machine) act(a action, name ruleName, names map[string]Claim) error {
	switch a.verb {
	case "permit":
		if m.permit.number == 0 {
			m.permit = name
		}
		return nil
	case "deny":
		if m.deny.number == 0 {
			m.deny = name
		}
		return nil
	}
	c, err := m.claim(a, names)
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	switch a.verb {
	case "issueproperty":
		if !slices.Contains(m.schema.Properties, c.Type) {
			return fmt.Errorf("unknown property %q", c.Type)
		}
		m.properties = append(m.properties, c)
	case "issue":
		if m.schema.reserved(c.Type) {
			return fmt.Errorf("only the service issues %q", c.Type)
		}
		m.issued = append(m.issued, c)
		fallthrough
	default:
		m.incoming = append(m.incoming, c)
	}
	if len(m.incoming)+len(m.issued)+len(m.properties) > maxClaims {
		return fmt.Errorf("more than %d claims", maxClaims)
	}
	return nil
}

func (m *machine) claim(a action, names map[string]Claim) (Claim, error) {
	if a.copy != "" {
		c := names[a.copy]
		c.Issuer = FromPolicy
		return c, nil
	}
	c := Claim{Issuer: FromCustom}
	for _, prop := range []string{"type", "value", "issuer", "valueType"} {
		e, ok := a.props[prop]
		if !ok {
			continue
		}
		v, err := m.value(e, names)
		if err != nil {
			return c, err
		}
		s, isText := v.(string)
		if prop != "value" && !isText {
			return c, fmt.Errorf("%s is no text", prop)
		}
		switch prop {
		case "type":
			c.Type = s
		case "issuer":
			if c.Issuer = s; s == FromService {
				return c, fmt.Errorf("issuer %s in a claim made by policy", s)
			}
		case "value":
			c.Value = v
		case "valueType":
			if s != valueType(c.Value) {
				return c, fmt.Errorf("valueType %s of a value of type %s", s, valueType(c.Value))
			}
		}
	}
	if c.Type == "" {
		return c, errors.New("a claim without type")
	}
	return c, nil
}

func (m *machine) value(e expression, names map[string]Claim) (Value, error) {
	switch {
	case e.literal != nil:
		return e.literal, nil
	case e.ident != "":
		return property(names[e.ident], e.property), nil
	}
	args := make([]Value, len(e.args))
	for i, a := range e.args {
		var err error
		if args[i], err = m.value(a, names); err != nil {
			return nil, err
		}
	}
	if err := m.spend(cost(e.function, args)); err != nil {
		return nil, err
	}
	v, err := call(e.function, args)
	if err != nil && !errors.Is(err, errNothing) {
		return nil, fmt.Errorf("line %d column %d: %s: %w", e.at.line, e.at.column, e.function, err)
	}
	return v, err
}

// jsonValue turns a decoded JSON document into a claim's value.
func jsonValue(raw string) (Value, error) {
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if list, ok := v.([]any); ok {
		set := Set{}
		for _, e := range list {
			s, err := jsonScalar(e)
			if err != nil {
				return nil, err
			}
			if len(set) > 0 && valueType(set[0]) != valueType(s) {
				return nil, errors.New("an array of mixed types")
			}
			set = append(set, s)
		}
		return set, nil
	}
	if v == nil {
		return nil, errNothing
	}
	return jsonScalar(v)
}

func jsonScalar(v any) (Value, error) {
	switch n := v.(type) {
	case string, bool:
		return v, nil
	case float64:
		if s, ok := scalar(n); ok {
			if i, isInt := s.(int64); isInt {
				return i, nil
			}
		}
		return nil, errors.New("a number that is no integer")
	}
	return nil, errors.New("an object, an array in an array, or null in an array")
}
