package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"cloister.dev/cloister/evidence"
)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		permit      bool
	}{
		{"a pattern that matches", `[type=="x-ms-sevsnpvm-hostdata", value=~"^a+$"] => permit();`, true},
		{"a pattern matches anywhere", `[type=="x-ms-runtime.user.name", value=~"e"] => permit();`, true},
		{"a pattern that does not match", `[type=="x-ms-sevsnpvm-hostdata", value=~"^b"] => permit();`, false},
		{"must not match, and does not", `[type=="x-ms-sevsnpvm-hostdata", value!~"^b"] => permit();`, true},
		{"must not match, but does", `[type=="x-ms-sevsnpvm-hostdata", value!~"^a"] => permit();`, false},
		{"a pattern of types", `[type=~"^x-ms-sevsnpvm-", value==0] => permit();`, true},
		{"SVC-07 a pattern for an integer is an error", `=> permit(); [type=="x-ms-sevsnpvm-vmpl", value!~"1"] => deny();`, false},
		{"SVC-07 a hard pattern takes its time in proportion", `[type=="x-ms-sevsnpvm-hostdata", value=~"^(a+)+$"] => permit();`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := parse(t, auth("1.0", c.rules)).Evaluate(claims(), schema); (err == nil) != c.permit {
				t.Errorf("permitted %v, want %v (%v)", err == nil, c.permit, err)
			}
		})
	}
	for name, rules := range map[string]string{
		"not closed":         `[value=~"("] => permit();`,
		"back reference":     `[value=~"(a)\\1"] => permit();`,
		"not written out":    `c:[type=="a"] && [value=~c.value] => permit();`,
		"integer":            `[value=~1] => permit();`,
		"too long":           `[value=~"` + strings.Repeat("a", maxPattern+1) + `"] => permit();`,
		"repeated too often": `[value=~"((a{1000}){1000}){1000}"] => permit();`,
	} {
		if _, err := Parse(auth("1.0", rules)); evidence.CodeOf(err) != evidence.CodeParse || !strings.Contains(err.Error(), "line 3 column") {
			t.Errorf("pattern %s: %v", name, err)
		}
	}
}

func TestQueriesAreBounded(t *testing.T) {
	doc, _ := json.Marshal(map[string]any{"Events": strings.Split(strings.Repeat("abcdefgh ", 2000), " ")})
	for name, c := range map[string]struct {
		query string
		ok    bool
	}{
		"twin: a plain query":         {"Events[0]", true},
		"twin: a few entries":         {"Events[0].{a: @, b: @, c: @}", true},
		"copies of copies":            {strings.Repeat("[@,@]|", 40) + "@", false},
		"copies made flat":            {strings.Repeat("[@,@][]|", 40) + "@", false},
		"quotes escaped in quotes":    {strings.Repeat("to_string([", 30) + "@" + strings.Repeat("])", 30), false},
		"joined by what it joins":     {"join(Events[0], Events)", false},
		"a large text for each value": {"Events[*].'" + strings.Repeat("x", 3000) + "'", false},
	} {
		incoming := []Claim{{Type: "doc", Value: string(doc), Issuer: FromService}, {Type: "query", Value: c.query, Issuer: FromService}}
		p := parse(t, auth("1.2", `=> permit(); d:[type=="doc"] && q:[type=="query"] => add(type="r", value=JmesPath(d.value, q.value));`))
		if _, err := p.Evaluate(incoming, Schema{}); (err == nil) != c.ok || err != nil && evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("SVC-07 %s: %v", name, err)
		}
	}
	doubling := auth("1.2", `=> permit(); => add(type="t", value="`+strings.Repeat("x", 1000)+`"); `+
		strings.Repeat(`c:[type=="t"] => add(type="t", value=AppendString(c.value, c.value)); `, 14))
	if _, err := parse(t, doubling).Evaluate(nil, Schema{}); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("SVC-07 texts that double: %v", err)
	}
}

