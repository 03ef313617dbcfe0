package template

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Scope is where a template is deployed.
type Scope struct {
	Subscription string // GUID
	TenantID     string
	Group        string // name
	Location     string // of the group
	Tags         map[string]string
	Deployment   string // name
	Environment  map[string]any
	Now          func() time.Time
	NewGUID      func() string
}

func (s Scope) resourceGroup() any {
	tags := map[string]any{}
	for k, v := range s.Tags {
		tags[k] = v
	}
	return map[string]any{"id": "/subscriptions/" + s.Subscription + "/resourceGroups/" + s.Group, "name": s.Group, "type": "Microsoft.Resources/resourceGroups",
		"location": s.Location, "tags": tags, "properties": map[string]any{"provisioningState": "Succeeded"}}
}

func (s Scope) subscription() any {
	return map[string]any{"id": "/subscriptions/" + s.Subscription, "subscriptionId": s.Subscription, "tenantId": s.TenantID, "displayName": "Cloister"}
}

// Inputs are what a template is expanded with.
type Inputs struct {
	Parameters map[string]any
	// Withheld: secure parameters have no values, since those were not kept. What comes of them stays unknown.
	Withheld bool
	Scope    Scope
}

// Reader gives a resource as it is now: the entire body of a GET.
type Reader func(id, apiVersion string) (map[string]any, error)

// Resource is one that shall be there.
type Resource struct {
	ID         string
	Type       string
	Name       string
	APIVersion string
	Path       string // in the template
	Enabled    bool   // by its condition
	DependsOn  []int  // indexes of resources of the plan that come before, ascending
	Secure     bool   // its body comes from a secure parameter

	source  map[string]any
	place   *place
	named   []string // dependsOn, evaluated
	copy    string   // name of its loop
	batch   int64
	serial  bool
	ordinal int64
}

// Plan is a template expanded: each resource with its place in the order.
type Plan struct {
	Resources []*Resource
	eval      *evaluator
	names     *names
	weight    int64
	outputs   []output
}

type output struct {
	name, kind, path string
	decl             map[string]any
}

// Output is a result of a deployment. A secret one has no value.
type Output struct {
	Type  string // as Azure spells it
	Value any
}

// Expand evaluates a template as far as it can be before anything is made.
func Expand(t *Template, in Inputs) (*Plan, error) {
	p := &Plan{}
	e := &evaluator{t: t, scope: in.Scope, withheld: in.Withheld, declared: map[string]*binding{}, vars: map[string]*variable{}, work: &work{maxWork, maxSeen}, secrets: map[string]bool{}}
	p.eval = e
	e.find, e.needs = p.find, func(*Resource) {}
	if err := e.declareVariables(); err != nil {
		return nil, err
	}
	if err := e.bind(in.Parameters); err != nil {
		return nil, err
	}
	for _, v := range e.vars {
		if _, err := e.variable(v.name); err != nil {
			return nil, err
		}
	}
	e.taint = false
	for i, v := range t.resources {
		if err := p.add(v, fmt.Sprintf("resources[%d]", i), "", ""); err != nil {
			return nil, err
		}
	}
	if err := p.unique(); err != nil {
		return nil, err
	}
	p.name()
	if err := p.order(); err != nil {
		return nil, err
	}
	if err := p.declareOutputs(); err != nil {
		return nil, err
	}
	p.weight = maxWork - e.work.made + weigh(t.doc, maxWork)
	return p, nil
}

// What may stand in a resource beside what goes into its body.
var directives = []string{"type", "name", "apiVersion", "dependsOn", "condition", "copy", "comments", "metadata", "resources"}

