package strictjson

import (
	"encoding/json"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestObject(t *testing.T) {
	if got, err := Object("x", []byte(` {"nonce":"a","b":[{"c":1.5},null,true]} `)); err != nil || got["nonce"] != "a" {
		t.Fatalf("twin: %v %v", got, err)
	}
	if got, err := ObjectWithNumbers("x", []byte(`{"n":9007199254740993}`)); err != nil || got["n"] != json.Number("9007199254740993") {
		t.Fatalf("number: %v %v", got, err)
	}
	for name, raw := range map[string]string{
		"empty": "", "array": "[]", "text": `"a"`, "cut": `{"a":1`, "two objects": "{}{}", "text behind": "{} x",
		"SVC-20 two nonces":              `{"nonce":"a","nonce":"a"}`,
		"SVC-20 two nonces inside":       `{"a":[{"nonce":"a","nonce":"b"}]}`,
		"SVC-20 another case":            `{"nonce":"a","Nonce":"b"}`,
		"SVC-20 escaped name":            `{"nonce":"a","\u006eonce":"b"}`,
		"SVC-20 deep nesting":            strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40),
		"SVC-20 deep arrays":             `{"a":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`,
		"SVC-20 invalid UTF-8":           "{\"a\":\"\xff\"}",
		"SVC-20 invalid UTF-8 in a name": "{\"\xff\":1}",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Object("x", []byte(raw)); evidence.CodeOf(err) != evidence.CodeParse || got != nil {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Object("x", raw)
		if err == nil && !json.Valid(raw) {
			t.Fatalf("accepted what is no JSON: %v", got)
		}
		if err != nil && evidence.CodeOf(err) != evidence.CodeParse {
			t.Fatal(err)
		}
	})
}
