// Package release decides whether a key may leave, and in what form it does.
//
// A release policy is the key owner's rule over the claims of an attestation token. The token was verified
// before, by a pinned key of a configured verifier; this package never looks at where a token says its keys are.
package release

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
	"cloister.dev/cloister/evidence/token"
)

// The limits of a policy.
const (
	MaxPolicySize = 64 << 10 // bytes
	maxDepth      = 12       // of nested allOf and anyOf
	maxConditions = 4096
	maxClaimPath  = 512 // bytes
)

// RootClaim says which kind of root of trust the evidence behind a token ends at.
const RootClaim = "x-cloister-root"

// Policy is a parsed release policy: any one authority must be the token's and its rule be met.
type Policy struct{ authorities []authority }

type authority struct {
	url  string
	rule rule
}

// rule is a condition (claim set) or a list of rules, all or any of which must be met.
type rule struct {
	path  string // where in the document, for people
	any   bool
	parts []rule
	claim string
	want  any // string, float64 or bool
}

// Parse reads a policy strictly: what is not understood here would be ignored at release, so it is refused
// when the policy is stored.
func Parse(raw []byte) (*Policy, error) {
	if len(raw) == 0 || len(raw) > MaxPolicySize {
		return nil, bad("", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("1 to %d", MaxPolicySize))
	}
	obj, err := strictjson.ObjectWithNumbers("release policy", raw)
	if err != nil {
		return nil, err
	}
	if err := only(obj, "", "version", "anyOf"); err != nil {
		return nil, err
	}
	if obj["version"] != "1.0.0" {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "release policy version", fmt.Sprint(obj["version"]), "1.0.0")
	}
	list, ok := obj["anyOf"].([]any)
	if !ok || len(list) == 0 {
		return nil, bad("anyOf", kind(obj["anyOf"]), "a list of at least one authority")
	}
	p, reader := &Policy{}, &reader{}
	for i, item := range list {
		a, err := reader.authority(item, fmt.Sprintf("anyOf[%d]", i))
		if err != nil {
			return nil, err
		}
		p.authorities = append(p.authorities, a)
	}
	return p, nil
}

type reader struct{ conditions int }

func (r *reader) authority(v any, path string) (authority, error) {
	obj, ok := v.(map[string]any)
	if !ok {
		return authority{}, bad(path, kind(v), "an object")
	}
	url, ok := obj["authority"].(string)
	if !ok || !strings.Contains(url, "://") {
		return authority{}, bad(path+".authority", fmt.Sprint(obj["authority"]), "the issuer's URL")
	}
	rest := make(map[string]any, len(obj))
	for k, v := range obj {
		if k != "authority" {
			rest[k] = v
		}
	}
	if _, hasClaim := rest["claim"]; hasClaim {
		return authority{}, bad(path, "a condition", "allOf or anyOf")
	}
	ru, err := r.rule(rest, path, 0)
	return authority{url: url, rule: ru}, err
}

func (r *reader) rule(v any, path string, depth int) (rule, error) {
	obj, ok := v.(map[string]any)
	switch {
	case !ok:
		return rule{}, bad(path, kind(v), "an object")
	case depth > maxDepth:
		return rule{}, bad(path, fmt.Sprintf("nested deeper than %d", maxDepth), "fewer levels")
	}
	all, hasAll := obj["allOf"]
	one, hasAny := obj["anyOf"]
	switch {
	case hasAll && hasAny:
		return rule{}, bad(path, "allOf and anyOf", "one of them")
	case hasAll:
		return r.list(obj, all, path, "allOf", depth)
	case hasAny:
		return r.list(obj, one, path, "anyOf", depth)
	}
	return r.condition(obj, path)
}

func (r *reader) list(obj map[string]any, v any, path, member string, depth int) (rule, error) {
	if err := only(obj, path, member); err != nil {
		return rule{}, err
	}
	path += "." + member
	items, ok := v.([]any)
	if !ok || len(items) == 0 {
		return rule{}, bad(path, kind(v), "a list of at least one condition")
	}
	out := rule{path: path, any: member == "anyOf"}
	for i, item := range items {
		part, err := r.rule(item, fmt.Sprintf("%s[%d]", path, i), depth+1)
		if err != nil {
			return rule{}, err
		}
		out.parts = append(out.parts, part)
	}
	return out, nil
}

