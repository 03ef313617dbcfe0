// Package deployment deploys templates: it keeps deployments, and makes their resources in the order that the template asks
// for, by the calls that its caller could make, with the caller's rights.
//
// A deployment is a record and a step for each resource. Whoever owns the record goes on with it, also after a restart: a
// step that was begun is done again, since PUT can be repeated. The values of secure parameters are in the memory of the
// server that took the deployment, and nowhere else; where they are lost, what needs them fails and says so.
package deployment

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/template"
	"cloister.dev/cloister/identity"
)

// Type is the resource type.
const Type = "Microsoft.Resources/deployments"

// The provisioning states of deployments and steps.
const (
	pending   = "Pending" // steps only; never shown
	running   = "Running"
	succeeded = "Succeeded"
	failed    = "Failed"
	canceled  = "Canceled"
	skipped   = "Skipped" // steps only: the condition does not hold
)

// Deployment is one, and how far it is.
type Deployment struct {
	ID          arm.ID                        `json:"id"`
	Run         string                        `json:"run"`   // UUID: a PUT of the same name begins another run
	Owner       string                        `json:"owner"` // the server that goes on with it
	Principal   identity.Principal            `json:"principal"`
	Correlation string                        `json:"correlation"`
	Operation   string                        `json:"operation"`
	Tags        map[string]string             `json:"tags,omitempty"`
	State       string                        `json:"state"`
	Start       time.Time                     `json:"start"`
	End         time.Time                     `json:"end"` // zero while it runs
	Hash        string                        `json:"hash"`
	Parameters  map[string]template.Parameter `json:"parameters"`
	Outputs     map[string]template.Output    `json:"outputs,omitempty"`
	Steps       []Step                        `json:"steps"`
	Error       *arm.Error                    `json:"error,omitempty"`
}

// Step is the way of one resource.
type Step struct {
	Operation string      `json:"operation"` // id of the deployment operation
	ID        string      `json:"id"`
	Type      string      `json:"type"`
	Name      string      `json:"name"`
	Version   string      `json:"version"`
	DependsOn []int       `json:"dependsOn,omitempty"` // indexes of steps
	State     string      `json:"state"`
	Status    int         `json:"status,omitempty"` // HTTP status of the last answer
	Tries     int         `json:"tries,omitempty"`
	Polled    string      `json:"polled,omitempty"` // what is polled: id of an operation, or "resource"
	Start     time.Time   `json:"start"`
	End       time.Time   `json:"end"`
	Error     *arm.Detail `json:"error,omitempty"`
}

// byResource polls the resource's own provisioning state.
const byResource = "resource"

// Source is what a deployment is made from, without the values of secure parameters.
type Source struct {
	Template   json.RawMessage   `json:"template"`
	Parameters json.RawMessage   `json:"parameters"` // values by name, default values filled in
	Location   string            `json:"location"`   // of the group, when the deployment began
	Tags       map[string]string `json:"tags,omitempty"`
}

func (d Deployment) over() bool { return d.State != running }

func planned(p *template.Plan, operation func() string) []Step {
	steps := make([]Step, len(p.Resources))
	for i, r := range p.Resources {
		steps[i] = Step{Operation: operation(), ID: r.ID, Type: r.Type, Name: r.Name, Version: r.APIVersion, DependsOn: r.DependsOn, State: pending}
		if !r.Enabled {
			steps[i].State = skipped
		}
	}
	return steps
}

// ready are the steps that can be done now: pending, and all they depend on is there.
func (d Deployment) ready() []int {
	var out []int
next:
	for i, s := range d.Steps {
		if s.State != pending {
			continue
		}
		for _, j := range s.DependsOn {
			if st := d.Steps[j].State; st != succeeded && st != skipped {
				continue next
			}
		}
		out = append(out, i)
	}
	return out
}

func (d Deployment) polled() []int {
	var out []int
	for i, s := range d.Steps {
		if s.State == running {
			out = append(out, i)
		}
	}
	return out
}

// outcome is the error of a deployment none of whose steps can go on, or nil.
func (d Deployment) outcome() *arm.Error {
	var details []arm.Detail
	for _, s := range d.Steps {
		if s.State == failed && s.Error != nil {
			details = append(details, *s.Error)
		}
	}
	if len(details) == 0 {
		return nil
	}
	e := arm.Errorf(http.StatusConflict, "DeploymentFailed", "At least one resource deployment operation failed. Please list deployment operations for details. Please see https://aka.ms/arm-deployment-operations for usage details.")
	e.Details = details
	return e
}

