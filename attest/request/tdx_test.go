package request

import (
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func TestTdxVM(t *testing.T) {
	body := func(change func(map[string]any)) []byte {
		m := map[string]any{"quote": url64("quote?>"), "runtimeData": map[string]any{"data": url64(`{"a":1}`), "dataType": "JSON"}, "initTimeData": map[string]any{"data": std64("bytes"), "dataType": "Binary"}, "nonce": 7}
		if change != nil {
			change(m)
		}
		return []byte(text(t, m))
	}
	got, err := ParseTdxVM(body(nil))
	if err != nil || string(got.Quote) != "quote?>" || string(got.Runtime.Raw) != `{"a":1}` || string(got.InitTime.Raw) != "bytes" || got.InitTime.Object != nil || got.Nonce != "7" {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, r := range map[string]struct {
		change func(map[string]any)
		code   evidence.Code
	}{
		"TDX-24 no quote":             {func(m map[string]any) { delete(m, "quote") }, evidence.CodeParse},
		"TDX-24 an empty quote":       {func(m map[string]any) { m["quote"] = "" }, evidence.CodeParse},
		"TDX-24 null":                 {func(m map[string]any) { m["quote"] = nil }, evidence.CodeParse},
		"a quote that is no base64":   {func(m map[string]any) { m["quote"] = "?" }, evidence.CodeParse},
		"TDX-25 a quote without end":  {func(m map[string]any) { m["quote"] = strings.Repeat("A", 4*maxQuote) }, evidence.CodeParse},
		"a draft policy":              {func(m map[string]any) { m["draftPolicyForAttestation"] = "x" }, evidence.CodeUnsupported},
		"SVC-20 runtime data twice":   {func(m map[string]any) { m["RuntimeData"] = m["runtimeData"] }, evidence.CodeParse},
		"runtime data that lie":       {func(m map[string]any) { m["runtimeData"] = map[string]any{"data": url64("x"), "dataType": "JSON"} }, evidence.CodeParse},
		"runtime data without a type": {func(m map[string]any) { m["runtimeData"] = map[string]any{"data": url64("{}")} }, evidence.CodeParse},
	} {
		if got, err := ParseTdxVM(body(r.change)); got != nil && err == nil || evidence.CodeOf(err) != r.code {
			t.Errorf("%s: %v, %v; want %s", name, got, err, r.code)
		}
	}
}

func FuzzParseTdxVM(f *testing.F) {
	f.Add([]byte(`{"quote":"AAAA","runtimeData":{"data":"e30","dataType":"JSON"},"nonce":1}`))
	f.Add([]byte(`{"quote":""}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := ParseTdxVM(raw); err == nil && len(got.Quote) == 0 {
			t.Error("no quote, and no refusal")
		}
	})
}