func (r *reader) condition(obj map[string]any, path string) (rule, error) {
	if r.conditions++; r.conditions > maxConditions {
		return rule{}, bad(path, fmt.Sprintf("more than %d conditions", maxConditions), "fewer")
	}
	for name := range obj {
		if name != "claim" && name != "equals" {
			return rule{}, evidence.Refuse(evidence.CodeUnsupported, "release policy "+path, "operator "+name, "equals")
		}
	}
	claim, ok := obj["claim"].(string)
	if !ok || claim == "" || len(claim) > maxClaimPath || slices.Contains(strings.Split(claim, "."), "") {
		return rule{}, bad(path+".claim", fmt.Sprint(obj["claim"]), "a dotted path of claim names")
	}
	out := rule{path: path, claim: claim}
	switch want := obj["equals"].(type) {
	case string, bool:
		out.want = want
	case json.Number:
		f, err := want.Float64()
		// Claims arrive as float64: a number that float64 cannot hold would equal its neighbours.
		if err != nil || math.Abs(f) >= 1<<53 {
			return rule{}, bad(path+".equals", want.String(), "a number of at most 53 bits")
		}
		out.want = f
	default:
		return rule{}, bad(path+".equals", kind(want), "a string, a number or a boolean")
	}
	return out, nil
}

func bad(path, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, strings.TrimSpace("release policy "+path), got, want)
}

func only(obj map[string]any, path string, names ...string) error {
	for k := range obj {
		if !slices.Contains(names, k) {
			return evidence.Refuse(evidence.CodeUnsupported, strings.TrimSpace("release policy "+path), "member "+k, strings.Join(names, ", "))
		}
	}
	return nil
}

func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	}
	return "an object"
}

// Authorities lists the issuers that the policy names.
func (p *Policy) Authorities() []string {
	out := make([]string, len(p.authorities))
	for i, a := range p.authorities {
		out[i] = a.url
	}
	return out
}

// Evaluate is nil when a verified token meets the policy, and otherwise a refusal that names the first condition
// of the token's authority that was not met.
func (p *Policy) Evaluate(t *token.Token) error {
	var first error
	found := false
	for _, a := range p.authorities {
		if !token.SameIssuer(a.url, t.Issuer) {
			continue
		}
		found = true
		rootNamed, err := a.rule.check(t)
		if err == nil {
			err = softwareRoot(t, rootNamed)
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if !found {
		return evidence.Refuse(evidence.CodePolicy, "token iss", t.Issuer, oneOf(p.Authorities())).By("release policy")
	}
	return first
}

// softwareRoot refuses evidence of the software root unless a condition that was met named it.
func softwareRoot(t *token.Token, named bool) error {
	root, _ := t.Lookup(RootClaim)
	if root == string(evidence.RootSoftware) && !named {
		return evidence.Refuse(evidence.CodePolicy, RootClaim, string(evidence.RootSoftware), "a policy that names this root of trust, which protects from nothing on its host").By("release policy")
	}
	return nil
}

// check also tells whether a condition that was met names the root of trust.
func (r rule) check(t *token.Token) (rootNamed bool, err error) {
	if r.claim != "" {
		return r.claim == RootClaim, r.compare(t)
	}
	var first error
	met := false
	for _, part := range r.parts {
		named, err := part.check(t)
		switch {
		case err == nil:
			met = true
			rootNamed = rootNamed || named
		case !r.any:
			return false, err
		case first == nil:
			first = err
		}
	}
	if !met {
		return false, r.noneMet(t, first)
	}
	return rootNamed, nil
}

// noneMet explains an anyOf: where all conditions are about one claim it lists what was wanted.
func (r rule) noneMet(t *token.Token, first error) error {
	wants := make([]string, 0, len(r.parts))
	for _, part := range r.parts {
		if part.claim == "" || part.claim != r.parts[0].claim {
			return first
		}
		wants = append(wants, fmt.Sprint(part.want))
	}
	got, ok := t.Lookup(r.parts[0].claim)
	return evidence.Refuse(evidence.CodePolicy, r.parts[0].claim, claimText(got, ok), oneOf(wants)).By("release policy " + r.path)
}

// compare is type-strict: "true" is not true, and 1 is not "1". A claim that is absent meets nothing.
func (r rule) compare(t *token.Token) error {
	got, ok := t.Lookup(r.claim)
	met := false
	if ok {
		switch want := r.want.(type) {
		case string:
			s, is := got.(string)
			met = is && s == want
		case float64:
			f, is := got.(float64)
			met = is && f == want
		case bool:
			b, is := got.(bool)
			met = is && b == want
		}
	}
	if !met {
		want := fmt.Sprint(r.want)
		if ok && fmt.Sprint(got) == want {
			want = fmt.Sprintf("%s as %s", want, typeName(r.want))
		}
		return evidence.Refuse(evidence.CodePolicy, r.claim, claimText(got, ok), want).By("release policy " + r.path)
	}
	return nil
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	}
	return "a number"
}

func claimText(v any, ok bool) string {
	if !ok {
		return "no such claim"
	}
	switch v := v.(type) {
	case string:
		if len(v) > 200 {
			return v[:200] + "…"
		}
		return v
	case float64, bool:
		return fmt.Sprint(v)
	}
	return "neither string, number nor boolean"
}

func oneOf(list []string) string {
	if len(list) > 6 {
		return fmt.Sprintf("one of [%s, and %d more]", strings.Join(list[:6], ", "), len(list)-6)
	}
	return "one of [" + strings.Join(list, ", ") + "]"
}
