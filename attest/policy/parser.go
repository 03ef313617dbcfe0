package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Version of the language, in minor numbers: 0 for "1.0".
type version int

// Policy is a parsed policy. Only Parse makes one; the zero value permits nothing.
type Policy struct {
	text          string
	version       version
	configuration []rule
	authorization []rule
	issuance      []rule
}

// Text is the policy as it was given.
func (p *Policy) Text() string { return p.text }

type section int

const (
	configurationRules section = iota
	authorizationRules
	issuanceRules
)

var sectionNames = map[section]string{configurationRules: "configurationrules", authorizationRules: "authorizationrules", issuanceRules: "issuancerules"}

type rule struct {
	line, column int
	conditions   []condition
	action       action
}

type condition struct {
	name         string // "" where it binds nothing
	negated      bool
	tests        []test
	number       int // in its rule, from 0
	line, column int
}

type test struct {
	property string // type, value, valueType or issuer
	operator string // == != < <= > >= =~ !~
	operand  expression
	pattern  *regexp.Regexp // of =~ and !~
	at       lexeme
}

type action struct {
	verb  string // permit, deny, add, issue, issueproperty
	copy  string // identifier of claim=
	props map[string]expression
}

// expression is a literal, a property of a bound claim, or a function call.
type expression struct {
	literal  Value // nil where it is none
	ident    string
	property string
	function string
	args     []expression
	at       lexeme
}

var (
	properties = []string{"type", "value", "valueType", "issuer"}
	operators  = []string{"==", "!=", "<", "<=", ">", ">=", "=~", "!~", "="}
	functions  = map[string]int{"JmesPath": 2, "JsonToClaimValue": 1, "AppendString": 2, "NegateBool": 1, "IsSubsetOf": 2, "ContainsOnlyValue": 2}
	verbs      = map[section][]string{
		configurationRules: {"issueproperty"},
		authorizationRules: {"permit", "deny", "add"},
		issuanceRules:      {"issue", "add", "issueproperty"},
	}
)

// Parse reads a policy. Every refusal has the code refuse/parse and names line and column.
func Parse(in string) (*Policy, error) {
	lexemes, err := lex(in)
	if err != nil {
		return nil, err
	}
	p := &parser{in: lexemes, out: &Policy{text: in}}
	if err := p.policy(); err != nil {
		return nil, err
	}
	return p.out, nil
}

type parser struct {
	in    []lexeme
	at    int
	out   *Policy
	rules int
	depth int
}

func (p *parser) peek() lexeme { return p.in[p.at] }

func (p *parser) take() lexeme {
	l := p.in[p.at]
	if l.kind != end {
		p.at++
	}
	return l
}

func (p *parser) is(text string) bool {
	l := p.peek()
	return (l.kind == punctuation || l.kind == ident) && l.text == text
}

func (p *parser) wrong(want string) error {
	l := p.peek()
	return mistake(l.line, l.column, l.String(), want)
}

func (p *parser) expect(text string) error {
	if !p.is(text) {
		return p.wrong("'" + text + "'")
	}
	p.take()
	return nil
}

func (p *parser) ident(want string) (lexeme, error) {
	if p.peek().kind != ident {
		return lexeme{}, p.wrong(want)
	}
	return p.take(), nil
}

func (p *parser) needs(v version, what string, at lexeme) error {
	if p.out.version < v {
		return mistake(at.line, at.column, what, fmt.Sprintf("version 1.%d or later for it", v))
	}
	return nil
}

func (p *parser) policy() error {
	if err := p.head(); err != nil {
		return err
	}
	for _, s := range []section{configurationRules, authorizationRules, issuanceRules} {
		if !p.is(sectionNames[s]) {
			continue
		}
		at := p.take()
		if s == configurationRules {
			if err := p.needs(1, "configurationrules", at); err != nil {
				return err
			}
		}
		rules, err := p.section(s)
		if err != nil {
			return err
		}
		switch s {
		case configurationRules:
			p.out.configuration = rules
		case authorizationRules:
			p.out.authorization = rules
		case issuanceRules:
			p.out.issuance = rules
		}
	}
	if p.peek().kind != end {
		return p.wrong("configurationrules, authorizationrules, issuancerules (in this order, each once) or the end")
	}
	return nil
}

func (p *parser) head() error {
	if err := p.expect("version"); err != nil {
		return err
	}
	if err := p.expect("="); err != nil {
		return err
	}
	v := p.peek()
	i := slices.Index([]string{"1.0", "1.1", "1.2"}, v.text)
	if v.kind != number || i < 0 {
		return p.wrong("1.0, 1.1 or 1.2")
	}
	p.take()
	p.out.version = version(i)
	return p.expect(";")
}

