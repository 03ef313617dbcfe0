package strictjson

import (
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestDecode(t *testing.T) {
	for _, r := range []struct {
		name, in string
		ok       bool
	}{
		{"an object", `{"nonce":"a","other":[1,{"x":null}]}`, true},
		{"the same name in two objects", `[{"a":1},{"a":2}]`, true},
		{"SVC-20 a member twice", `{"nonce":"a","nonce":"b"}`, false},
		{"SVC-20 twice but for case", `{"nonce":"a","Nonce":"b"}`, false},
		{"SVC-20 twice below", `{"x":{"a":1,"a":1}}`, false},
		{"SVC-20 invalid UTF-8", "{\"nonce\":\"\xff\"}", false},
		{"SVC-20 deep nesting", strings.Repeat("[", 100) + strings.Repeat("]", 100), false},
		{"two values", `{} {}`, false},
		{"cut", `{"nonce":`, false},
		{"empty", ``, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			var v any
			err := Decode([]byte(r.in), &v)
			if (err == nil) != r.ok || (err != nil && evidence.CodeOf(err) != evidence.CodeParse) {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":[1,"x"]}`))
	f.Fuzz(func(t *testing.T, in []byte) { var v any; _ = Decode(in, &v) })
}
