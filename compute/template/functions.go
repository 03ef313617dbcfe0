package template

import (
	"fmt"
	"strings"
	"time"
)

// function is one function of the language. One of the three is set.
type function struct {
	min, max int  // arguments; max -1: any number
	pairs    bool // compares elements with each other
	pure     func([]any) (any, error)
	here     func(*evaluator, []any, *place) (any, error) // needs to know where it stands; sees unknown arguments
	lazy     func(*evaluator, call, *place) (any, error)  // evaluates its arguments itself
}

func (f function) arity() string {
	switch {
	case f.max < 0:
		return fmt.Sprintf("at least %d", f.min)
	case f.min == f.max:
		return fmt.Sprint(f.min)
	}
	return fmt.Sprintf("%d to %d", f.min, f.max)
}

// functions by their names in lower case; set by init, since some of them evaluate.
var functions map[string]function

func init() {
	functions = map[string]function{
		"parameters": {min: 1, max: 1, here: parametersFunction}, "variables": {min: 1, max: 1, here: variablesFunction}, "copyindex": {min: 0, max: 2, here: copyIndex},
		"if": {min: 3, max: 3, lazy: ifFunction}, "reference": {min: 1, max: 3, here: reference},
		"resourceid": {min: 2, max: -1, here: resourceID}, "subscriptionresourceid": {min: 2, max: -1, here: subscriptionResourceID},
		"resourcegroup": fromScope(func(s Scope) any { return s.resourceGroup() }), "subscription": fromScope(func(s Scope) any { return s.subscription() }),
		"deployment": {here: deployment}, "environment": fromScope(func(s Scope) any { return s.Environment }),
		"newguid": {here: func(e *evaluator, _ []any, p *place) (any, error) {
			if !p.defaults {
				return nil, problem("it is expected only in the default value of a parameter")
			}
			return e.scope.NewGUID(), nil
		}},
		"utcnow": {max: 1, here: utcNow},
	}
	for name, f := range pureFunctions {
		functions[name] = f
	}
}

func fromScope(f func(Scope) any) function {
	return function{here: func(e *evaluator, _ []any, _ *place) (any, error) { return f(e.scope), nil }}
}

func parametersFunction(e *evaluator, args []any, _ *place) (any, error) {
	name, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	b := e.declared[strings.ToLower(name)]
	if b == nil {
		return nil, problem("The template parameter '%s' is not found. Please see https://aka.ms/arm-syntax-parameters for usage details", clip(name))
	}
	v, err := e.parameterValue(b)
	e.taint = e.taint || b.taint || b.secure()
	return v, err
}

func variablesFunction(e *evaluator, args []any, p *place) (any, error) {
	name, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	if p.defaults {
		return nil, problem("it is not expected in the default value of a parameter")
	}
	return e.variable(name)
}

func copyIndex(_ *evaluator, args []any, p *place) (any, error) {
	name, offset := "", int64(0)
	for i, a := range args {
		switch a := a.(type) {
		case string:
			if i > 0 {
				return nil, wrongType(args, i, "Integer")
			}
			name = a
		case int64:
			if i != len(args)-1 {
				return nil, wrongType(args, i, "String")
			}
			offset = a
		default:
			return nil, wrongType(args, i, "Integer")
		}
	}
	if name == "" && p.loop != nil {
		return sum(p.loop.index, offset)
	}
	for i := len(p.loops) - 1; i >= 0 && name != ""; i-- {
		if strings.EqualFold(p.loops[i].name, name) {
			return sum(p.loops[i].index, offset)
		}
	}
	if p.loop != nil && name != "" && strings.EqualFold(p.loop.name, name) {
		return sum(p.loop.index, offset)
	}
	if name == "" {
		return nil, problem("it is not expected in %s without a loop; a copy of properties or variables is given by its name", p.what)
	}
	return nil, problem("there is no loop '%s' here", clip(name))
}

// ifFunction evaluates only the branch that is taken, or both while the condition is not known.
func ifFunction(e *evaluator, n call, p *place) (any, error) {
	c, err := e.eval(n.args[0], p)
	if err != nil {
		return nil, err
	}
	switch c := c.(type) {
	case bool:
		if c {
			return e.eval(n.args[1], p)
		}
		return e.eval(n.args[2], p)
	case unknown:
		for _, a := range n.args[1:] {
			if _, err := e.eval(a, p); err != nil {
				return nil, err
			}
		}
		return unknown{}, nil
	}
	return nil, problem("The template function 'if' expects its condition to be of type 'Boolean', not '%s'", kindOf(c))
}

func utcNow(e *evaluator, args []any, p *place) (any, error) {
	if !p.defaults {
		return nil, problem("it is expected only in the default value of a parameter")
	}
	now := e.scope.Now().UTC()
	if len(args) == 0 {
		return now.Format("20060102T150405Z"), nil
	}
	form, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	return formatTime(now, form)
}

// The parts of .NET's custom date formats that are served, longest first.
var dateParts = []struct{ net, layout string }{{"yyyy", "2006"}, {"fff", "000"}, {"yy", "06"}, {"MM", "01"}, {"dd", "02"}, {"HH", "15"}, {"mm", "04"}, {"ss", "05"}}

