package deployment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/template"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/store"
)

const (
	testSub = "00000000-0000-0000-0000-00000000000a"
	testID  = "/subscriptions/" + testSub + "/resourceGroups/g/providers/A.B/c/d"
)

// serving makes a service whose one kind of resource answers as it is told.
func serving(t *testing.T, handle arm.Handler) (*Service, *live) {
	t.Helper()
	s := &Service{Now: time.Now, Router: &arm.Router{Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Authorize:    func(*identity.Principal, string, string) error { return nil },
		Subscription: func(sub string) bool { return sub == testSub },
		Routes:       []arm.Route{{Method: http.MethodPut, Pattern: "/subscriptions/{sub}/resourceGroups/{group}/providers/A.B/c/{name}", Action: "A.B/c/write", Handle: handle}}}}
	s.Init()
	tpl, err := template.Parse([]byte(`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","resources":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := template.Expand(tpl, template.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	return s, &live{plan: plan}
}

// What passes is asked again for as long as it takes, a failure of this server a few times, a refusal never.
func TestAsking(t *testing.T) {
	for name, r := range map[string]struct {
		answer *arm.Response
		err    error
		after  []string // the step's state after each call
		polled string
	}{
		"made":                      {arm.OK(map[string]any{"properties": map[string]any{"provisioningState": "succeeded"}}), nil, []string{succeeded}, ""},
		"made, without a state":     {&arm.Response{Status: 201, Body: map[string]any{}}, nil, []string{succeeded}, ""},
		"no body":                   {arm.NoContent(), nil, []string{succeeded}, ""},
		"under way by an operation": {&arm.Response{Status: 201, Header: http.Header{"Azure-Asyncoperation": {"https://h/subscriptions/s/providers/P/operations/op-1?api-version=x"}}}, nil, []string{running}, "op-1"},
		"under way by its state":    {arm.OK(map[string]any{"properties": map[string]any{"provisioningState": "Creating"}}), nil, []string{running}, byResource},
		"it failed before":          {arm.OK(map[string]any{"properties": map[string]any{"provisioningState": "Failed"}}), nil, []string{failed}, ""},
		"refused":                   {nil, arm.Errorf(400, "Bad", "no"), []string{failed}, ""},
		"changed by another":        {nil, store.ErrConflict, []string{pending, pending, pending, pending, pending, pending, pending}, ""},
		"too many requests":         {nil, arm.Errorf(429, "TooManyRequests", "later"), []string{pending, pending, pending, pending, pending, pending, pending}, ""},
		"a failure of this server":  {nil, errors.New("etcd does not answer"), []string{pending, pending, pending, pending, pending, failed}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := serving(t, func(context.Context, *arm.Request) (*arm.Response, error) { return r.answer, r.err })
			st := Step{ID: testID, Version: "2020-01-01"}
			for i, want := range r.after {
				st.State = running
				if s.ask(t.Context(), &Deployment{}, &st, l, []byte(`{}`)); st.State != want || st.Polled != r.polled || (want == failed) != (st.Error != nil) {
					t.Fatalf("call %d: %+v, want %s", i, st, want)
				}
			}
		})
	}
}

// What one server holds of deployments is bounded.
func TestTooManyUnderWay(t *testing.T) {
	s, l := serving(t, nil)
	if l.plan.Weight() <= 0 {
		t.Fatalf("a plan of no weight")
	}
	s.weight = maxWeight
	if e := arm.AsError(s.keep(Deployment{Run: "a"}, l)); e == nil || e.Status != http.StatusTooManyRequests {
		t.Errorf("kept: %v", e)
	}
	s.weight = 0
	if err := s.keep(Deployment{Run: "a"}, l); err != nil || s.weight != l.plan.Weight() {
		t.Errorf("the positive twin: %v, %d", err, s.weight)
	}
	s.drop(Deployment{Run: "a"})
	s.drop(Deployment{Run: "a"})
	if s.weight != 0 || len(s.live) != 0 {
		t.Errorf("left: %d, %v", s.weight, s.live)
	}
}

// What was stored must give what was begun.
func TestAgain(t *testing.T) {
	s, _ := serving(t, nil)
	const text = `{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","parameters":{"n":{"type":"string"}},"resources":[{"type":"A.B/c","apiVersion":"1","name":"[parameters('n')]"}]}`
	d := Deployment{ID: arm.ID{Subscription: testSub, Group: "g", Type: Type, Name: "x"}, Steps: []Step{{ID: testID}}}
	if _, err := s.again(d, Source{Template: []byte(text), Parameters: []byte(`{"n":"d"}`)}); err != nil {
		t.Errorf("the same: %v", err)
	}
	for name, src := range map[string]Source{
		"another resource": {Template: []byte(text), Parameters: []byte(`{"n":"e"}`)},
		"no parameter":     {Template: []byte(text), Parameters: []byte(`{}`)},
		"no template":      {Template: []byte(`{`), Parameters: []byte(`{}`)},
		"no object":        {Template: []byte(text), Parameters: []byte(`[]`)},
		"no JSON":          {Template: []byte(text), Parameters: []byte(``)},
	} {
		if _, err := s.again(d, src); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A reason is told without secrets, or not at all.
func TestTelling(t *testing.T) {
	tell := func(n int) arm.Detail {
		values := map[string]any{}
		for i := range n {
			values[fmt.Sprint("m", i)] = fmt.Sprint("secret", i)
		}
		tpl, err := template.Parse([]byte(`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","parameters":{"p":{"type":"secureObject"}},"resources":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := template.Expand(tpl, template.Inputs{Parameters: map[string]any{"p": values}})
		if err != nil {
			t.Fatal(err)
		}
		return tell(arm.Detail{Code: "C", Message: "got secret1", Target: "at.secret1", Details: []arm.Detail{{Message: "secret1 again"}}}, plan)
	}
	if d := tell(2); d.Code != "C" || d.Message != "got ******" || d.Target != "at.******" || d.Details[0].Message != "****** again" {
		t.Errorf("%+v", d)
	}
	if d := tell(template.MaxSecrets + 1); d.Code != "C" || strings.Contains(fmt.Sprint(d), "secret1") || !strings.Contains(d.Message, "not told") {
		t.Errorf("%+v", d)
	}
}
