// Package template is the language of Resource Manager's templates: from a template and parameters to the resources that
// shall be there, in which order, and what comes out. It does nothing: the clock, new GUIDs and what resources look like
// are parameters.
//
// A template is a stranger's program. Its nesting, copies, steps and the size of everything it computes are bounded, and
// the value of a secure parameter is followed through expressions, so that callers can keep it out of what they store and show.
package template

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of a template: those of Azure, except the last three, which keep one template from using up the server.
const (
	MaxResources  = 800
	MaxCopies     = 800 // of one loop
	MaxParameters = 256
	MaxVariables  = 256
	MaxOutputs    = 64

	maxWork = 32 << 20  // bytes of all values computed, with 16 for each part of one
	maxSeen = 256 << 20 // the same, of all values that functions look at
	maxSize = 4 << 20   // bytes of one text
)

// Error says what is wrong with a template or its parameters. Path is the JSON path in the template.
type Error struct {
	Code    string // Azure's: InvalidTemplate
	Message string
	Path    string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func invalid(path, format string, args ...any) *Error {
	return &Error{Code: "InvalidTemplate", Path: path, Message: "Deployment template validation failed: '" + fmt.Sprintf(format, args...) + "'."}
}

// expressionError is a mistake in an expression, before its place is known.
type expressionError string

func (e expressionError) Error() string { return string(e) }

func problem(format string, args ...any) error { return expressionError(fmt.Sprintf(format, args...)) }

// Template is a document whose sections have the right form. Its expressions were not looked at.
type Template struct {
	Schema         string
	ContentVersion string
	doc            map[string]any
	parameters     []parameter
	variables      map[string]any
	resources      []any
	outputs        map[string]any
}

// parameter is a declaration.
type parameter struct {
	name    string
	kind    string // lower case
	def     any
	hasDef  bool
	allowed []any
	bounds  map[string]int64 // minvalue, maxvalue, minlength, maxlength
}

func (p parameter) secure() bool { return p.kind == "securestring" || p.kind == "secureobject" }

func (p parameter) path() string { return join("parameters", p.name) }

// Why sections of a template and members of a resource are refused.
var (
	sections = map[string]string{"$schema": "", "contentversion": "", "parameters": "", "variables": "", "resources": "", "outputs": "", "metadata": "",
		"apiprofile": "give each resource its apiVersion", "functions": "user-defined functions are not supported here", "languageversion": "symbolic names are not supported here",
		"definitions": "type definitions are not supported here", "imports": "extensions are not supported here", "extensions": "extensions are not supported here"}
	elsewhere = map[string]string{"scope": "resources go into the deployment's own resource group", "resourcegroup": "resources go into the deployment's own resource group",
		"subscriptionid": "resources go into the deployment's own resource group", "existing": "symbolic names are not supported here", "import": "extensions are not supported here",
		"extension": "extensions are not supported here", "asserts": "assertions are not supported here", "deploymentscope": "resources go into the deployment's own resource group"}
)

const schemaHost = "schema.management.azure.com/schemas/"

// Parse reads a template's text and checks its sections.
func Parse(raw []byte) (*Template, error) {
	v, err := Read(raw)
	if err != nil {
		return nil, err
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("", "the template is %s; want an object", kindOf(v))
	}
	for _, name := range keys(doc) {
		switch why, known := sections[strings.ToLower(name)]; {
		case !known:
			return nil, invalid(name, "the template section '%s' is not known", clip(name))
		case why != "" && doc[name] != nil:
			return nil, invalid(name, "the template section '%s' is not supported: %s", name, why)
		}
	}
	t := &Template{doc: doc}
	if err := t.header(); err != nil {
		return nil, err
	}
	if t.variables, err = section(doc, "variables", MaxVariables); err != nil {
		return nil, err
	}
	if t.outputs, err = section(doc, "outputs", MaxOutputs); err != nil {
		return nil, err
	}
	list, _ := get(doc, "resources")
	if t.resources, ok = list.([]any); !ok {
		return nil, invalid("resources", "the template section 'resources' is %s; want a list", kindOf(list))
	}
	return t, t.declare()
}

func (t *Template) header() error {
	schema, _ := get(t.doc, "$schema")
	version, _ := get(t.doc, "contentVersion")
	var ok bool
	if t.Schema, ok = schema.(string); !ok {
		return invalid("$schema", "the template has no '$schema'")
	}
	_, rest, _ := strings.Cut(t.Schema, "://")
	rest, ok = strings.CutPrefix(strings.ToLower(rest), schemaHost)
	_, file, _ := strings.Cut(rest, "/")
	if !ok || strings.TrimSuffix(file, "#") != "deploymenttemplate.json" {
		return invalid("$schema", "the schema '%s' is not supported: want https://%s2019-04-01/deploymentTemplate.json#, for a resource group", clip(t.Schema), schemaHost)
	}
	if t.ContentVersion, ok = version.(string); !ok || !isVersion(t.ContentVersion) {
		return invalid("contentVersion", "the template's 'contentVersion' is %s; want four numbers such as 1.0.0.0", show(version))
	}
	return nil
}

func isVersion(s string) bool {
	parts := strings.Split(s, ".")
	return len(parts) == 4 && !slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || len(p) > 9 || strings.Trim(p, "0123456789") != ""
	})
}