// hashOf is a number that tells templates apart.
func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return strconv.FormatUint(binary.BigEndian.Uint64(sum[:8]), 10)
}

// span is a duration in ISO 8601.
func span(from, to time.Time) string {
	return "PT" + strconv.FormatFloat(max(to.Sub(from), 0).Seconds(), 'f', -1, 64) + "S"
}

// typed is the form of parameters and outputs; secure ones have no value.
func typed(kind string, v any) map[string]any {
	out := map[string]any{"type": kind}
	if !strings.HasPrefix(kind, "Secure") {
		out["value"] = v
	}
	return out
}

func (d Deployment) wire(now time.Time) map[string]any {
	end := d.End
	if end.IsZero() {
		end = now
	}
	parameters := map[string]any{}
	for name, p := range d.Parameters {
		parameters[name] = typed(p.Type, p.Value)
	}
	p := map[string]any{"templateHash": d.Hash, "parameters": parameters, "mode": "Incremental", "provisioningState": d.State, "timestamp": end.UTC(), "duration": span(d.Start, end),
		"correlationId": d.Correlation, "providers": providers(d.Steps), "dependencies": dependencies(d.Steps)}
	if d.State == succeeded {
		outputs := map[string]any{}
		for name, o := range d.Outputs {
			outputs[name] = typed(o.Type, o.Value)
		}
		p["outputs"] = outputs
	}
	if made := idsOf(d.Steps, succeeded); d.over() {
		p["outputResources"] = made
	}
	if d.Error != nil {
		p["error"] = d.Error
	}
	out := map[string]any{"id": d.ID.String(), "name": d.ID.Name, "type": Type, "properties": p}
	if d.Tags != nil {
		out["tags"] = d.Tags
	}
	return out
}

func idsOf(steps []Step, state string) []any {
	out := []any{}
	for _, s := range steps {
		if s.State == state {
			out = append(out, map[string]any{"id": s.ID})
		}
	}
	return out
}

func providers(steps []Step) []any {
	out, at, seen := []any{}, map[string]int{}, map[string]bool{}
	for _, s := range steps {
		ns, kind, _ := strings.Cut(s.Type, "/")
		if seen[strings.ToLower(s.Type)] {
			continue
		}
		seen[strings.ToLower(s.Type)] = true
		i, ok := at[strings.ToLower(ns)]
		if !ok {
			i = len(out)
			at[strings.ToLower(ns)] = i
			out = append(out, map[string]any{"namespace": ns, "resourceTypes": []any{}})
		}
		p := out[i].(map[string]any) // made above
		p["resourceTypes"] = append(p["resourceTypes"].([]any), map[string]any{"resourceType": kind, "locations": []any{nil}})
	}
	return out
}

func dependencies(steps []Step) []any {
	out := []any{}
	one := func(s Step) map[string]any {
		return map[string]any{"id": s.ID, "resourceType": s.Type, "resourceName": s.Name}
	}
	for _, s := range steps {
		on := []any{}
		for _, j := range s.DependsOn {
			on = append(on, one(steps[j]))
		}
		if len(on) > 0 {
			w := one(s)
			w["dependsOn"] = on
			out = append(out, w)
		}
	}
	return out
}

// wireStep is a deployment operation.
func (d Deployment) wireStep(s Step, now time.Time) map[string]any {
	end := s.End
	if end.IsZero() {
		end = now
	}
	p := map[string]any{"provisioningOperation": "Create", "provisioningState": s.State, "timestamp": end.UTC(), "duration": span(s.Start, end), "trackingId": d.Correlation,
		"targetResource": map[string]any{"id": s.ID, "resourceType": s.Type, "resourceName": s.Name}}
	if s.Status != 0 {
		p["statusCode"] = strings.ReplaceAll(http.StatusText(s.Status), " ", "")
	}
	if s.Error != nil {
		p["statusMessage"] = map[string]any{"status": failed, "error": s.Error}
	}
	return map[string]any{"id": fmt.Sprintf("%s/operations/%s", d.ID, s.Operation), "operationId": s.Operation, "properties": p}
}
