package judge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/strictjson"
)

// DocumentVersion is the form of the general document of expectations:
//
//	{"version": "cloister.expect/2",
//	 "kind":    "sevsnpvm",                      kind of the evidence: sevsnpvm, tdxvm, azurevm, sgx
//	 "roots":   ["amd"],                         roots of trust that are accepted
//	 "claims":  {"measurement": {"exactly": …},  or {"oneOf": […]}, or {"atLeast": …}, or "any"
//	             …}}                             see Names
const DocumentVersion = "cloister.expect/2"

// maxDocument bounds a document, in bytes.
const maxDocument = 1 << 20

// ParseExpect reads expectations: a document of DocumentVersion, or one of launch.ExpectedVersion, which wants Secure
// Boot too. Unknown members, unknown claims, values of another type and empty lists are refused.
func ParseExpect(raw []byte) (Expect, error) {
	if len(raw) > maxDocument {
		return Expect{}, mistake("document", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d", maxDocument))
	}
	doc, err := strictjson.Object("expectations", raw)
	if err != nil {
		return Expect{}, err
	}
	switch doc["version"] {
	case launch.ExpectedVersion:
		x, err := launch.ParseExpected(raw)
		if err != nil {
			return Expect{}, err
		}
		return fromLaunch(x)
	case DocumentVersion:
		return fromDocument(doc)
	}
	return Expect{}, mistake("document", fmt.Sprintf("version %.64q", fmt.Sprint(doc["version"])), launch.ExpectedVersion+" or "+DocumentVersion)
}

func fromLaunch(x launch.Expected) (Expect, error) {
	e := Expect{kinds: []string{x.Kind}, roots: x.Roots}
	measurements := make([]any, len(x.Measurement))
	for i, m := range x.Measurement {
		measurements[i] = m
	}
	rules := map[string]rule{
		"measurement":  {opOneOf, measurements},
		"host-data":    {opExactly, []any{x.HostData}},
		nameSecureBoot: {opExactly, []any{true}},
	}
	for n, v := range x.PCRs {
		rules["pcr"+n] = rule{opExactly, []any{v}}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if err := e.say(name, rules[name]); err != nil {
			return Expect{}, err
		}
	}
	// User data are bound to the SSH host key by a check of their own.
	return e, e.checkPCRs()
}

func fromDocument(doc map[string]any) (Expect, error) {
	for name := range doc {
		if !slices.Contains([]string{"version", "kind", "roots", "claims"}, name) {
			return Expect{}, mistake("document", fmt.Sprintf("member %.64q", name), "version, kind, roots and claims")
		}
	}
	var e Expect
	kinds := []string{envelope.KindSNP, envelope.KindTDX, envelope.KindAzure, envelope.KindSGX}
	kind, ok := doc["kind"].(string)
	if !ok || !slices.Contains(kinds, kind) {
		return Expect{}, mistake("kind", fmt.Sprintf("%.64q", fmt.Sprint(doc["kind"])), strings.Join(kinds, ", "))
	}
	e.kinds = []string{kind}
	roots, ok := doc["roots"].([]any)
	if !ok || len(roots) == 0 {
		return Expect{}, mistake("roots", "none", "at least one of amd, intel and software")
	}
	for _, v := range roots {
		r, _ := v.(string)
		root := evidence.RootKind(r)
		if root != evidence.RootAMD && root != evidence.RootIntel && root != evidence.RootSoftware || slices.Contains(e.roots, root) {
			return Expect{}, mistake("roots", fmt.Sprintf("%.64q", fmt.Sprint(v)), "amd, intel or software, once each")
		}
		e.roots = append(e.roots, root)
	}
	claims, ok := doc["claims"].(map[string]any)
	if !ok || len(claims) == 0 {
		return Expect{}, mistake("claims", "none", "at least one claim")
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if err := e.sayJSON(name, claims[name]); err != nil {
			return Expect{}, err
		}
	}
	return e, e.checkPCRs()
}

// sayJSON reads one expectation: an object of one member, or "any".
func (e *Expect) sayJSON(name string, v any) error {
	if v == opAny {
		return e.Any(name)
	}
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		return mistake(name, fmt.Sprintf("%.64q", fmt.Sprint(v)), `{"exactly": …}, {"oneOf": […]}, {"atLeast": …} or "any"`)
	}
	for op, value := range m {
		switch op {
		case opExactly, opAtLeast:
			return e.say(name, rule{op, []any{value}})
		case opOneOf, opNoneOf:
			list, _ := value.([]any)
			return e.say(name, rule{op, list})
		}
		return mistake(name, fmt.Sprintf("%.64q", op), "exactly, oneOf or atLeast")
	}
	return nil
}

// checkPCRs refuses reference values that are all zero: they would describe a TPM that measured nothing.
func (e *Expect) checkPCRs() error {
	said, zeros := 0, 0
	for n := range 16 {
		r, ok := e.rules[pcrName(n)]
		if !ok {
			continue
		}
		said++
		if len(r.values) == 1 && r.values[0] == strings.Repeat("0", 64) {
			zeros++
		}
	}
	if said > 0 && said == zeros {
		return mistake(namePCRs, strconv.Itoa(zeros)+" values, all zero", "values of a boot")
	}
	return nil
}
