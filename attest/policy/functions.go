package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jmespath/go-jmespath"
)

// call runs a function of version 1.2 of the language.
func call(name string, args []Value) (Value, error) {
	switch name {
	case "JmesPath":
		return jmesPath(args[0], args[1])
	case "JsonToClaimValue":
		s, ok := args[0].(string)
		if !ok {
			return nil, errors.New("the argument is no text")
		}
		return jsonValue(s)
	case "AppendString":
		a, okA := args[0].(string)
		b, okB := args[1].(string)
		if !okA || !okB {
			return nil, errors.New("an argument is no text")
		}
		if len(a)+len(b) > maxText {
			return nil, fmt.Errorf("more than %d bytes", maxText)
		}
		return a + b, nil
	case "NegateBool":
		b, ok := args[0].(bool)
		if !ok {
			return nil, errors.New("the argument is no boolean")
		}
		return !b, nil
	case "IsSubsetOf":
		whole := members(args[1])
		for _, v := range members(args[0]) {
			if !slices.Contains(whole, v) {
				return false, nil
			}
		}
		return true, nil
	case "ContainsOnlyValue":
		if _, isSet := args[1].(Set); isSet {
			return nil, errors.New("the second argument is a set")
		}
		set := members(args[0])
		for _, v := range set {
			if v != args[1] {
				return false, nil
			}
		}
		return len(set) > 0, nil // an empty set does not contain the value
	}
	return nil, fmt.Errorf("unknown function")
}

// jmesPath answers with the JSON text of the query's result.
func jmesPath(doc, query Value) (out Value, err error) {
	raw, okD := doc.(string)
	q, okQ := query.(string)
	switch {
	case !okD || !okQ:
		return nil, errors.New("an argument is no text")
	case len(raw) > maxText || len(q) > maxQuery:
		return nil, fmt.Errorf("more than %d bytes of JSON or %d of query", maxText, maxQuery)
	}
	var v any
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	defer func() { // the query comes from a stored policy, but must never take the service down
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("the query failed: %v", r)
		}
	}()
	if _, err := growth(q, len(raw)); err != nil {
		return nil, err
	}
	found, err := jmespath.Search(q, v)
	if err != nil {
		return nil, err
	}
	if sized(found, maxText) < 0 {
		return nil, fmt.Errorf("a result of more than %d bytes", maxText)
	}
	text, err := json.Marshal(found)
	if err != nil {
		return nil, err
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("a result of more than %d bytes", maxText)
	}
	return string(text), nil
}
