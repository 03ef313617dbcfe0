package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
)

// The issuers that a claim can have.
const (
	FromService = "AttestationService" // from evidence
	FromPolicy  = "AttestationPolicy"  // a copy that a rule made of another claim
	FromCustom  = "CustomClaim"        // made by a rule that names no issuer
)

// Value is a claim's value: string, int64, bool, or Set.
type Value any

// Set is a value of several texts, integers or booleans, as a JSON array gives.
type Set []Value

// Claim is one statement in the incoming, outgoing or property set.
type Claim struct {
	Type   string `json:"type"`
	Value  Value  `json:"value"`
	Issuer string `json:"issuer"`
}

// valueType names the type of a value as policies do. A set has the type of its members.
func valueType(v Value) string {
	switch v := v.(type) {
	case int64:
		return "Integer"
	case bool:
		return "Boolean"
	case Set:
		if len(v) > 0 {
			return valueType(v[0])
		}
	}
	return "String"
}

// members lists what tests look at: the members of a set, or the value itself.
func members(v Value) []Value {
	if s, ok := v.(Set); ok {
		return s
	}
	return []Value{v}
}

// Flatten turns the claims of a token into the incoming set. Members of nested objects get dotted
// types ("x-ms-isolation-tee.x-ms-attestation-type"); an array becomes a set, an array of objects one
// claim per member and object; null is no claim. A number that is no integer becomes its JSON text,
// since the language has no fractions.
func Flatten(claims map[string]any) []Claim {
	var out []Claim
	flatten(&out, "", claims)
	return out
}

func flatten(out *[]Claim, prefix string, object map[string]any) {
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		flattenValue(out, prefix+name, object[name])
	}
}

func flattenValue(out *[]Claim, name string, v any) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		flatten(out, name+".", v)
	case []any:
		var set Set
		for _, e := range v {
			if o, ok := e.(map[string]any); ok {
				flatten(out, name+".", o)
			} else if s, ok := scalar(e); ok {
				set = append(set, s)
			}
		}
		if len(set) > 0 {
			*out = append(*out, Claim{Type: name, Value: set, Issuer: FromService})
		}
	default:
		if s, ok := scalar(v); ok {
			*out = append(*out, Claim{Type: name, Value: s, Issuer: FromService})
		}
	}
}

// scalar maps a value of a decoded JSON document, or a Go integer, to a policy value.
func scalar(v any) (Value, bool) {
	switch v := v.(type) {
	case nil:
		return nil, false
	case string, bool, int64:
		return v, true
	case int:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint8:
		return int64(v), true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), true
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		return v.String(), true
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v), true
	}
	return string(raw), true
}

// Object turns issued claims into members of a token. Several claims of one type, and sets, become arrays.
func Object(claims []Claim) map[string]any {
	out := map[string]any{}
	for _, c := range claims {
		values := make([]any, 0, 1)
		for _, m := range members(c.Value) {
			values = append(values, m)
		}
		_, isSet := c.Value.(Set)
		switch have, there := out[c.Type].([]any); {
		case there:
			out[c.Type] = append(slices.Clone(have), values...)
		case out[c.Type] != nil:
			out[c.Type] = append([]any{out[c.Type]}, values...)
		case isSet:
			out[c.Type] = values
		default:
			out[c.Type] = values[0]
		}
	}
	return out
}
