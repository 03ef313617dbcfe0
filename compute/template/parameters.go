package template

import (
	"slices"
	"strings"
	"unicode/utf16"
)

// bind checks the values given against the declarations and fills in default values.
func (e *evaluator) bind(given map[string]any) error {
	declared := map[string]bool{}
	var names []string
	for _, p := range e.t.parameters {
		declared[strings.ToLower(p.name)] = true
		names = append(names, p.name)
	}
	var strange []string
	for _, name := range keys(given) {
		if !declared[strings.ToLower(name)] {
			strange = append(strange, clip(name))
		}
	}
	if len(strange) > 0 {
		return invalid("parameters", "The template parameters '%s' in the parameters file are not valid; they are not present in the original template and can therefore not be provided at deployment time. The only supported parameters for this template are '%s'. Please see https://aka.ms/arm-pass-parameter-values for usage details.",
			strings.Join(strange, ", "), strings.Join(names, ", "))
	}
	for _, p := range e.t.parameters {
		e.declared[strings.ToLower(p.name)] = &binding{parameter: p}
	}
	for _, p := range e.t.parameters {
		b := e.declared[strings.ToLower(p.name)]
		v, ok := get(given, p.name)
		switch {
		case ok:
			b.value, b.state = v, bound
		case p.secure() && e.withheld:
			b.value, b.state = unknown{}, bound
		case !p.hasDef:
			return invalid(p.path(), "The value for the template parameter '%s' is not provided. Please see https://aka.ms/arm-create-parameter-file for usage details.", clip(p.name))
		}
	}
	for _, p := range e.t.parameters { // default values may name other parameters
		if _, err := e.parameterValue(e.declared[strings.ToLower(p.name)]); err != nil {
			return at(err, p.path(), "The template parameter '"+clip(p.name)+"' is not valid: ")
		}
		if b := e.declared[strings.ToLower(p.name)]; b.taint && !p.secure() {
			return invalid(join(p.path(), "defaultValue"), "the template parameter '%s' would show a secure parameter: give it the type securestring or secureobject", clip(p.name))
		}
	}
	return nil
}

// binding is a parameter with its value, once it has one.
type binding struct {
	parameter
	value any
	state state
	taint bool // the value comes from a secure parameter
}

// state tells how far something that is evaluated when it is needed has come.
type state int

const (
	untouched state = iota
	underway
	bound
	checked
)

func (e *evaluator) parameterValue(b *binding) (any, error) {
	switch b.state {
	case checked:
		return b.value, nil
	case underway:
		return nil, problem("its default value depends on itself")
	case untouched:
		b.state = underway
		before := e.taint
		e.taint = false
		v, err := e.walk(b.def, join(b.path(), "defaultValue"), &place{what: "a default value", defaults: true})
		if err != nil {
			return nil, err
		}
		b.value, b.taint = v, e.taint
		e.taint = before
	}
	if _, withheld := b.value.(unknown); !withheld {
		if err := b.check(); err != nil {
			return nil, err
		}
	}
	b.state = checked
	if b.secure() {
		b.taint = true
		e.remember(b.value)
	}
	return b.value, e.work.charge(b.value)
}

// check compares the value with the declaration. A secure value is never in a message.
func (b *binding) check() *Error {
	name := clip(b.name)
	wrong := func(format string, args ...any) *Error {
		return invalid(b.path(), "The provided value for the template parameter '%s' is not valid. "+format, append([]any{name}, args...)...)
	}
	want := map[string]string{"string": "String", "securestring": "String", "int": "Integer", "bool": "Boolean", "object": "Object", "secureobject": "Object", "array": "Array"}[b.kind]
	if n, ok := b.value.(Number); ok && b.kind == "int" { // some clients write 4.0
		if i, err := whole(string(n)); err == nil {
			b.value = i
		}
	}
	if got := kindOf(b.value); got != want {
		return wrong("Expected a value of type '%s', but received a value of type '%s'. Please see https://aka.ms/arm-create-parameter-file for usage details.", want, got)
	}
	if b.allowed != nil && !slices.ContainsFunc(b.allowed, func(a any) bool { return equal(a, b.value) }) {
		if b.secure() {
			return wrong("The parameter value is not part of the allowed value(s).")
		}
		var list []string
		for _, a := range b.allowed {
			list = append(list, text(a))
		}
		return invalid(b.path(), "The provided value '%s' for the template parameter '%s' is not valid. The parameter value is not part of the allowed value(s): '%s'.", clip(text(b.value)), name, strings.Join(list, ","))
	}
	var size int64
	switch v := b.value.(type) {
	case int64:
		size = v
	case string:
		size = int64(len(utf16.Encode([]rune(v))))
	case []any:
		size = int64(len(v))
	}
	low, high, what := "minlength", "maxlength", "Length of the value should be"
	if b.kind == "int" {
		low, high, what = "minvalue", "maxvalue", "The value should be"
	}
	for bound := range b.bounds {
		if bound != low && bound != high || b.kind == "bool" || strings.HasSuffix(b.kind, "object") {
			return invalid(b.path(), "the template parameter '%s' of type '%s' can have no '%s'", name, b.kind, bound)
		}
	}
	if n, ok := b.bounds[low]; ok && size < n {
		return wrong("%s greater than or equal to '%d'.", what, n)
	}
	if n, ok := b.bounds[high]; ok && size > n {
		return wrong("%s less than or equal to '%d'.", what, n)
	}
	return nil
}