// TestErrorsNeverPermit puts rules that fail, and rules that do not, around a permit: with a failing rule that is
// reached, nothing is ever permitted.
func TestErrorsNeverPermit(t *testing.T) {
	failing := []string{
		`[type=="x-ms-sevsnpvm-hostdata", value > 1] => deny();`,
		`[type=="x-ms-sevsnpvm-vmpl", value=~"x"] => deny();`,
		`=> add(type="n", value=NegateBool("x"));`,
		`=> add(type="n", value=JsonToClaimValue("{}"));`,
		`=> add(type="n", value=JmesPath("{}", "["));`,
		`=> add(type="n", value=1, valueType="Boolean");`,
		`c:[type=="secureBootEnabled"] => add(type="n", value=AppendString(c.value, "x"));`,
		`[type=="x-ms-sevsnpvm-vmpl", value < true] => permit();`,
		`=> add(type="n", value=ContainsOnlyValue(1, JsonToClaimValue("[1]")));`,
	}
	fine := []string{
		`=> permit();`, `=> add(type="n", value=1);`, `[type=="n"] => permit();`, `c:[type=="pcrs"] => add(type="m", value=c.value);`,
		`![type=="nothing"] => permit();`, `[type=="x-ms-sevsnpvm-vmpl", value==0] => permit();`,
	}
	for _, f := range failing {
		if _, err := Parse(auth("1.2", f)); err != nil && !strings.Contains(f, "< true") {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.SampledFrom(fine), 0, 5).Draw(t, "before")
		after := rapid.SliceOfN(rapid.SampledFrom(fine), 0, 5).Draw(t, "after")
		bad := rapid.SampledFrom(failing).Draw(t, "bad")
		rules := strings.Join(before, "\n") + "\n" + bad + "\n=> permit();\n" + strings.Join(after, "\n")
		p, err := Parse(auth("1.2", rules))
		if err != nil {
			return // refused when it is set, which is earlier still
		}
		if out, err := p.Evaluate(claims(), schema); err == nil {
			t.Fatalf("SVC-07: permitted by %s", out.Permit)
		}
		trace := p.Explain(claims(), schema)
		if trace.Permitted || len(trace.Issued) > 0 {
			t.Fatal("the explanation says permitted")
		}
	})
}

func TestExplain(t *testing.T) {
	p := parse(t, auth("1.2", `[type=="x-ms-sevsnpvm-is-debuggable", value==true] => deny();
c:[type=="x-ms-sevsnpvm-hostdata"] && [type=="x-ms-sevsnpvm-vmpl", value > 0] => permit();
[type=="absent"] => deny();
![type=="absent"] => permit();`)+"issuancerules{ c:[type==\"pcrs\"] => issue(type=\"mine\", value=c.value); };")
	tr := p.Explain(claims(), schema)
	want := []string{
		`x-ms-sevsnpvm-is-debuggable is false, want == true (line 3 column 39)`,
		`x-ms-sevsnpvm-vmpl is 0, want > 0 (line 4 column 68)`,
		`there is no claim absent`,
		`no such claim absent`,
		`pcrs is 0`,
	}
	if !tr.Permitted || tr.By != "authorizationrules rule 4 (line 6)" || len(tr.Rules) != len(want) || len(tr.Issued) != 1 {
		t.Fatalf("%+v", tr)
	}
	for i, r := range tr.Rules {
		if r.Why() != want[i] || (r.Fired > 0) != (i >= 3) {
			t.Errorf("rule %d: %q fired %d, want %q", i, r.Why(), r.Fired, want[i])
		}
	}
	tr = parse(t, auth("1.0", "=> permit(); [type==\"x-ms-sevsnpvm-hostdata\", value > 1] => deny();\n=> permit();")).Explain(claims(), schema)
	if tr.Permitted || tr.Rules[1].Error == "" || tr.Rules[2].Reached || !strings.Contains(tr.Why, "line 3 column 47") {
		t.Errorf("%+v", tr)
	}
	tr = parse(t, auth("1.0", "")).Explain(claims(), schema)
	if tr.Permitted || tr.By != "denied by default" {
		t.Errorf("SVC-06: %+v", tr)
	}
}

func TestConcurrently(t *testing.T) {
	p := parse(t, bench)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := p.Evaluate(claims(), schema); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

var bench = `version=1.0;
authorizationrules{
[type=="x-ms-sevsnpvm-is-debuggable", value==true] => deny();
[type=="x-ms-sevsnpvm-vmpl", value!=0] => deny();
[type=="secureBootEnabled", value==false] => deny();
[type=="x-ms-sevsnpvm-hostdata", value=~"^[0-9a-f]+$"] => permit();
};
issuancerules{
c:[type=="x-ms-runtime.user.name"] => issue(type="user", value=c.value);
};`

func BenchmarkEvaluate(b *testing.B) {
	p := parse(b, bench)
	in := claims()
	for i := range 30 {
		in = append(in, Claim{Type: fmt.Sprintf("x-ms-sevsnpvm-other-%d", i), Value: int64(i), Issuer: FromService})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Evaluate(in, schema); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	if files, err := filepath.Glob("../../../shared/vectors/maa-policies/*.txt"); err == nil {
		for _, name := range files {
			if raw, err := os.ReadFile(name); err == nil {
				f.Add(string(raw))
			}
		}
	}
	f.Add(bench)
	f.Add(auth("1.2", `c:[type=="events"] => add(type="ok", value=JsonToClaimValue(JmesPath(c.value, "Events[0].ok"))); ![type=="ok"] => permit();`))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			if evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("code of %v", err)
			}
			return
		}
		_, err = p.Evaluate(claims(), schema)
		if err != nil && evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("code of %v", err)
		}
		if tr := p.Explain(claims(), schema); tr.Permitted != (err == nil) {
			t.Errorf("explained %v, evaluated %v", tr.Permitted, err)
		}
	})
}