func (p *parser) section(s section) ([]rule, error) {
	if err := p.expect("{"); err != nil {
		return nil, err
	}
	var out []rule
	for !p.is("}") {
		r, err := p.rule(s)
		if err != nil {
			return nil, err
		}
		if p.rules++; p.rules > maxRules {
			return nil, mistake(r.line, r.column, "one more rule", fmt.Sprintf("at most %d", maxRules))
		}
		out = append(out, r)
	}
	p.take()
	return out, p.expect(";")
}

func (p *parser) rule(s section) (rule, error) {
	r := rule{line: p.peek().line, column: p.peek().column}
	for !p.is("=>") {
		if len(r.conditions) == maxConditions {
			return r, p.wrong(fmt.Sprintf("at most %d conditions", maxConditions))
		}
		if len(r.conditions) > 0 {
			if err := p.expect("&&"); err != nil {
				return r, err
			}
		}
		c, err := p.condition(r.conditions)
		if err != nil {
			return r, err
		}
		r.conditions = append(r.conditions, c)
	}
	if err := p.expect("=>"); err != nil {
		return r, err
	}
	var err error
	if r.action, err = p.action(s, r.conditions); err != nil {
		return r, err
	}
	return r, p.expect(";")
}

func bound(conditions []condition, name string) bool {
	return slices.ContainsFunc(conditions, func(c condition) bool { return c.name == name && name != "" })
}

func (p *parser) condition(before []condition) (condition, error) {
	c := condition{number: len(before), line: p.peek().line, column: p.peek().column}
	if p.peek().kind == ident {
		name := p.take()
		if bound(before, name.text) {
			return c, mistake(name.line, name.column, name.String()+" again", "a name used once in a rule")
		}
		c.name = name.text
		if err := p.expect(":"); err != nil {
			return c, err
		}
	}
	if p.is("!") {
		at := p.take()
		if err := p.needs(2, "'!'", at); err != nil {
			return c, err
		}
		if c.name != "" {
			return c, mistake(at.line, at.column, "'!' behind a name", "no name: there is no claim to name")
		}
		c.negated = true
	}
	if err := p.expect("["); err != nil {
		return c, err
	}
	for !p.is("]") {
		if len(c.tests) > 0 {
			if err := p.expect(","); err != nil {
				return c, err
			}
		}
		t, err := p.test(before)
		if err != nil {
			return c, err
		}
		c.tests = append(c.tests, t)
	}
	p.take()
	// Tests of type, issuer and value type come first, so that a value is only compared where they hold.
	slices.SortStableFunc(c.tests, func(a, b test) int { return testOrder(a) - testOrder(b) })
	return c, nil
}

func testOrder(t test) int {
	if t.property == "value" {
		return 1
	}
	return 0
}

func (p *parser) test(before []condition) (test, error) {
	at, err := p.ident("type, value, valueType or issuer")
	if err != nil {
		return test{}, err
	}
	t := test{property: at.text, at: at}
	if !slices.Contains(properties, t.property) {
		return t, mistake(at.line, at.column, at.String(), "type, value, valueType or issuer")
	}
	op := p.peek()
	if op.kind != punctuation || !slices.Contains(operators, op.text) {
		return t, p.wrong("a comparison")
	}
	p.take()
	if t.operator = op.text; t.operator == "=" { // Azure's own documents write it so
		t.operator = "=="
	}
	if t.operand, err = p.expression(before); err != nil {
		return t, err
	}
	if t.operator == "=~" || t.operator == "!~" {
		return t, t.compile()
	}
	_, isInt := t.operand.literal.(int64)
	switch {
	case t.operator != "==" && t.operator != "!=" && t.property != "value":
		return t, mistake(op.line, op.column, op.String(), "== or != for "+t.property)
	case t.operator != "==" && t.operator != "!=" && t.operand.literal != nil && !isInt:
		return t, mistake(op.line, op.column, op.String(), "an integer beside an order operator")
	}
	if s, isText := t.operand.literal.(string); t.property != "value" && t.operand.literal != nil {
		if !isText {
			return t, mistake(at.line, at.column, at.String()+" beside a value that is no text", "a text")
		}
		if t.property == "valueType" && !slices.Contains([]string{"String", "Integer", "Boolean"}, s) {
			return t, mistake(t.operand.at.line, t.operand.at.column, t.operand.at.String(), "String, Integer or Boolean")
		}
	}
	return t, nil
}

