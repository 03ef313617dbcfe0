package hcl

import (
	"bytes"
	"encoding/json"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// member is a name with its value as it came.
type member struct {
	name string
	raw  json.RawMessage
}

// split takes an object apart, in order.
func split(what string, raw []byte) ([]member, error) {
	refuse := func(got string) ([]member, error) {
		return nil, evidence.Refuse(evidence.CodeParse, what, got, "one JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return refuse("something else")
	}
	var out []member
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return refuse(err.Error())
		}
		name, ok := tok.(string)
		if !ok {
			return refuse("a name that is not a string")
		}
		var m json.RawMessage
		if err := dec.Decode(&m); err != nil {
			return refuse(err.Error())
		}
		out = append(out, member{name, m})
	}
	if _, err := dec.Token(); err != nil {
		return refuse(err.Error())
	}
	return out, nil
}

// fill puts members in their places and gives back those that have none. It notes in came which had.
func fill(what string, members []member, fields []field, came map[string]bool) ([]member, error) {
	places := map[string]any{}
	for _, f := range fields {
		places[f.name] = f.to
	}
	var extra []member
	for _, m := range members {
		to, known := places[m.name]
		if !known {
			extra = append(extra, m)
			continue
		}
		if err := decode(what+" "+m.name, m.raw, to); err != nil {
			return nil, err
		}
		came[m.name] = true
	}
	return extra, nil
}

// decode reads one value; null is not a value here.
func decode(what string, raw json.RawMessage, to any) error {
	if bytes.Equal(raw, []byte("null")) {
		return evidence.Refuse(evidence.CodeParse, "runtime claims "+what, "null", "a value")
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return evidence.Refuse(evidence.CodeParse, "runtime claims "+what, err.Error(), "a value of the right type")
	}
	return nil
}

// writer writes a compact object, member by member, without escaping for HTML.
type writer struct {
	buf bytes.Buffer
	err error
}

func (w *writer) add(name string, v any) {
	if w.err != nil {
		return
	}
	if w.buf.Len() > 0 {
		w.buf.WriteByte(',')
	}
	if w.err = w.encode(name); w.err != nil {
		return
	}
	w.buf.WriteByte(':')
	w.err = w.encode(v)
}

func (w *writer) addRaw(members []member) {
	for _, m := range members {
		w.add(m.name, m.raw)
	}
}

func (w *writer) encode(v any) error {
	enc := json.NewEncoder(&w.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	w.buf.Truncate(w.buf.Len() - 1) // the encoder's newline
	return nil
}

func (w *writer) bytes(what string) ([]byte, error) {
	if w.err != nil {
		return nil, fmt.Errorf("writing %s: %w", what, w.err)
	}
	return append(append([]byte{'{'}, w.buf.Bytes()...), '}'), nil
}
