package template

import (
	"errors"
	"fmt"
	"strings"
)

// unknown stands for what is known only once resources are there, and for secure values that were not kept.
type unknown struct{}

// evaluator evaluates the expressions of one template.
type evaluator struct {
	t        *Template
	scope    Scope
	withheld bool // secure parameters have no values
	declared map[string]*binding
	vars     map[string]*variable
	work     *work
	taint    bool            // a secure parameter was read since this was last cleared
	secrets  map[string]bool // texts that come from secure parameters

	// find gives the resource that a template's reference names, or nil.
	find func(name string) *Resource
	// needs is told of each resource of the template that something refers to.
	needs func(*Resource)
	// read gives a resource as it is now; nil while planning.
	read Reader
}

type variable struct {
	name  string
	def   any
	value any
	state state
	taint bool
}

// work counts what was computed and how much was looked at, so that a small template neither makes large values nor takes long.
type work struct{ made, seen int64 }

// charge takes from what may be made.
func (w *work) charge(v any) error {
	if w.made -= weigh(v, w.made); w.made < 0 {
		return problem("the template computes more than %d bytes of values", maxWork)
	}
	return nil
}

// spend takes from what may be looked at.
func (w *work) spend(v any, times int64) error {
	if w.seen -= weigh(v, w.seen) * times; w.seen < 0 {
		return problem("the template takes too many steps")
	}
	return nil
}

// weigh counts 16 for each part of a value, and the bytes of its texts. It stops once it has counted more than most.
func weigh(v any, most int64) int64 {
	n := int64(16)
	switch v := v.(type) {
	case string:
		n += int64(len(v))
	case Number:
		n += int64(len(v))
	case []any:
		for _, x := range v {
			if n > most {
				break
			}
			n += weigh(x, most-n)
		}
	case map[string]any:
		for name, x := range v {
			if n > most {
				break
			}
			n += int64(len(name)) + weigh(x, most-n)
		}
	}
	return n
}

// place is where an expression stands: what it may use.
type place struct {
	what      string // for messages
	defaults  bool   // default value of a parameter: no variables, but newGuid and utcNow
	reference bool   // what resources look like may be used
	copies    bool   // "copy" members make lists
	loop      *loop  // of the resource or output
	loops     []loop
}

type loop struct {
	name  string
	index int64
}

func (p *place) in(l loop) *place {
	q := *p
	q.loops = append(append([]loop(nil), p.loops...), l)
	return &q
}

// at gives an error its place, unless it has one.
func at(err error, path, before string) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return invalid(path, "%s%s. Please see https://aka.ms/arm-template-expressions for usage details.", before, err)
}

// walk evaluates all expressions in a value.
func (e *evaluator) walk(v any, path string, p *place) (any, error) {
	switch v := v.(type) {
	case string:
		return e.str(v, path, p)
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			var err error
			if out[i], err = e.walk(x, fmt.Sprintf("%s[%d]", path, i), p); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		return e.object(v, path, p)
	case copied:
		_, made, err := e.copies(v.entry, v.path, p)
		return made, err
	}
	return v, e.work.charge(v)
}