// compile readies a pattern. RE2 takes time in proportion to the text, whatever the pattern; patterns that a
// claim would make are refused, so that evidence never writes one.
func (t *test) compile() error {
	s, ok := t.operand.literal.(string)
	at := t.operand.at
	if !ok {
		return mistake(at.line, at.column, at.String(), "a pattern in quotes behind "+t.operator)
	}
	if len(s) > maxPattern {
		return mistake(at.line, at.column, fmt.Sprintf("a pattern of %d bytes", len(s)), fmt.Sprintf("at most %d", maxPattern))
	}
	var err error
	if t.pattern, err = regexp.Compile(s); err != nil {
		return mistake(at.line, at.column, at.String()+": "+err.Error(), "a regular expression (RE2)")
	}
	return nil
}

func (p *parser) expression(names []condition) (expression, error) {
	l := p.peek()
	e := expression{at: l}
	switch l.kind {
	case text:
		p.take()
		e.literal = l.text
		return e, nil
	case number:
		n, err := strconv.ParseInt(l.text, 10, 64)
		if err != nil {
			return e, p.wrong("an integer of 64 bits")
		}
		p.take()
		e.literal = n
		return e, nil
	case ident:
		p.take()
	default:
		return e, p.wrong("a text, an integer, true, false, a claim's property or a function")
	}
	switch {
	case p.is("."):
		p.take()
		prop, err := p.ident("type, value, valueType or issuer")
		if err != nil {
			return e, err
		}
		if !bound(names, l.text) {
			return e, mistake(l.line, l.column, l.String(), "a name bound by an earlier condition of the rule")
		}
		if !slices.Contains(properties, prop.text) {
			return e, mistake(prop.line, prop.column, prop.String(), "type, value, valueType or issuer")
		}
		e.ident, e.property = l.text, prop.text
		return e, nil
	case p.is("("):
		return p.call(e, l, names)
	case l.text == "true" || l.text == "false":
		e.literal = l.text == "true"
		return e, nil
	}
	return e, mistake(l.line, l.column, l.String(), "true, false, a claim's property or a function")
}

func (p *parser) call(e expression, name lexeme, names []condition) (expression, error) {
	arity, known := functions[name.text]
	if !known {
		return e, mistake(name.line, name.column, name.String(), "a function of the language")
	}
	if err := p.needs(2, name.String(), name); err != nil {
		return e, err
	}
	if p.depth++; p.depth > maxCallDepth {
		return e, mistake(name.line, name.column, name.String(), fmt.Sprintf("at most %d calls inside each other", maxCallDepth))
	}
	defer func() { p.depth-- }()
	p.take()
	e.function = name.text
	for i := range arity {
		if i > 0 {
			if err := p.expect(","); err != nil {
				return e, err
			}
		}
		arg, err := p.expression(names)
		if err != nil {
			return e, err
		}
		e.args = append(e.args, arg)
	}
	return e, p.expect(")")
}

func (p *parser) action(s section, names []condition) (action, error) {
	verb, err := p.ident("an action")
	if err != nil {
		return action{}, err
	}
	a := action{verb: verb.text, props: map[string]expression{}}
	if !slices.Contains(verbs[s], a.verb) {
		return a, mistake(verb.line, verb.column, verb.String(), strings.Join(verbs[s], ", ")+" in "+sectionNames[s])
	}
	if err := p.expect("("); err != nil {
		return a, err
	}
	for !p.is(")") {
		if len(a.props) > 0 || a.copy != "" {
			if err := p.expect(","); err != nil {
				return a, err
			}
		}
		if err := p.argument(&a, names); err != nil {
			return a, err
		}
	}
	p.take()
	return a, a.validate(verb)
}

func (p *parser) argument(a *action, names []condition) error {
	name, err := p.ident("claim, type, value, valueType or issuer")
	if err != nil {
		return err
	}
	if err := p.expect("="); err != nil {
		return err
	}
	if name.text == "claim" {
		of, err := p.ident("the name of a condition")
		if err != nil {
			return err
		}
		if !bound(names, of.text) {
			return mistake(of.line, of.column, of.String(), "a name bound by a condition of the rule")
		}
		if a.copy != "" || len(a.props) > 0 {
			return mistake(name.line, name.column, "claim= beside others", "claim= alone")
		}
		a.copy = of.text
		return nil
	}
	if _, twice := a.props[name.text]; twice || !slices.Contains(properties, name.text) {
		return mistake(name.line, name.column, name.String(), "claim, type, value, valueType or issuer, each once")
	}
	e, err := p.expression(names)
	if err != nil {
		return err
	}
	a.props[name.text] = e
	return nil
}

