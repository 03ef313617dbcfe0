package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
)

// maxDepth bounds nesting in a token's claims.
const maxDepth = 32

// strictObject reads a JSON object in which no member comes twice, at any depth.
func strictObject(raw []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	v, err := strictValue(dec, 0)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "token claims", err.Error(), "a JSON object without repeated members")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, evidence.Refuse(evidence.CodeParse, "token claims", "bytes after the object", "one JSON object")
	}
	obj, ok := v.(map[string]any)
	if !ok {
		return nil, evidence.Refuse(evidence.CodeParse, "token claims", fmt.Sprintf("%T", v), "a JSON object")
	}
	return obj, nil
}

func strictValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	switch delim {
	case '{':
		obj := map[string]any{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name, ok := key.(string)
			if !ok {
				return nil, fmt.Errorf("member name %v", key)
			}
			if _, twice := obj[name]; twice {
				return nil, fmt.Errorf("member %q twice", name)
			}
			if obj[name], err = strictValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return obj, err
	case '[':
		list := []any{}
		for dec.More() {
			v, err := strictValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = dec.Token()
		return list, err
	}
	return nil, fmt.Errorf("unexpected %v", delim)
}
