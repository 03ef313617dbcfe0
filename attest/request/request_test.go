package request

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

func url64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
func std64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func text(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func snp(encode func(string) string) map[string]any {
	return map[string]any{
		"report":       encode(`{"SnpReport":"` + encode("report?>") + `","VcekCertChain":"` + encode("chain") + `"}`),
		"runtimeData":  map[string]any{"data": encode(`{"keys":[],"n":9007199254740993}`), "dataType": "JSON"},
		"initTimeData": map[string]any{"data": encode("bytes"), "dataType": "Binary"},
		"nonce":        "n",
	}
}

func TestSevSnpVM(t *testing.T) {
	for name, encode := range map[string]func(string) string{"base64url": url64, "base64": std64} {
		got, err := ParseSevSnpVM([]byte(text(t, snp(encode))))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(got.Report) != "report?>" || string(got.Chain) != "chain" || got.Nonce != "n" || got.Runtime.Object["n"] != json.Number("9007199254740993") || got.InitTime.Object != nil || string(got.InitTime.Raw) != "bytes" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	change := func(name string, v any) string {
		m := snp(url64)
		if v == nil {
			delete(m, name)
		} else {
			m[name] = v
		}
		return text(t, m)
	}
	if got, err := ParseSevSnpVM([]byte(change("nonce", 12345))); err != nil || got.Nonce != "12345" {
		t.Errorf("a nonce that is a number: %v, %v", got, err)
	}
	if got, err := ParseSevSnpVM([]byte(change("runtimeData", nil))); err != nil || got.Runtime != nil {
		t.Errorf("no runtime data: %v, %v", got, err)
	}
	good := text(t, snp(url64))
	for name, body := range map[string]string{
		"empty":                                "",
		"cut":                                  good[:len(good)-1],
		"no report":                            change("report", nil),
		"report is no base64":                  change("report", "%%%"),
		"report is raw":                        change("report", url64("\x02\x00")),
		"report without chain":                 change("report", url64(`{"SnpReport":"AA"}`)),
		"empty report inside":                  change("report", url64(`{"SnpReport":"","VcekCertChain":"AA"}`)),
		"report with a line break":             change("report", "AA\nAA"),
		"report of another type":               change("report", 7),
		"runtime data is a text":               change("runtimeData", "AA"),
		"runtime data is no JSON":              change("runtimeData", map[string]any{"data": url64("x"), "dataType": "JSON"}),
		"runtime data is an array":             change("runtimeData", map[string]any{"data": url64("[]"), "dataType": "JSON"}),
		"runtime data without type":            change("runtimeData", map[string]any{"data": url64("{}")}),
		"runtime data of an unknown type":      change("runtimeData", map[string]any{"data": url64("{}"), "dataType": "XML"}),
		"SVC-20 runtime data with a key twice": change("runtimeData", map[string]any{"data": url64(`{"keys":[],"keys":[1]}`), "dataType": "JSON"}),
		"SVC-20 two nonces":                    strings.Replace(good, "{", `{"nonce":"m",`, 1),
		"SVC-20 Nonce beside nonce":            strings.Replace(good, "{", `{"Nonce":"m",`, 1),
		"SVC-20 two reports inside":            change("report", url64(`{"SnpReport":"AA","SnpReport":"AB","VcekCertChain":"AA"}`)),
		"SVC-18 giant chain":                   change("report", url64(`{"SnpReport":"AA","VcekCertChain":"`+strings.Repeat("A", 200<<10)+`"}`)),
		"giant nonce":                          change("nonce", strings.Repeat("a", 2000)),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseSevSnpVM([]byte(body)); evidence.CodeOf(err) != evidence.CodeParse || got != nil {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func guest() map[string]any {
	digest := std64(strings.Repeat("d", 32))
	return map[string]any{
		"AttestationProtocolVersion": "2.0", "OSType": std64("Linux"), "OSDistro": std64("Debian"), "OSBuild": std64("x"), "OSVersionMajor": 12, "OSVersionMinor": "5",
		"TcgLogs": std64("log"), "ClientPayload": map[string]any{"nonce": std64("n")},
		"TpmInfo": map[string]any{"AikCert": "", "AikPub": std64("ak"), "PcrQuote": std64("q"), "PcrSignature": std64("s"),
			"EncKeyPub": std64("e"), "EncKeyCertifyInfo": std64("c"), "EncKeyCertifyInfoSignature": std64("cs"),
			"PcrSet": []any{0, 7}, "PCRs": []any{map[string]any{"Index": 0, "Digest": digest}, map[string]any{"Index": 7, "Digest": digest}}},
		"IsolationInfo": map[string]any{"Type": "SevSnp", "Evidence": map[string]any{
			"Proof": std64(`{"SnpReport":"` + url64("r") + `","VcekCertChain":"` + url64("c") + `"}`), "RunTimeData": std64(`{"keys":[]}`)}},
	}
}

func wrap(t testing.TB, g map[string]any, name string) string {
	return text(t, map[string]any{name: url64(text(t, g))})
}

func TestGuest(t *testing.T) {
	for _, name := range []string{"AttestationInfo", "attestationInfo"} {
		got, err := ParseGuest([]byte(wrap(t, guest(), name)))
		if err != nil {
			t.Fatal(err)
		}
		if got.OSType != "Linux" || got.OSVersionMajor != 12 || got.OSVersionMinor != 5 || len(got.PCRs) != 2 || string(got.Report) != "r" || string(got.EncKeySignature) != "cs" || got.ClientPayload["nonce"] != std64("n") {
			t.Errorf("%+v", got)
		}
	}
	tpm := func(g map[string]any) map[string]any { return g["TpmInfo"].(map[string]any) }
	digest := std64(strings.Repeat("d", 32))
	for name, c := range map[string]struct {
		break_ func(map[string]any)
		code   evidence.Code
	}{
		"other protocol":        {func(g map[string]any) { g["AttestationProtocolVersion"] = "3.0" }, evidence.CodeUnsupported},
		"other isolation":       {func(g map[string]any) { g["IsolationInfo"].(map[string]any)["Type"] = "TrustedLaunch" }, evidence.CodeUnsupported},
		"no isolation":          {func(g map[string]any) { delete(g, "IsolationInfo") }, evidence.CodeParse},
		"no quote":              {func(g map[string]any) { delete(tpm(g), "PcrQuote") }, evidence.CodeParse},
		"no signature":          {func(g map[string]any) { tpm(g)["PcrSignature"] = "" }, evidence.CodeParse},
		"no key":                {func(g map[string]any) { delete(tpm(g), "AikPub") }, evidence.CodeParse},
		"ephemeral key in part": {func(g map[string]any) { delete(tpm(g), "EncKeyCertifyInfo") }, evidence.CodeParse},
		"no registers":          {func(g map[string]any) { tpm(g)["PCRs"] = []any{} }, evidence.CodeParse},
		"register 24":           {func(g map[string]any) { tpm(g)["PCRs"].([]any)[0].(map[string]any)["Index"] = 24 }, evidence.CodeParse},
		"register -1":           {func(g map[string]any) { tpm(g)["PCRs"].([]any)[0].(map[string]any)["Index"] = -1 }, evidence.CodeParse},
		"register twice":        {func(g map[string]any) { tpm(g)["PCRs"].([]any)[0].(map[string]any)["Index"] = 7 }, evidence.CodeParse},
		"TPM-12 a digest of 20 bytes": {func(g map[string]any) {
			tpm(g)["PCRs"].([]any)[0].(map[string]any)["Digest"] = std64(strings.Repeat("d", 20))
		}, evidence.CodeParse},
		"set and registers differ":  {func(g map[string]any) { tpm(g)["PcrSet"] = []any{0, 4} }, evidence.CodeParse},
		"set with a register twice": {func(g map[string]any) { tpm(g)["PcrSet"] = []any{0, 0} }, evidence.CodeParse},
		"set is smaller":            {func(g map[string]any) { tpm(g)["PcrSet"] = []any{0} }, evidence.CodeParse},
		"25 registers": {func(g map[string]any) {
			var l []any
			for i := range 25 {
				l = append(l, map[string]any{"Index": i, "Digest": digest})
			}
			tpm(g)["PCRs"] = l
		}, evidence.CodeParse},
		"payload is no base64":  {func(g map[string]any) { g["ClientPayload"] = map[string]any{"a": "%"} }, evidence.CodeParse},
		"payload is a number":   {func(g map[string]any) { g["ClientPayload"] = map[string]any{"a": 1} }, evidence.CodeParse},
		"payload is too long":   {func(g map[string]any) { g["ClientPayload"] = map[string]any{"a": strings.Repeat("A", 70<<10)} }, evidence.CodeParse},
		"version is a fraction": {func(g map[string]any) { g["OSVersionMajor"] = 1.5 }, evidence.CodeParse},
		"runtime data no JSON": {func(g map[string]any) {
			g["IsolationInfo"].(map[string]any)["Evidence"].(map[string]any)["RunTimeData"] = std64("x")
		}, evidence.CodeParse},
	} {
		t.Run(name, func(t *testing.T) {
			g := guest()
			c.break_(g)
			if got, err := ParseGuest([]byte(wrap(t, g, "AttestationInfo"))); evidence.CodeOf(err) != c.code || got != nil {
				t.Errorf("got %v, %v; want %s", got, err, c.code)
			}
		})
	}
	plain := guest()
	for _, n := range []string{"EncKeyPub", "EncKeyCertifyInfo", "EncKeyCertifyInfoSignature"} {
		delete(tpm(plain), n)
	}
	if got, err := ParseGuest([]byte(wrap(t, plain, "AttestationInfo"))); err != nil || got.EncKeyPublic != nil {
		t.Errorf("plain answer: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text(f, snp(url64))))
	f.Add([]byte(wrap(f, guest(), "AttestationInfo")))
	f.Add([]byte(fmt.Sprintf(`{"hclReport":%q,"chainPEM":"x","ekPublic":"AA==","akPublic":"AA=="}`, std64("x"))))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, e1 := ParseSevSnpVM(body)
		_, e2 := ParseGuest(body)
		_, e3 := ParseAK(body)
		for _, err := range []error{e1, e2, e3} {
			if err != nil && evidence.CodeOf(err) == "" {
				t.Fatalf("no refusal: %v", err)
			}
		}
	})
}
