// Package strictjson reads JSON whose meaning must not depend on who reads it.
//
// encoding/json takes the last of two equal members, matches names without case and replaces bad UTF-8. Two
// readers could so see two documents in the same bytes. Here each of these is refused.
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

// Value reads one JSON value. Numbers are json.Number.
func Value(raw []byte) (any, error) {
	v, err := read(raw)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "JSON", err.Error(), "one value of valid UTF-8, no member twice, at most "+fmt.Sprint(MaxDepth)+" deep")
	}
	return v, nil
}

// Decode checks raw as Value does and stores it in into. Members that into does not know are ignored, as
// Azure's clients send members of later versions.
func Decode(raw []byte, into any) error {
	if _, err := Value(raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return evidence.Refuse(evidence.CodeParse, "JSON", err.Error(), fmt.Sprintf("the members of %T", into))
	}
	return nil
}

func read(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("invalid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := value(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("bytes after the value")
	}
	return v, nil
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
		return object(dec, depth)
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

func object(dec *json.Decoder, depth int) (any, error) {
	obj, seen := map[string]any{}, map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("member name %v", tok)
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
