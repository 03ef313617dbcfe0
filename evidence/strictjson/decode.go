package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Decode reads one object into a struct as Object would, and takes only members of the struct, spelled as its json tags
// spell them: encoding/json also takes them in another case. Maps keep whatever members they have. want says in a
// refusal what document it should be.
func Decode(what string, raw []byte, to any, want string) error {
	obj, err := Object(what, raw)
	if err != nil {
		return err
	}
	if err := exact(what, obj, reflect.TypeOf(to)); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return evidence.Refuse(evidence.CodeParse, what, err.Error(), want)
	}
	return nil
}

// exact walks value and type side by side.
func exact(path string, v any, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			if t.Kind() == reflect.Map {
				for name, member := range v {
					if err := exact(path+"."+name, member, t.Elem()); err != nil {
						return err
					}
				}
			}
			return nil
		}
		known := map[string]reflect.Type{}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name != "" && name != "-" {
				known[name] = t.Field(i).Type
			}
		}
		for name, member := range v {
			field, ok := known[name]
			if !ok {
				return evidence.Refuse(evidence.CodeParse, path, fmt.Sprintf("member %.64q", name), "members of the document, spelled exactly")
			}
			if err := exact(path+"."+name, member, field); err != nil {
				return err
			}
		}
	case []any:
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			for _, e := range v {
				if err := exact(path, e, t.Elem()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