func formatTime(now time.Time, form string) (string, error) {
	if form == "u" {
		return now.Format("2006-01-02 15:04:05Z"), nil
	}
	var b strings.Builder
next:
	for at := 0; at < len(form); {
		for _, part := range dateParts {
			if strings.HasPrefix(form[at:], part.net) {
				s := now.Format(part.layout)
				if part.net == "fff" {
					s = fmt.Sprintf("%03d", now.Nanosecond()/1_000_000)
				}
				b.WriteString(s)
				at += len(part.net)
				continue next
			}
		}
		if c := form[at]; strings.IndexByte("-_:. /TZ", c) < 0 || len(form) == 1 {
			return "", problem("the format '%s' is not supported: want yyyy, MM, dd, HH, mm, ss, fff and separators", clip(form))
		}
		b.WriteByte(form[at])
		at++
	}
	return b.String(), nil
}

// typeOf splits the arguments of resourceId: what stands before the type, and the names after it.
func typeArgument(args []any, before int) (head []string, kind string, names []string, err error) {
	texts := make([]string, len(args))
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			return nil, "", nil, wrongType(args, i, "String")
		}
		texts[i] = s
	}
	for i := range texts[:min(before+1, len(texts))] {
		segments := strings.Count(texts[i], "/")
		if segments == 0 || strings.Contains(texts[i], "//") || strings.HasPrefix(texts[i], "/") || strings.HasSuffix(texts[i], "/") {
			continue
		}
		if names = texts[i+1:]; len(names) != segments {
			return nil, "", nil, problem("the type '%s' requires '%d' resource name argument(s)", clip(texts[i]), segments)
		}
		for _, n := range names {
			if n == "" || strings.Contains(n, "/") {
				return nil, "", nil, problem("the resource name '%s' is empty or has a slash", clip(n))
			}
		}
		return texts[:i], texts[i], names, nil
	}
	return nil, "", nil, problem("no argument is a resource type such as 'Microsoft.Network/virtualNetworks'")
}

func resourceID(e *evaluator, args []any, _ *place) (any, error) {
	if anyUnknown(args) {
		return unknown{}, nil
	}
	head, kind, names, err := typeArgument(args, 2)
	if err != nil {
		return nil, err
	}
	sub, group := e.scope.Subscription, e.scope.Group
	switch len(head) {
	case 1:
		group = head[0]
	case 2:
		sub, group = head[0], head[1]
	}
	return "/subscriptions/" + sub + "/resourceGroups/" + group + "/providers/" + typed(kind, names), nil
}

func subscriptionResourceID(e *evaluator, args []any, _ *place) (any, error) {
	if anyUnknown(args) {
		return unknown{}, nil
	}
	head, kind, names, err := typeArgument(args, 1)
	if err != nil {
		return nil, err
	}
	sub := e.scope.Subscription
	if len(head) == 1 {
		sub = head[0]
	}
	return "/subscriptions/" + sub + "/providers/" + typed(kind, names), nil
}

// typed joins a type and names: Microsoft.Network/virtualNetworks/net/subnets/a.
func typed(kind string, names []string) string {
	parts := strings.Split(kind, "/")
	out := parts[0]
	for i, p := range parts[1:] {
		out += "/" + p
		if i < len(names) {
			out += "/" + names[i]
		}
	}
	return out
}

func deployment(e *evaluator, _ []any, _ *place) (any, error) {
	return map[string]any{"name": e.scope.Deployment, "properties": map[string]any{"mode": "Incremental", "provisioningState": "Accepted",
		"template": map[string]any{"$schema": e.t.Schema, "contentVersion": e.t.ContentVersion}}}, nil
}

// reference gives what a resource looks like, once it is there.
func reference(e *evaluator, args []any, p *place) (any, error) {
	if !p.reference {
		return nil, problem("The template function 'reference' is not expected at this location: %s must be known before resources are made", p.what)
	}
	for i, a := range args {
		if isUnknown(a) {
			if e.read == nil {
				return nil, problem("the argument of a reference must be known before resources are made")
			}
			return unknown{}, nil
		}
		if _, ok := a.(string); !ok {
			return nil, wrongType(args, i, "String")
		}
	}
	id, version, full := args[0].(string), "", false
	if len(args) > 1 {
		version = args[1].(string)
	}
	if len(args) > 2 {
		if full = strings.EqualFold(args[2].(string), "full"); !full {
			return nil, problem("the third argument of a reference is '%s'; want 'Full'", clip(args[2].(string)))
		}
	}
	if r := e.find(id); r != nil {
		if version == "" {
			version = r.APIVersion
		}
		id = r.ID
		e.needs(r)
	} else if !isID(id) {
		return nil, problem("The resource '%s' is not defined in the template", clip(id))
	} else if version == "" {
		return nil, problem("the resource '%s' is not in the template, so the reference needs an api-version", clip(id))
	}
	if e.read == nil {
		return unknown{}, nil
	}
	got, err := e.read(id, version)
	if err != nil {
		return nil, err
	}
	if err := e.work.charge(got); err != nil {
		return nil, err
	}
	if full {
		return got, nil
	}
	properties, _ := get(got, "properties")
	if properties == nil {
		properties = map[string]any{}
	}
	return properties, nil
}

// isID tells a full id of a resource.
func isID(s string) bool {
	parts := strings.Split(strings.ToLower(s), "/")
	return len(parts) >= 7 && parts[0] == "" && parts[1] == "subscriptions"
}

func wrongType(args []any, i int, want string) error {
	return problem("argument %d is of type '%s'; want '%s'", i+1, kindOf(args[i]), want)
}
