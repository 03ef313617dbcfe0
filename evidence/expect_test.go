package evidence

import "testing"

func TestExpectation(t *testing.T) {
	type row struct {
		name string
		e    Expectation[int]
		got  int
		want Result
	}
	for _, r := range []row{
		{"SVC-26 the zero value refuses", Expectation[int]{}, 0, NotMet},
		{"exactly the value", Exactly(3), 3, Met},
		{"exactly, another value", Exactly(3), 4, NotMet},
		{"one of the list", OneOf(1, 2), 2, Met},
		{"not on the list", OneOf(1, 2), 3, NotMet},
		{"TDX-22 an empty list refuses", OneOf[int](), 0, NotMet},
		{"the floor itself", AtLeast(5), 5, Met},
		{"below the floor", AtLeast(5), 4, NotMet},
		{"any is spelled out", Any[int](), 9, NotAsked},
	} {
		t.Run(r.name, func(t *testing.T) {
			if c := r.e.Check("claim", "rule", r.got); c.Result != r.want {
				t.Errorf("result %v, want %v", c.Result, r.want)
			}
		})
	}
}

func TestValidateRefusesWhatCanNeverBeMet(t *testing.T) {
	if err := (Expectation[int]{}).Validate("x"); CodeOf(err) != CodePolicy {
		t.Errorf("zero value: %v", err)
	}
	if err := OneOf[int]().Validate("x"); CodeOf(err) != CodePolicy {
		t.Errorf("empty list: %v", err)
	}
	for _, e := range []Expectation[int]{Exactly(0), OneOf(0), AtLeast(0), Any[int]()} {
		if err := e.Validate("x"); err != nil {
			t.Errorf("%v: %v", e, err)
		}
	}
}

func TestAppraise(t *testing.T) {
	met, notMet, notAsked := Check{Result: Met}, Check{Claim: "c", Got: "1", Want: "2", Rule: "r"}, Check{Result: NotAsked}
	notHad := Failed("d", "r", Refuse(CodeUnavailable, "", "none", "a list"))
	for _, r := range []struct {
		name   string
		checks []Check
		want   Verdict
	}{
		{"no checks", nil, Refused},
		{"TDX-02 the zero check refuses", []Check{{}}, Refused},
		{"all met", []Check{met, met}, Accepted},
		{"met and not asked", []Check{met, notAsked}, Accepted},
		{"SVC-26 nothing was asked", []Check{notAsked}, Refused},
		{"one not met", []Check{met, notMet}, Refused},
		{"SVC-28 one could not be had", []Check{met, notHad}, Unavailable},
		{"SVC-28 one failed and one could not be had", []Check{notHad, met, notMet}, Refused},
	} {
		t.Run(r.name, func(t *testing.T) {
			a := Appraise(r.checks...)
			if a.Verdict != r.want {
				t.Errorf("verdict %v, want %v", a.Verdict, r.want)
			}
			if err := a.Err(CodeMeasurement); (err == nil) != (r.want == Accepted) {
				t.Errorf("error %v", err)
			}
		})
	}
	if got := Appraise(met, notMet).Err(CodeMeasurement).Error(); got != "refuse/measurement: c: got 1, want 2 (r)" {
		t.Errorf("error text %q", got)
	}
	if got := Appraise(met, notHad).Err(CodeMeasurement); CodeOf(got) != CodeUnavailable {
		t.Errorf("error %v, want one that says unavailable", got)
	}
	var v Verdict
	if v != Refused {
		t.Error("the zero verdict is not refused")
	}
	if err := v.UnmarshalText([]byte("ACCEPTED")); err != nil || v != Refused {
		t.Error("an unknown word did not read as refused")
	}
}