func (a action) validate(at lexeme) error {
	bad := func(got, want string) error { return mistake(at.line, at.column, a.verb+" with "+got, want) }
	if a.verb == "permit" || a.verb == "deny" {
		if a.copy != "" || len(a.props) > 0 {
			return bad("arguments", a.verb+"()")
		}
		return nil
	}
	if a.copy != "" {
		if len(a.props) > 0 {
			return bad("claim= beside others", "claim= alone")
		}
		return nil
	}
	for _, need := range []string{"type", "value"} {
		if _, ok := a.props[need]; !ok {
			return bad("no "+need, "type= and value=, or claim=")
		}
	}
	if e := a.props["type"]; e.literal != nil {
		if s, ok := e.literal.(string); !ok || s == "" {
			return bad("a type that is no text", "a text")
		}
	}
	if e, ok := a.props["issuer"]; ok && e.literal == FromService {
		return bad("issuer "+FromService, "another issuer: only evidence makes such claims")
	}
	return nil
}

// Schema is what the service knows of the claims of one attestation type.
type Schema struct {
	// Known are the types that the service can put into the incoming set.
	Known []string
	// Open are prefixes below which the evidence itself names the claims ("x-ms-runtime.").
	Open []string
	// Properties are the properties that the service obeys.
	Properties []string
}

func (s Schema) knows(claim string) bool {
	return slices.Contains(s.Known, claim) || slices.ContainsFunc(s.Open, func(p string) bool { return strings.HasPrefix(claim, p) })
}

// reserved tells whether the service alone may put a member into a token.
func (s Schema) reserved(claim string) bool {
	first, _, _ := strings.Cut(claim, ".")
	if slices.Contains([]string{"iss", "exp", "iat", "nbf", "jti", "aud", "sub", "cnf", "nonce"}, first) || strings.HasPrefix(first, "x-cloister-") {
		return true
	}
	for _, list := range [][]string{s.Known, s.Open} {
		for _, k := range list {
			if head, _, _ := strings.Cut(k, "."); head == first {
				return true
			}
		}
	}
	return false
}

// Check compares a policy with what the service emits, so that a misspelt claim is found when the policy
// is stored and not when it silently never matches. It also refuses rules that issue what only the
// service may, and properties that nothing obeys.
func (p *Policy) Check(s Schema) error {
	made := map[string]bool{}
	open := false // a rule makes claims whose type is computed: then any type may exist
	all := slices.Concat(p.configuration, p.authorization, p.issuance)
	for _, r := range all {
		if e, ok := r.action.props["type"]; ok && r.action.verb != "issueproperty" {
			if name, ok := e.literal.(string); ok {
				made[name] = true
			} else {
				open = true
			}
		}
	}
	for _, r := range all {
		for _, c := range r.conditions {
			if err := c.check(s, made, open); err != nil {
				return err
			}
		}
		if err := r.action.check(s, r.line, r.column); err != nil {
			return err
		}
	}
	return nil
}

func (c condition) check(s Schema, made map[string]bool, open bool) error {
	fromService := slices.ContainsFunc(c.tests, func(t test) bool {
		return t.property == "issuer" && t.operator == "==" && t.operand.literal == FromService
	})
	for _, t := range c.tests {
		name, ok := t.operand.literal.(string)
		if t.property != "type" || t.operator != "==" || !ok || s.knows(name) {
			continue
		}
		if !fromService && (open || made[name]) {
			continue
		}
		return mistake(t.operand.at.line, t.operand.at.column, fmt.Sprintf("the claim %q", name), "a claim that this service emits for this kind of evidence, or that a rule makes")
	}
	return nil
}

func (a action) check(s Schema, line, column int) error {
	name, ok := a.props["type"].literal.(string)
	if !ok {
		return nil
	}
	switch a.verb {
	case "issue":
		if s.reserved(name) {
			return mistake(line, column, fmt.Sprintf("issue of %q", name), "a claim that the service does not make itself")
		}
	case "issueproperty":
		if !slices.Contains(s.Properties, name) {
			return mistake(line, column, fmt.Sprintf("the property %q", name), "one of "+strings.Join(s.Properties, ", "))
		}
	}
	return nil
}
