package strictjson

import (
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestDecode(t *testing.T) {
	type inner struct {
		B int `json:"b,omitempty"`
	}
	type document struct {
		A    string           `json:"a"`
		List []inner          `json:"list"`
		One  *inner           `json:"one"`
		Map  map[string]inner `json:"map"`
		Not  string           `json:"-"`
		None string
	}
	var d document
	if err := Decode("x", []byte(`{"a":"v","list":[{"b":1}],"one":{"b":2},"map":{"Q":{"b":3}}}`), &d, "a document"); err != nil || d.A != "v" || d.List[0].B != 1 || d.One.B != 2 || d.Map["Q"].B != 3 {
		t.Fatalf("positive twin: %+v, %v", d, err)
	}
	for name, raw := range map[string]string{
		"SVC-20 another case, alone":         `{"A":"v"}`,
		"SVC-20 another case, in a list":     `{"list":[{"B":1}]}`,
		"SVC-20 another case, in an object":  `{"one":{"B":1}}`,
		"SVC-20 another case, in a map":      `{"map":{"q":{"B":1}}}`,
		"SVC-20 a letter that folds to one":  `{"liſt":[]}`,
		"SVC-20 an unknown member":           `{"c":1}`,
		"SVC-20 a member that is left out":   `{"Not":"x"}`,
		"SVC-20 a member without a tag":      `{"None":"x"}`,
		"SVC-20 a member twice":              `{"a":"v","a":"w"}`,
		"another type":                       `{"a":1}`,
		"an object in place of a text":       `{"a":{"b":1}}`,
		"a list":                             `[]`,
		"two objects":                        `{}{}`,
		"nothing":                            ``,
		"SVC-20 a member twice, cases apart": `{"a":"v","A":"w"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := Decode("x", []byte(raw), new(document), "a document"); evidence.CodeOf(err) != evidence.CodeParse {
				t.Errorf("got %v", err)
			}
		})
	}
}