func section(doc map[string]any, name string, most int) (map[string]any, error) {
	v, ok := get(doc, name)
	if !ok || v == nil {
		return map[string]any{}, nil
	}
	m, ok := v.(map[string]any)
	switch {
	case !ok:
		return nil, invalid(name, "the template section '%s' is %s; want an object", name, kindOf(v))
	case len(m) > most:
		return nil, invalid(name, "the template section '%s' has %d members; at most %d", name, len(m), most)
	}
	return m, nil
}

func (t *Template) declare() error {
	all, err := section(t.doc, "parameters", MaxParameters)
	if err != nil {
		return err
	}
	for _, name := range keys(all) {
		p := parameter{name: name, bounds: map[string]int64{}}
		decl, ok := all[name].(map[string]any)
		if !ok {
			return invalid(p.path(), "the template parameter '%s' is %s; want an object", clip(name), kindOf(all[name]))
		}
		for _, m := range keys(decl) {
			v, at := decl[m], join(p.path(), m)
			switch fold := strings.ToLower(m); fold {
			case "type":
				s, _ := v.(string)
				if p.kind = strings.ToLower(s); !slices.Contains([]string{"string", "securestring", "int", "bool", "object", "secureobject", "array"}, p.kind) {
					return invalid(at, "the template parameter '%s' has the type %s; want string, securestring, int, bool, object, secureobject or array", clip(name), show(v))
				}
			case "defaultvalue":
				p.def, p.hasDef = v, true
			case "allowedvalues":
				if p.allowed, ok = v.([]any); !ok || len(p.allowed) == 0 {
					return invalid(at, "the allowed values of the template parameter '%s' are %s; want a list that is not empty", clip(name), kindOf(v))
				}
			case "minvalue", "maxvalue", "minlength", "maxlength":
				if p.bounds[fold], ok = v.(int64); !ok {
					return invalid(at, "'%s' of the template parameter '%s' is %s; want an integer", m, clip(name), kindOf(v))
				}
			case "metadata":
			default:
				return invalid(at, "the template parameter '%s' has the property '%s', which is not supported", clip(name), clip(m))
			}
		}
		if p.kind == "" {
			return invalid(p.path(), "the template parameter '%s' has no type", clip(name))
		}
		t.parameters = append(t.parameters, p)
	}
	return nil
}

// Kinds are the parameters and their types in lower case.
func (t *Template) Kinds() map[string]string {
	out := map[string]string{}
	for _, p := range t.parameters {
		out[p.name] = p.kind
	}
	return out
}

// Public is the template without what must not be kept: the default values of secure parameters.
func (t *Template) Public() map[string]any {
	doc := map[string]any{}
	for name, v := range t.doc {
		if strings.EqualFold(name, "parameters") && v != nil {
			kept := map[string]any{}
			for _, p := range t.parameters {
				decl := v.(map[string]any)[p.name].(map[string]any) // declare saw to that
				if p.secure() {
					open := map[string]any{}
					for m, d := range decl {
						if f := strings.ToLower(m); f != "defaultvalue" && f != "allowedvalues" {
							open[m] = d
						}
					}
					decl = open
				}
				kept[p.name] = decl
			}
			v = kept
		}
		doc[name] = v
	}
	return doc
}

// get finds a member; names have no case.
func get(m map[string]any, name string) (any, bool) {
	if v, ok := m[name]; ok {
		return v, true
	}
	for k, v := range m {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return nil, false
}

func keys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// kindOf names a value's type as Azure's messages do.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "Null"
	case string:
		return "String"
	case bool:
		return "Boolean"
	case int64:
		return "Integer"
	case Number:
		return "Float"
	case []any:
		return "Array"
	case map[string]any:
		return "Object"
	}
	return "Unknown"
}

// show writes a small value for a message.
func show(v any) string {
	if s, ok := v.(string); ok {
		return "'" + clip(s) + "'"
	}
	if _, ok := v.(int64); ok {
		return fmt.Sprint(v)
	}
	return kindOf(v)
}