func (e *evaluator) object(v map[string]any, path string, p *place) (any, error) {
	out := make(map[string]any, len(v))
	set := func(name string, x any) error {
		if _, twice := get(out, name); twice {
			return invalid(path, "the property '%s' comes twice", clip(name))
		}
		out[name] = x
		return nil
	}
	for _, name := range keys(v) {
		at := join(path, name)
		if list, is := v[name].([]any); p.copies && is && strings.EqualFold(name, "copy") {
			if err := e.copyInto(list, at, p, set); err != nil {
				return nil, err
			}
			continue
		}
		x, err := e.walk(v[name], at, p)
		if err != nil {
			return nil, err
		}
		if _, _, is := expressionOf(name); is {
			n, err := e.str(name, at, p)
			if err != nil {
				return nil, err
			}
			s, ok := n.(string)
			if !ok {
				return nil, invalid(at, "the property name '%s' is %s; want a string that is known before resources are made", clip(name), kindOf(n))
			}
			name = s
		}
		if err := set(name, x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// copyInto makes a list for each entry of a "copy" member.
func (e *evaluator) copyInto(list []any, path string, p *place, set func(string, any) error) error {
	for i, item := range list {
		where := fmt.Sprintf("%s[%d]", path, i)
		entry, err := members(item, where, "name", "count", "input")
		if err != nil {
			return err
		}
		name, made, err := e.copies(entry, where, p)
		if err != nil {
			return err
		}
		if err := set(name, made); err != nil {
			return err
		}
	}
	return nil
}

func (e *evaluator) copies(entry map[string]any, path string, p *place) (string, []any, error) {
	name, _ := entry["name"].(string)
	if name == "" {
		return "", nil, invalid(path, "the copy has no name")
	}
	count, err := e.count(entry["count"], join(path, "count"), p)
	if err != nil {
		return "", nil, err
	}
	made := make([]any, 0, count)
	for n := range count {
		x, err := e.walk(entry["input"], join(path, "input"), p.in(loop{name, n}))
		if err != nil {
			return "", nil, err
		}
		made = append(made, x)
	}
	return name, made, nil
}

// members reads an object that has just these members; absent ones are nil.
func members(v any, path string, names ...string) (map[string]any, error) {
	obj, ok := v.(map[string]any)
	if !ok {
		return nil, invalid(path, "it is %s; want an object", kindOf(v))
	}
	out := map[string]any{}
	for _, k := range keys(obj) {
		known := false
		for _, n := range names {
			if strings.EqualFold(n, k) {
				out[n], known = obj[k], true
			}
		}
		if !known {
			return nil, invalid(join(path, k), "the property '%s' is not known here: want one of '%s'", clip(k), strings.Join(names, ", "))
		}
	}
	return out, nil
}

// count evaluates the count of a loop.
func (e *evaluator) count(v any, path string, p *place) (int64, error) {
	q := *p
	q.reference = false
	x, err := e.open(v, path, &q)
	if err != nil {
		return 0, err
	}
	n, ok := x.(int64)
	if !ok || n < 0 || n > MaxCopies {
		return 0, invalid(path, "The template copy count is %s: want an integer from 0 to %d", show(x), MaxCopies)
	}
	return n, nil
}

// open evaluates what people will see, such as names: no secure parameter may be in it, and it must be known.
func (e *evaluator) open(v any, path string, p *place) (any, error) {
	before := e.taint
	e.taint = false
	x, err := e.walk(v, path, p)
	if err != nil {
		return nil, err
	}
	if e.taint {
		return nil, invalid(path, "a secure parameter can't be used here: the value would be shown")
	}
	e.taint = before
	return x, nil
}

// str evaluates one string of the template.
func (e *evaluator) str(s, path string, p *place) (any, error) {
	inner, plain, is := expressionOf(s)
	if !is {
		return plain, e.work.charge(plain)
	}
	n, err := parseExpression(inner)
	if err != nil {
		return nil, at(err, path, "")
	}
	before := e.taint
	e.taint = false
	v, err := e.eval(n, p)
	if err == nil {
		err = e.work.charge(v)
	}
	if err != nil {
		var placed *Error
		if e.taint && !errors.As(err, &placed) {
			err = problem("the expression can't be evaluated; the reason is not told, since a secure parameter is in it")
		}
		return nil, at(err, path, "")
	}
	if e.taint {
		e.remember(v)
	}
	e.taint = e.taint || before
	return v, nil
}

// remember notes the texts in a value that comes from a secure parameter.
func (e *evaluator) remember(v any) {
	switch v := v.(type) {
	case string:
		if v != "" {
			e.secrets[v] = true
		}
	case []any:
		for _, x := range v {
			e.remember(x)
		}
	case map[string]any:
		for _, x := range v {
			e.remember(x)
		}
	}
}

func (e *evaluator) eval(n node, p *place) (any, error) {
	if err := e.work.spend(nil, 1); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case literal:
		return n.value, nil
	case member:
		return e.member(n, p)
	case call:
		return e.call(n, p)
	}
	return nil, problem("an expression of no known kind")
}

func (e *evaluator) member(n member, p *place) (any, error) {
	of, err := e.eval(n.of, p)
	if err != nil {
		return nil, err
	}
	var index any = n.name
	if n.name == "" {
		if index, err = e.eval(n.index, p); err != nil {
			return nil, err
		}
	}
	if isUnknown(of) || isUnknown(index) {
		return unknown{}, nil
	}
	switch of := of.(type) {
	case map[string]any:
		name, ok := index.(string)
		if !ok {
			return nil, problem("The language expression property '%s' can't be evaluated, property name must be a string", clip(text(index)))
		}
		if v, ok := of[name]; ok {
			return v, nil
		}
		if err := e.work.spend(nil, int64(len(of))); err != nil { // names have no case, so all are looked at
			return nil, err
		}
		if v, ok := get(of, name); ok {
			return v, nil
		}
		return nil, problem("The language expression property '%s' doesn't exist, available properties are '%s'", clip(name), clip(strings.Join(keys(of), ", ")))
	case []any:
		i, ok := index.(int64)
		switch {
		case !ok:
			return nil, problem("The language expression property '%s' can't be evaluated, property name must be an integer", clip(text(index)))
		case i < 0 || i >= int64(len(of)):
			return nil, problem("The language expression property array index '%d' is out of bounds", i)
		}
		return of[i], nil
	}
	return nil, problem("The language expression property '%s' can't be evaluated: it is asked of a value of type '%s'", clip(text(index)), kindOf(of))
}

func isUnknown(v any) bool {
	_, is := v.(unknown)
	return is
}

// anyUnknown looks into a value.
func anyUnknown(v any) bool {
	switch v := v.(type) {
	case unknown:
		return true
	case []any:
		for _, x := range v {
			if anyUnknown(x) {
				return true
			}
		}
	case map[string]any:
		for _, x := range v {
			if anyUnknown(x) {
				return true
			}
		}
	}
	return false
}

func (e *evaluator) call(n call, p *place) (any, error) {
	name := strings.ToLower(n.name)
	f, ok := functions[name]
	switch {
	case !ok && strings.HasPrefix(name, "list"):
		return nil, problem("The template function '%s' is not supported: templates read no secrets here", clip(n.name))
	case !ok:
		return nil, problem("The template function '%s' is not valid", clip(n.name))
	case len(n.args) < f.min || f.max >= 0 && len(n.args) > f.max:
		return nil, problem("The template function '%s' has %d arguments; want %s", n.name, len(n.args), f.arity())
	case f.lazy != nil:
		return f.lazy(e, n, p)
	}
	args := make([]any, len(n.args))
	dark := false
	for i, a := range n.args {
		v, err := e.eval(a, p)
		if err != nil {
			return nil, err
		}
		args[i] = v
		dark = dark || anyUnknown(v)
	}
	if dark && f.here == nil {
		return unknown{}, nil
	}
	v, err := e.apply(f, args, p)
	var ours *Error
	if err != nil && !errors.As(err, &ours) {
		return nil, problem("The template function '%s' can't be evaluated: %s", n.name, err)
	}
	return v, err
}

func (e *evaluator) apply(f function, args []any, p *place) (any, error) {
	if f.here != nil {
		return f.here(e, args, p)
	}
	times := int64(1)
	if f.pairs {
		times = maxCompared
	}
	if err := e.work.spend(args, times); err != nil {
		return nil, err
	}
	v, err := f.pure(args)
	if err != nil {
		return nil, err
	}
	return v, e.work.charge(v)
}

func (e *evaluator) variable(name string) (any, error) {
	v := e.vars[strings.ToLower(name)]
	if v == nil {
		return nil, problem("The template variable '%s' is not found. Please see https://aka.ms/arm-syntax-variables for usage details", clip(name))
	}
	switch v.state {
	case underway:
		return nil, invalid(join("variables", v.name), "The template variable '%s' depends on itself", clip(v.name))
	case untouched:
		v.state = underway
		before := e.taint
		e.taint = false
		x, err := e.walk(v.def, join("variables", v.name), &place{what: "a variable", copies: true})
		if err != nil {
			return nil, at(err, join("variables", v.name), "The template variable '"+clip(v.name)+"' is not valid: ")
		}
		v.value, v.taint, v.state = x, e.taint, checked
		e.taint = before
	}
	e.taint = e.taint || v.taint
	return v.value, nil
}

// declareVariables takes the "copy" member of the section apart: each entry is a variable.
func (e *evaluator) declareVariables() error {
	add := func(name string, def any) error {
		fold := strings.ToLower(name)
		if e.vars[fold] != nil {
			return invalid(join("variables", name), "The template variable '%s' comes twice", clip(name))
		}
		e.vars[fold] = &variable{name: name, def: def}
		return nil
	}
	for _, name := range keys(e.t.variables) {
		list, is := e.t.variables[name].([]any)
		if !is || !strings.EqualFold(name, "copy") {
			if err := add(name, e.t.variables[name]); err != nil {
				return err
			}
			continue
		}
		for i, item := range list {
			where := fmt.Sprintf("variables.copy[%d]", i)
			entry, err := members(item, where, "name", "count", "input")
			if err != nil {
				return err
			}
			loop, _ := entry["name"].(string)
			if loop == "" {
				return invalid(where, "the copy has no name")
			}
			if err := add(loop, copied{entry, where}); err != nil {
				return err
			}
		}
	}
	return nil
}

// copied is the definition of a variable that a copy makes.
type copied struct {
	entry map[string]any
	path  string
}
