package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/evidence/strictjson"
)

const maxCasesBytes = 4 << 20

// policyCases is the file that "attest policy test" reads, YAML or JSON.
type policyCases struct {
	Policy string       `json:"policy"` // file, beside this one
	Type   string       `json:"type"`   // attestation type
	Cases  []policyCase `json:"cases"`
}

// policyCase is one question to a policy, and the answer that its author wants.
type policyCase struct {
	Name   string         `json:"name"`
	Claims map[string]any `json:"claims,omitempty"` // in place
	From   string         `json:"from,omitempty"`   // file with claims or a token, beside this one
	Change map[string]any `json:"change,omitempty"` // claims to replace; null takes one away
	Expect string         `json:"expect"`           // permit or deny
	Rule   int            `json:"rule,omitempty"`   // of the authorization rules, the one that decides
	Issues map[string]any `json:"issues,omitempty"` // claims that must be issued, with these values
}

// caseResult is how a case went.
type caseResult struct {
	Name      string   `json:"name"`
	Passed    bool     `json:"passed"`
	Permitted bool     `json:"permitted"`
	By        string   `json:"by"`
	Wrong     []string `json:"wrong,omitempty"`
}

func newPolicyTest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test FILE", Short: "Run a file of cases against a policy: what it must permit, and what it must deny", Args: cobra.ExactArgs(1),
		Long: `Run a file of cases against a policy. The file is YAML or JSON; names of files in it are relative to it:

  policy: web.policy
  type: SevSnpVm
  cases:
  - name: our VM
    from: token.jwt            # or "claims: {…}" in place
    expect: permit
    issues: {role: web}        # optional: claims that must be issued
  - name: the same with a debugger
    from: token.jwt
    change: {x-ms-sevsnpvm-is-debuggable: true}   # null takes a claim away
    expect: deny
    rule: 1                    # optional: the authorization rule that decides; none: denied by default

Rules that fire in no case are named: nobody knows whether they work.

Exit status 0: each case went as wanted. 1: not.`,
		Example: "  cloister attest policy test web.cases.yaml\n  cloister attest policy test web.cases.yaml -o json",
		RunE:    testPolicy,
	}
	addOutput(cmd)
	return cmd
}

func testPolicy(cmd *cobra.Command, args []string) error {
	o, err := output(cmd)
	if err != nil {
		return err
	}
	file, err := readCases(args[0])
	if err != nil {
		return fmt.Errorf("%s: %s", args[0], err.Error())
	}
	kind, err := kindNamed(file.Type)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	p, err := readPolicy(beside(args[0], file.Policy), kind)
	if err != nil {
		return err
	}
	results, idle, err := runCases(args[0], p, kind, file.Cases)
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		if !r.Passed {
			failed++
		}
	}
	if o == "json" {
		err = printJSON(cmd.OutOrStdout(), map[string]any{"cases": results, "failed": failed, "neverFired": idle})
	} else {
		err = printCases(cmd.OutOrStdout(), results, idle)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d cases went otherwise", failed, len(results))
	}
	return err
}

// readCases reads the file strictly: a misspelt member would be a case that tests nothing.
func readCases(path string) (*policyCases, error) {
	raw, err := readFile(path, maxCasesBytes)
	if err != nil {
		return nil, err
	}
	var file policyCases
	if err := yaml.UnmarshalStrict(raw, &file, func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }); err != nil {
		return nil, err
	}
	if file.Policy == "" || len(file.Cases) == 0 {
		return nil, errors.New(`want "policy", "type" and one case or more`)
	}
	names := map[string]bool{}
	for i, c := range file.Cases {
		switch {
		case c.Name == "" || names[c.Name]:
			return nil, fmt.Errorf("case %d: want a name of its own", i+1)
		case c.Expect != "permit" && c.Expect != "deny":
			return nil, fmt.Errorf("case %q: expect %q, want permit or deny", c.Name, c.Expect)
		case (c.Claims == nil) == (c.From == ""):
			return nil, fmt.Errorf(`case %q: want either "claims" or "from"`, c.Name)
		case c.Expect == "deny" && len(c.Issues) > 0:
			return nil, fmt.Errorf("case %q: what is denied issues nothing", c.Name)
		}
		names[c.Name] = true
	}
	return &file, nil
}