// add expands one declaration, its copies and what is nested in it. Types and names of nested ones begin with the parent's.
func (p *Plan) add(v any, path, parentType, parentName string) error {
	decl, ok := v.(map[string]any)
	if !ok {
		return invalid(path, "the template resource is %s; want an object", kindOf(v))
	}
	for _, k := range keys(decl) {
		if why := elsewhere[strings.ToLower(k)]; why != "" {
			return invalid(join(path, k), "the property '%s' of a template resource is not supported: %s", k, why)
		}
	}
	at := &place{what: "names, types, conditions and dependencies of resources"}
	loopDef, looped := get(decl, "copy")
	if !looped || loopDef == nil {
		return p.addOne(decl, path, parentType, parentName, at, nil)
	}
	where := join(path, "copy")
	def, err := members(loopDef, where, "name", "count", "mode", "batchSize")
	if err != nil {
		return err
	}
	c := copyOf{}
	if c.name, _ = def["name"].(string); c.name == "" {
		return invalid(where, "the copy has no name")
	}
	mode, _ := def["mode"].(string)
	switch {
	case def["mode"] == nil || strings.EqualFold(mode, "parallel"):
	case strings.EqualFold(mode, "serial"):
		c.serial = true
	default:
		return invalid(join(where, "mode"), "the mode of the copy is %s; want parallel or serial", show(def["mode"]))
	}
	c.batch = 1
	if def["batchSize"] != nil {
		n, ok := def["batchSize"].(int64)
		if !ok || n < 1 || n > MaxCopies {
			return invalid(join(where, "batchSize"), "the batch size of the copy is %s; want an integer from 1 to %d", show(def["batchSize"]), MaxCopies)
		}
		c.batch = n
	}
	count, err := p.eval.count(def["count"], join(where, "count"), at)
	if err != nil {
		return err
	}
	for n := range count {
		q := *at
		q.loop = &loop{c.name, n}
		c.ordinal = n
		if err := p.addOne(decl, path, parentType, parentName, &q, &c); err != nil {
			return err
		}
	}
	return nil
}

type copyOf struct {
	name    string
	serial  bool
	batch   int64
	ordinal int64
}

