package launch

import (
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestParseExpectedIsStrict(t *testing.T) {
	value, other := strings.Repeat("cd", 32), strings.Repeat("ef", 32)
	good := `{"version":"cloister.expect/1","kind":"sevsnpvm","roots":["software"],"measurement":["` + strings.Repeat("ab", 48) + `"],"hostData":"` + value + `","pcrs":{"4":"` + value + `"},"events":[]}`
	if _, err := ParseExpected([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"SVC-20 a member twice":                      {`"kind"`, `"hostData":"` + other + `","kind"`},
		"SVC-20 a member in another case":            {`"kind"`, `"HOSTDATA":"` + other + `","kind"`},
		"SVC-20 a PCR twice":                         {`"pcrs":{`, `"pcrs":{"4":"` + other + `",`},
		"SVC-20 a lone member in another case":       {`"hostData"`, `"HostData"`},
		"SVC-20 a lone event member in another case": {`"events":[]`, `"events":[{"PCR":4}]`},
		"SVC-22 a root nobody knows":                 {`"software"`, `"nobody"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseExpected([]byte(strings.Replace(good, edit[0], edit[1], 1))); evidence.CodeOf(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}