// runCases answers each case, and names the rules that fired in none.
func runCases(path string, p *policy.Policy, kind claims.Kind, cases []policyCase) ([]caseResult, []string, error) {
	var results []caseResult
	var rules []policy.RuleTrace
	fired := map[int]bool{}
	for _, c := range cases {
		set, err := c.claims(path)
		if err != nil {
			return nil, nil, fmt.Errorf("case %q: %s", c.Name, err.Error())
		}
		t := p.Explain(policy.Flatten(set), claims.Schema(kind))
		rules = t.Rules
		for i, r := range t.Rules {
			fired[i] = fired[i] || r.Fired > 0
		}
		wrong, err := c.compare(t)
		if err != nil {
			return nil, nil, fmt.Errorf("case %q: %w", c.Name, err)
		}
		results = append(results, caseResult{Name: c.Name, Passed: len(wrong) == 0, Permitted: t.Permitted, By: t.By, Wrong: wrong})
	}
	idle := []string{}
	for i, r := range rules {
		if !fired[i] {
			idle = append(idle, fmt.Sprintf("%s rule %d (line %d)", r.Section, r.Number, r.Line))
		}
	}
	return results, idle, nil
}

func (c policyCase) claims(path string) (map[string]any, error) {
	set := c.Claims
	if c.From != "" {
		var err error
		if set, err = readClaims(beside(path, c.From)); err != nil {
			return nil, err
		}
	}
	set = maps.Clone(set)
	for name, v := range c.Change {
		if _, ok := set[name]; !ok && v == nil {
			return nil, fmt.Errorf("change: there is no claim %s to take away", name)
		}
		if set[name] = v; v == nil {
			delete(set, name)
		}
	}
	// Once through JSON, so that values in place have the types that values of a token have.
	raw, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	return strictjson.ObjectWithNumbers("claims", raw)
}

// compare tells what went otherwise than wanted.
func (c policyCase) compare(t policy.Trace) ([]string, error) {
	var wrong []string
	if t.Permitted != (c.Expect == "permit") {
		got := decided(t.Permitted, t.By)
		if t.Why != "" {
			got += ": " + t.Why
		}
		wrong = append(wrong, got+", want "+c.Expect)
	}
	if by := fmt.Sprintf("authorizationrules rule %d (", c.Rule); c.Rule != 0 && !strings.HasPrefix(t.By, by) {
		wrong = append(wrong, fmt.Sprintf("decided by %s, want authorization rule %d", t.By, c.Rule))
	}
	raw, err := json.Marshal(policy.Object(t.Issued))
	if err != nil {
		return nil, err
	}
	issued, err := strictjson.ObjectWithNumbers("issued claims", raw)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Issues)) {
		if got, ok := issued[name]; !ok {
			wrong = append(wrong, "issues no claim "+name)
		} else if !reflect.DeepEqual(got, c.Issues[name]) {
			wrong = append(wrong, fmt.Sprintf("issues %s as %v, want %v", name, got, c.Issues[name]))
		}
	}
	return wrong, nil
}

func printCases(out io.Writer, results []caseResult, idle []string) error {
	var b strings.Builder
	for _, r := range results {
		word := "pass"
		if !r.Passed {
			word = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %s: %s\n", word, r.Name, decided(r.Permitted, r.By))
		for _, w := range r.Wrong {
			fmt.Fprintf(&b, "      %s\n", w)
		}
	}
	for _, rule := range idle {
		fmt.Fprintf(&b, "never fired: %s\n", rule)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
