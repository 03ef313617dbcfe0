package deployment

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/template"
)

// However steps depend on each other and end: none begins before what it needs is there, what waits for a failed one never
// begins, all others do, and the deployment fails if and only if a step did.
func TestStepsComeInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "steps")
		var d Deployment
		fails := make([]bool, n)
		for i := range n {
			s := Step{State: pending}
			for j := range i {
				if rapid.IntRange(0, 3).Draw(t, "edge") == 0 {
					s.DependsOn = append(s.DependsOn, j)
				}
			}
			switch rapid.IntRange(0, 5).Draw(t, "fate") {
			case 0:
				s.State = skipped
			case 1:
				fails[i] = true
			}
			d.Steps = append(d.Steps, s)
		}
		for rounds := 0; ; rounds++ {
			ready, under := d.ready(), d.polled()
			if len(ready)+len(under) == 0 {
				break
			}
			if rounds > 4*n+4 {
				t.Fatal("it does not end")
			}
			for _, i := range ready {
				for _, j := range d.Steps[i].DependsOn {
					if st := d.Steps[j].State; st != succeeded && st != skipped {
						t.Fatalf("step %d begins while %d is %s", i, j, st)
					}
				}
				d.Steps[i].State = running
			}
			for _, i := range d.polled() {
				if rapid.Bool().Draw(t, "ends") || rounds > 2*n {
					d.Steps[i].State = succeeded
					if fails[i] {
						d.Steps[i].State, d.Steps[i].Error = failed, &arm.Detail{Code: "X"}
					}
				}
			}
		}
		blocked := make([]bool, n)
		for i, s := range d.Steps {
			for _, j := range s.DependsOn {
				blocked[i] = blocked[i] || d.Steps[j].State == failed || d.Steps[j].State == pending
			}
			if s.State == running || (s.State == pending) != (blocked[i] && s.State != skipped) {
				t.Fatalf("step %d is left %s", i, s.State)
			}
		}
		if any := slices.ContainsFunc(d.Steps, func(s Step) bool { return s.State == failed }); any != (d.outcome() != nil) {
			t.Fatalf("outcome %v", d.outcome())
		}
	})
}

// Answers never hold a value of a secure type, whatever the record holds.
func TestSecureValuesAreNotShown(t *testing.T) {
	d := Deployment{State: succeeded, Parameters: map[string]template.Parameter{"p": {Type: "SecureString", Value: "secret"}}, Outputs: map[string]template.Output{"o": {Type: "SecureObject", Value: "secret"}, "q": {Type: "Int", Value: 1}}}
	p := d.wire(time.Time{})["properties"].(map[string]any)
	for _, v := range []any{p["parameters"].(map[string]any)["p"], p["outputs"].(map[string]any)["o"]} {
		if _, shown := v.(map[string]any)["value"]; shown {
			t.Errorf("shown: %v", v)
		}
	}
	if _, shown := p["outputs"].(map[string]any)["q"].(map[string]any)["value"]; !shown {
		t.Error("a plain output is not shown")
	}
	if got := span(time.Unix(0, 0), time.Unix(1, 500_000_000)); got != "PT1.5S" {
		t.Error(got)
	}
}

func FuzzReadBody(f *testing.F) {
	for _, s := range []string{`{"properties":{"mode":"Incremental","template":{},"parameters":{"a":{"value":1}}}}`, `{properties:{mode:"incremental",template:{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",contentVersion:"1.0.0.0",resources:[]}}}`, `[]`, `{"properties":{"parameters":[]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := read(raw)
		if err == nil && got.template == nil {
			t.Error("neither a template nor a refusal")
		}
		if e := arm.AsError(err); err != nil && (e == nil || e.Status != 400) {
			t.Errorf("a refusal of another form: %v", err)
		}
	})
}
