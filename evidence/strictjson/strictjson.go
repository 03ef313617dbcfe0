// Package strictjson reads JSON objects that come from strangers.
//
// encoding/json takes the last of two equal members, matches names without case, and replaces bytes that
// are not UTF-8. Two programs that read one document could so see two different ones. Here each of these
// is a refusal.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"cloister.dev/cloister/evidence"
)

// MaxDepth bounds nesting.
const MaxDepth = 32

// Object reads one object. At any depth, no member comes twice, also not in another case. Numbers are
// float64. What names the document in a refusal, which has the code refuse/parse.
func Object(what string, raw []byte) (map[string]any, error) { return object(what, raw, false) }

// ObjectWithNumbers is Object with numbers as json.Number, for documents that are passed on.
func ObjectWithNumbers(what string, raw []byte) (map[string]any, error) {
	return object(what, raw, true)
}

func object(what string, raw []byte, numbers bool) (map[string]any, error) {
	refuse := func(got string) error {
		return evidence.Refuse(evidence.CodeParse, what, got, "one JSON object, no member twice")
	}
	if !utf8.Valid(raw) {
		return nil, refuse("bytes that are not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if numbers {
		dec.UseNumber()
	}
	v, err := value(dec, 0)
	if err != nil {
		return nil, refuse(err.Error())
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, refuse("bytes after the object")
	}
	obj, ok := v.(map[string]any)
	if !ok {
		return nil, refuse(fmt.Sprintf("%T", v))
	}
	return obj, nil
}

func value(dec *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		return members(dec, depth)
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := value(dec, depth+1)
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

func members(dec *json.Decoder, depth int) (any, error) {
	obj, seen := map[string]any{}, map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("member name %v", key)
		}
		if folded := strings.ToLower(name); seen[folded] {
			return nil, fmt.Errorf("member %q twice", name)
		} else {
			seen[folded] = true
		}
		if obj[name], err = value(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return obj, err
}
