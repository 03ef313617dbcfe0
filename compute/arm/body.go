package arm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxBody bounds a request's body, in bytes; MaxDepth its nesting.
const (
	MaxBody  = 4 << 20
	MaxDepth = 32
)

// Parse reads a JSON object strictly: valid UTF-8, no member twice (names have no case), bounded depth, nothing
// after the end.
func Parse(raw []byte) (map[string]any, error) {
	bad := func(why string) error {
		return Errorf(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: %s.", why)
	}
	if !utf8.Valid(raw) {
		return nil, bad("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err != nil {
		return nil, bad(err.Error())
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, bad("text after the object")
	}
	obj, ok := v.(map[string]any)
	if !ok {
		return nil, bad("want a JSON object")
	}
	return obj, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		if err == io.EOF {
			return nil, fmt.Errorf("it ends too early")
		}
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		obj, folded := map[string]any{}, map[string]bool{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name := key.(string) // the decoder allows nothing else here
			if folded[strings.ToLower(name)] {
				return nil, fmt.Errorf("member %q comes twice", name)
			}
			folded[strings.ToLower(name)] = true
			if obj[name], err = parseValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return obj, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = dec.Token()
		return list, err
	}
	return tok, nil
}

// Shape says which members a body may have. Member names have no case; the spelling here is the one kept.
type Shape map[string]Rule

// Rule says what one member may be.
type Rule struct {
	kind  kind
	shape Shape
	words []string
}

type kind int

const (
	text kind = iota
	number
	flag
	object
	list
	words
	free
	readOnly
)

// The rules.
var (
	Text     = Rule{kind: text}
	Number   = Rule{kind: number}
	Flag     = Rule{kind: flag}
	Free     = Rule{kind: free}     // anything, kept as it is
	ReadOnly = Rule{kind: readOnly} // what answers hold and clients send back; ignored
)

// Object is a member with members.
func Object(s Shape) Rule { return Rule{kind: object, shape: s} }

// List is a list of objects.
func List(s Shape) Rule { return Rule{kind: list, shape: s} }

// OneOf is a word of a closed set. Case does not matter; the spelling here is the one kept.
func OneOf(allowed ...string) Rule { return Rule{kind: words, words: allowed} }

// Decode reads a body into a wire struct. Nulls, empty words, lists and objects count as absent. A member that
// the shape does not have is accepted when its value is harmless (false or absent), and otherwise refused by
// name. All problems are reported at once.
func Decode(raw []byte, s Shape, into any) error {
	obj, err := Parse(raw)
	if err != nil {
		return err
	}
	clean, problems := s.clean(obj, "")
	if err := Violations(http.StatusBadRequest, problems); err != nil {
		return err
	}
	text, err := json.Marshal(clean)
	if err != nil {
		return fmt.Errorf("rewriting a request body: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return Errorf(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: %s.", err)
	}
	return nil
}

func (s Shape) clean(obj map[string]any, at string) (map[string]any, []Detail) {
	out := map[string]any{}
	var problems []Detail
	for _, name := range sorted(obj) {
		v := obj[name]
		canon, rule, known := s.find(name)
		target := strings.TrimPrefix(at+"."+canon, ".")
		switch {
		case !known && !harmless(v):
			problems = append(problems, Detail{Code: "InvalidParameter", Message: fmt.Sprintf("Property '%s' is not supported here.", target), Target: target})
		case !known || rule.kind == readOnly:
		case rule.kind == free:
			if v != nil {
				out[canon] = v
			}
		case absent(v):
		default:
			cleaned, bad := rule.clean(v, target)
			problems = append(problems, bad...)
			out[canon] = cleaned
		}
	}
	return out, problems
}

func (r Rule) clean(v any, at string) (any, []Detail) {
	wrong := func(want string) (any, []Detail) {
		return nil, []Detail{{Code: "InvalidParameter", Message: fmt.Sprintf("Property '%s' is %s; want %s.", at, describe(v), want), Target: at}}
	}
	switch r.kind {
	case text:
		if _, ok := v.(string); !ok {
			return wrong("a string")
		}
	case flag:
		if _, ok := v.(bool); !ok {
			return wrong("true or false")
		}
	case number:
		n, ok := v.(json.Number)
		if !ok {
			return wrong("a number")
		}
		whole := strings.TrimSuffix(n.String(), ".0") // some clients write 4.0
		if _, err := json.Number(whole).Int64(); err != nil {
			return wrong("a whole number")
		}
		return json.Number(whole), nil
	case object:
		obj, ok := v.(map[string]any)
		if !ok {
			return wrong("an object")
		}
		return r.shape.clean(obj, at)
	case list:
		items, ok := v.([]any)
		if !ok {
			return wrong("a list")
		}
		out := make([]any, 0, len(items))
		var problems []Detail
		for i, item := range items {
			where := fmt.Sprintf("%s[%d]", at, i)
			obj, ok := item.(map[string]any)
			if !ok {
				problems = append(problems, Detail{Code: "InvalidParameter", Message: fmt.Sprintf("Property '%s' is %s; want an object.", where, describe(item)), Target: where})
				continue
			}
			cleaned, bad := r.shape.clean(obj, where)
			problems = append(problems, bad...)
			out = append(out, cleaned)
		}
		return out, problems
	case words:
		word, ok := v.(string)
		if ok {
			for _, w := range r.words {
				if strings.EqualFold(w, word) {
					return w, nil
				}
			}
		}
		return nil, []Detail{{Code: "InvalidParameter", Message: fmt.Sprintf("The value %s of property '%s' is not allowed. Allowed values are: %s.", describe(v), at, strings.Join(r.words, ", ")), Target: at}}
	}
	return v, nil
}

func (s Shape) find(name string) (string, Rule, bool) {
	if r, ok := s[name]; ok {
		return name, r, true
	}
	for canon, r := range s {
		if strings.EqualFold(canon, name) {
			return canon, r, true
		}
	}
	return name, Rule{}, false
}

// absent tells the values that stand for "not given".
func absent(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return false // an empty list may mean "none", which a PATCH tells from "unchanged"
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// harmless tells the values that change nothing: absent ones, false, and what is made of those.
func harmless(v any) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case []any:
		return !slices.ContainsFunc(v, func(x any) bool { return !harmless(x) })
	case map[string]any:
		for _, x := range v {
			if !harmless(x) {
				return false
			}
		}
		return true
	}
	return absent(v)
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) > 100 {
			v = v[:100] + "…"
		}
		return "'" + v + "'"
	case json.Number:
		return v.String()
	case bool:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "null"
}

func sorted(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