func (p *Plan) addOne(decl map[string]any, path, parentType, parentName string, at *place, c *copyOf) error {
	e := p.eval
	if len(p.Resources) >= MaxResources {
		return invalid(path, "The number of template resources exceeds '%d'", MaxResources)
	}
	r := &Resource{Path: path, Enabled: true, source: decl, place: at}
	if c != nil {
		r.copy, r.serial, r.batch, r.ordinal = c.name, c.serial, c.batch, c.ordinal
	}
	for _, m := range []struct {
		name string
		into *string
	}{{"type", &r.Type}, {"name", &r.Name}, {"apiVersion", &r.APIVersion}} {
		v, _ := get(decl, m.name)
		x, err := e.open(v, join(path, m.name), at)
		if err != nil {
			return err
		}
		s, ok := x.(string)
		if !ok || s == "" || len(s) > 1024 {
			return invalid(join(path, m.name), "the '%s' of the template resource is %s; want a string", m.name, show(x))
		}
		*m.into = s
	}
	if parentType != "" {
		r.Type, r.Name = parentType+"/"+r.Type, parentName+"/"+r.Name
	}
	if strings.EqualFold(r.Type, "Microsoft.Resources/deployments") {
		return invalid(path, "the template resource '%s' is a deployment: nested and linked templates are not supported here", clip(r.Name))
	}
	kinds, names := strings.Split(r.Type, "/"), strings.Split(r.Name, "/")
	if len(kinds) != len(names)+1 || slices.Contains(kinds, "") || slices.Contains(names, "") || !strings.Contains(kinds[0], ".") {
		return invalid(path, "The template resource '%s' for type '%s' has incorrect segment lengths. A nested resource type must have identical number of segments as its resource name. A root resource type must have segment length one greater than its resource name. Please see https://aka.ms/arm-syntax-resources for usage details.", clip(r.Name), clip(r.Type))
	}
	r.ID = "/subscriptions/" + e.scope.Subscription + "/resourceGroups/" + e.scope.Group + "/providers/" + typed(r.Type, names)
	if v, ok := get(decl, "condition"); ok && v != nil {
		x, err := e.open(v, join(path, "condition"), at)
		if err != nil {
			return err
		}
		if r.Enabled, ok = x.(bool); !ok {
			return invalid(join(path, "condition"), "the condition of the template resource '%s' is %s; want true or false", clip(r.Name), show(x))
		}
	}
	if err := p.dependencies(r); err != nil {
		return err
	}
	p.Resources = append(p.Resources, r)
	inner, ok := get(decl, "resources")
	if !ok || inner == nil {
		return nil
	}
	list, ok := inner.([]any)
	if !ok {
		return invalid(join(path, "resources"), "the resources of the template resource '%s' are %s; want a list", clip(r.Name), kindOf(inner))
	}
	if c != nil && len(list) > 0 {
		return invalid(join(path, "resources"), "the template resource '%s' is copied, so it can hold no resources: write them beside it", clip(r.Name))
	}
	for i, v := range list {
		if err := p.add(v, fmt.Sprintf("%s.resources[%d]", path, i), r.Type, r.Name); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) dependencies(r *Resource) error {
	v, ok := get(r.source, "dependsOn")
	if !ok || v == nil {
		return nil
	}
	where := join(r.Path, "dependsOn")
	x, err := p.eval.open(v, where, r.place)
	if err != nil {
		return err
	}
	list, ok := x.([]any)
	if !ok {
		return invalid(where, "'dependsOn' of the template resource '%s' is %s; want a list", clip(r.Name), kindOf(x))
	}
	if len(list) > MaxResources {
		return invalid(where, "'dependsOn' of the template resource '%s' has %d members; at most %d", clip(r.Name), len(list), MaxResources)
	}
	for i, d := range list {
		s, ok := d.(string)
		if !ok || s == "" {
			return invalid(fmt.Sprintf("%s[%d]", where, i), "a dependency of the template resource '%s' is %s; want a string", clip(r.Name), kindOf(d))
		}
		r.named = append(r.named, s)
	}
	return nil
}

// unique refuses two resources with one id, unless the condition of at most one holds.
func (p *Plan) unique() error {
	seen := map[string]*Resource{}
	for _, r := range p.Resources {
		id := strings.ToLower(r.ID)
		if old := seen[id]; old != nil && old.Enabled && r.Enabled {
			return invalid(r.Path, "The resource '%s' is defined multiple times in a template. Please see https://aka.ms/arm-syntax-resources for usage details.", clip(r.ID))
		} else if old == nil || !old.Enabled {
			seen[id] = r
		}
	}
	return nil
}

// names finds resources by what templates call them, all in lower case.
type names struct {
	prefix string                 // of ids, up to the namespace
	ids    map[string]*Resource   // by what follows the prefix
	plain  map[string][]*Resource // by name
	copies map[string][]int       // by loop: indexes
	index  map[*Resource]int
}

func (p *Plan) name() {
	s := p.eval.scope
	n := &names{prefix: strings.ToLower("/subscriptions/" + s.Subscription + "/resourceGroups/" + s.Group + "/providers/"),
		ids: map[string]*Resource{}, plain: map[string][]*Resource{}, copies: map[string][]int{}, index: map[*Resource]int{}}
	for i, r := range p.Resources {
		short := strings.TrimPrefix(strings.ToLower(r.ID), n.prefix)
		if old := n.ids[short]; old == nil || !old.Enabled {
			n.ids[short] = r
		}
		n.plain[strings.ToLower(r.Name)] = append(n.plain[strings.ToLower(r.Name)], r)
		n.index[r] = i
		if r.copy != "" {
			n.copies[strings.ToLower(r.copy)] = append(n.copies[strings.ToLower(r.copy)], i)
		}
	}
	p.names = n
}

// find gives the resource of a full id, of Namespace/type/name, or of a name that only one has.
func (p *Plan) find(name string) *Resource {
	fold := strings.ToLower(name)
	if r := p.names.ids[strings.TrimPrefix(fold, p.names.prefix)]; r != nil {
		return r
	}
	if rs := p.names.plain[fold]; len(rs) == 1 {
		return rs[0]
	}
	return nil
}

// order resolves dependencies, finds those that references make, and refuses circles.
func (p *Plan) order() error {
	index := p.names.index
	for _, r := range p.Resources {
		deps := map[int]bool{}
		for _, name := range r.named {
			if copies := p.names.copies[strings.ToLower(name)]; copies != nil {
				for _, j := range copies {
					deps[j] = true
				}
				continue
			}
			other := p.find(name)
			if other == nil {
				return invalid(join(r.Path, "dependsOn"), "The resource '%s' is not defined in the template. Please see https://aka.ms/arm-syntax for usage details.", clip(name))
			}
			deps[index[other]] = true
		}
		if r.serial { // one batch after the other
			for _, j := range p.names.copies[strings.ToLower(r.copy)] {
				if other := p.Resources[j]; other.Path == r.Path && other.ordinal/r.batch == r.ordinal/r.batch-1 {
					deps[j] = true
				}
			}
		}
		if r.Enabled {
			p.eval.needs = func(other *Resource) { deps[index[other]] = true }
			p.eval.taint = false
			if _, err := p.body(r); err != nil {
				return err
			}
			r.Secure = p.eval.taint
			p.eval.needs = func(*Resource) {}
		}
		for j := range deps {
			r.DependsOn = append(r.DependsOn, j)
		}
		sort.Ints(r.DependsOn)
	}
	return p.acyclic()
}

func (p *Plan) acyclic() error {
	const (
		open = 1
		done = 2
	)
	state := make([]int, len(p.Resources))
	var visit func(int) error
	visit = func(i int) error {
		switch state[i] {
		case done:
			return nil
		case open:
			return invalid(join(p.Resources[i].Path, "dependsOn"), "Circular dependency detected on resource: '%s'. Please see https://aka.ms/arm-syntax-resources for usage details.", p.Resources[i].ID)
		}
		state[i] = open
		for _, j := range p.Resources[i].DependsOn {
			if err := visit(j); err != nil {
				return err
			}
		}
		state[i] = done
		return nil
	}
	for i := range p.Resources {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

// body evaluates what a PUT of the resource holds.
func (p *Plan) body(r *Resource) (map[string]any, error) {
	at := *r.place
	at.reference, at.what = true, "a resource's body"
	out := map[string]any{}
	for _, k := range keys(r.source) {
		if slices.ContainsFunc(directives, func(d string) bool { return strings.EqualFold(d, k) }) {
			continue
		}
		q := at
		q.copies = strings.EqualFold(k, "properties")
		v, err := p.eval.walk(r.source[k], join(r.Path, k), &q)
		if err != nil {
			return nil, err
		}
		out[k] = v
	}
	return out, nil
}

// Body evaluates the body of one resource, once those it depends on are there. Secret tells that it needs the value of a
// secure parameter that was withheld.
func (p *Plan) Body(i int, read Reader) (body map[string]any, secret bool, err error) {
	p.eval.read = read
	p.eval.work = &work{maxWork, maxSeen}
	body, err = p.body(p.Resources[i])
	return body, err == nil && anyUnknown(body), err
}

var outputKinds = map[string]string{"string": "String", "securestring": "SecureString", "int": "Int", "bool": "Bool", "object": "Object", "secureobject": "SecureObject", "array": "Array"}

func (p *Plan) declareOutputs() error {
	for _, name := range keys(p.eval.t.outputs) {
		o := output{name: name, path: join("outputs", name)}
		decl, err := members(p.eval.t.outputs[name], o.path, "type", "value", "condition", "copy", "metadata")
		if err != nil {
			return err
		}
		s, _ := decl["type"].(string)
		if o.kind = outputKinds[strings.ToLower(s)]; o.kind == "" {
			return invalid(o.path, "the template output '%s' has the type %s; want string, securestring, int, bool, object, secureobject or array", clip(name), show(decl["type"]))
		}
		if (decl["copy"] == nil) == (decl["value"] == nil) || decl["copy"] != nil && o.kind != "Array" {
			return invalid(o.path, "the template output '%s' has no value: want 'value', or 'copy' in one of type array", clip(name))
		}
		o.decl = decl
		p.outputs = append(p.outputs, o)
		if _, _, err := p.output(o); err != nil {
			return err
		}
	}
	return nil
}

// output evaluates one output; false: its condition does not hold.
func (p *Plan) output(o output) (Output, bool, error) {
	e, at := p.eval, &place{what: "an output", reference: true}
	before := *at
	before.reference = false
	if o.decl["condition"] != nil {
		c, err := e.open(o.decl["condition"], join(o.path, "condition"), &before)
		if err != nil {
			return Output{}, false, err
		}
		on, ok := c.(bool)
		if !ok {
			return Output{}, false, invalid(join(o.path, "condition"), "the condition of the template output '%s' is %s; want true or false", clip(o.name), show(c))
		}
		if !on {
			return Output{}, false, nil
		}
	}
	e.taint = false
	v, err := p.outputValue(o, at, &before)
	if err != nil {
		return Output{}, false, err
	}
	secret := strings.HasPrefix(o.kind, "Secure")
	if e.taint && !secret {
		return Output{}, false, invalid(o.path, "the template output '%s' would show a secure parameter: give it the type securestring or secureobject, whose values are never shown", clip(o.name))
	}
	want := map[string]string{"Int": "Integer", "Bool": "Boolean"}[strings.TrimPrefix(o.kind, "Secure")]
	if want == "" {
		want = strings.TrimPrefix(o.kind, "Secure")
	}
	if got := kindOf(v); !isUnknown(v) && got != want {
		return Output{}, false, invalid(o.path, "The template output '%s' is not valid: The template output is not valid. Template language expression result is of type '%s'; expected '%s'", clip(o.name), got, want)
	}
	if secret {
		v = nil
	}
	return Output{Type: o.kind, Value: v}, true, nil
}

func (p *Plan) outputValue(o output, at, before *place) (any, error) {
	if o.decl["copy"] == nil {
		return p.eval.walk(o.decl["value"], join(o.path, "value"), at)
	}
	where := join(o.path, "copy")
	def, err := members(o.decl["copy"], where, "count", "input")
	if err != nil {
		return nil, err
	}
	count, err := p.eval.count(def["count"], join(where, "count"), before)
	if err != nil {
		return nil, err
	}
	list := make([]any, 0, count)
	for n := range count {
		q := *at
		q.loop = &loop{"", n}
		v, err := p.eval.walk(def["input"], join(where, "input"), &q)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// Outputs evaluates all outputs, once the resources are there.
func (p *Plan) Outputs(read Reader) (map[string]Output, error) {
	p.eval.read = read
	p.eval.work = &work{maxWork, maxSeen}
	out := map[string]Output{}
	for _, o := range p.outputs {
		v, on, err := p.output(o)
		if err != nil {
			return nil, err
		}
		if on && anyUnknown(v.Value) {
			return nil, invalid(o.path, "the template output '%s' can't be evaluated any more: a secure parameter was not kept", clip(o.name))
		}
		if on {
			out[o.name] = v
		}
	}
	return out, nil
}

// Parameter is a parameter as it may be shown.
type Parameter struct {
	Type  string // as Azure spells it
	Value any    // nil for secure ones
}

// Parameters are all parameters with the values that hold, default values included.
func (p *Plan) Parameters() map[string]Parameter {
	out := map[string]Parameter{}
	for _, b := range p.eval.declared {
		v := Parameter{Type: outputKinds[b.kind], Value: b.value}
		if b.secure() {
			v.Value = nil
		}
		out[b.name] = v
	}
	return out
}

// Weight is how much the plan holds in memory, roughly, in bytes.
func (p *Plan) Weight() int64 { return p.weight }

// Kept are the values of parameters that may be stored: those of secure ones only where they are empty.
func (p *Plan) Kept() map[string]any {
	out := map[string]any{}
	for _, b := range p.eval.declared {
		obj, _ := b.value.(map[string]any)
		if empty := b.value == any(""); !b.secure() || empty || obj != nil && len(obj) == 0 {
			out[b.name] = b.value
		}
	}
	return out
}

// MaxSecrets bounds the texts that Secrets gives: looking for each in every message takes time.
const MaxSecrets = 1000

// Secrets are the texts that come from secure parameters, longest first. False: there are more than MaxSecrets, so a message
// can't be told with them taken out.
func (p *Plan) Secrets() ([]string, bool) {
	if len(p.eval.secrets) > MaxSecrets {
		return nil, false
	}
	out := make([]string, 0, len(p.eval.secrets))
	for s := range p.eval.secrets {
		out = append(out, s)
	}
	sort.Strings(out)
	sort.SliceStable(out, func(i, j int) bool { return len(out[i]) > len(out[j]) })
	return out, true
}
