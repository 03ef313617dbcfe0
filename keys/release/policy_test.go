package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

const issuer = "https://attest.cloister.test/soft"

func wrapPolicy(rule string) string {
	return `{"version":"1.0.0","anyOf":[{"authority":"` + issuer + `","allOf":[` + rule + `]}]}`
}

func TestParseRefuses(t *testing.T) {
	good := `{"claim":"a.b","equals":"x"}`
	for _, r := range []struct {
		name, in string
		want     evidence.Code
	}{
		{"one condition", wrapPolicy(good), ""},
		{"nested lists", wrapPolicy(`{"anyOf":[{"allOf":[` + good + `]},{"claim":"n","equals":1.5},{"claim":"t","equals":true}]}`), ""},
		{"operator greater", wrapPolicy(`{"claim":"a","greater":1}`), evidence.CodeUnsupported},
		{"an operator beside equals", wrapPolicy(`{"claim":"a","equals":1,"greater":1}`), evidence.CodeUnsupported},
		{"legacy names", wrapPolicy(`{"condition":"equals","claim":"a","value":"x"}`), evidence.CodeUnsupported},
		{"operand null", wrapPolicy(`{"claim":"a","equals":null}`), evidence.CodeParse},
		{"operand list", wrapPolicy(`{"claim":"a","equals":["x"]}`), evidence.CodeParse},
		{"operand object", wrapPolicy(`{"claim":"a","equals":{}}`), evidence.CodeParse},
		{"no operand", wrapPolicy(`{"claim":"a"}`), evidence.CodeParse},
		{"a number that float64 cannot hold", wrapPolicy(`{"claim":"a","equals":9007199254740993}`), evidence.CodeParse},
		{"no claim", wrapPolicy(`{"equals":"x"}`), evidence.CodeParse},
		{"an empty step", wrapPolicy(`{"claim":"a..b","equals":"x"}`), evidence.CodeParse},
		{"SVC-06 empty allOf", wrapPolicy(``), evidence.CodeParse},
		{"SVC-06 empty anyOf below", wrapPolicy(`{"anyOf":[]}`), evidence.CodeParse},
		{"allOf and anyOf", wrapPolicy(`{"allOf":[` + good + `],"anyOf":[` + good + `]}`), evidence.CodeParse},
		{"a condition beside a list", wrapPolicy(`{"anyOf":[` + good + `],"claim":"a","equals":"x"}`), evidence.CodeUnsupported},
		{"no version", strings.Replace(wrapPolicy(good), `"version":"1.0.0",`, "", 1), evidence.CodeUnsupported},
		{"version 2", strings.Replace(wrapPolicy(good), "1.0.0", "2.0.0", 1), evidence.CodeUnsupported},
		{"SVC-06 misspelt member", strings.Replace(wrapPolicy(good), `"anyOf"`, `"anyof"`, 1), evidence.CodeUnsupported},
		{"no authority", strings.Replace(wrapPolicy(good), `"authority":"`+issuer+`",`, "", 1), evidence.CodeParse},
		{"an empty list of authorities", `{"version":"1.0.0","anyOf":[]}`, evidence.CodeParse},
		{"an authority with a bare condition", `{"version":"1.0.0","anyOf":[{"authority":"` + issuer + `","claim":"a","equals":"x"}]}`, evidence.CodeParse},
		{"an authority with nothing", `{"version":"1.0.0","anyOf":[{"authority":"` + issuer + `"}]}`, evidence.CodeParse},
		{"SVC-20 a member twice", wrapPolicy(`{"claim":"a","claim":"b","equals":"x"}`), evidence.CodeParse},
		{"too deep", wrapPolicy(strings.Repeat(`{"anyOf":[`, 14) + good + strings.Repeat(`]}`, 14)), evidence.CodeParse},
		{"too large", wrapPolicy(good) + strings.Repeat(" ", MaxPolicySize), evidence.CodeParse},
		{"empty", "", evidence.CodeParse},
		{"a list", "[]", evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := Parse([]byte(r.in)); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want code %q", err, r.want)
			}
		})
	}
}

func TestEvaluate(t *testing.T) {
	claims := map[string]any{"s": "x", "n": 1.0, "b": false, "o": map[string]any{"in": "y", "l": []any{"z"}}, "dot.ted": "d", "empty": ""}
	soft := map[string]any{"s": "x", RootClaim: "software"}
	cond := func(claim, equals string) string { return `{"claim":"` + claim + `","equals":` + equals + `}` }
	for _, r := range []struct {
		name, rule string
		claims     map[string]any
		ok         bool
	}{
		{"a string", cond("s", `"x"`), claims, true},
		{"another string", cond("s", `"X"`), claims, false},
		{"a prefix", cond("s", `""`), claims, false},
		{"a number", cond("n", `1`), claims, true},
		{"a number written otherwise", cond("n", `1.0`), claims, true},
		{"a number as string", cond("n", `"1"`), claims, false},
		{"a boolean", cond("b", `false`), claims, true},
		{"a boolean as string", cond("b", `"false"`), claims, false},
		{"SVC-26 an absent claim is not false", cond("absent", `false`), claims, false},
		{"SVC-26 an absent claim is not empty", cond("absent", `""`), claims, false},
		{"an empty string", cond("empty", `""`), claims, true},
		{"a nested claim", cond("o.in", `"y"`), claims, true},
		{"a list is no string", cond("o.l", `"z"`), claims, false},
		{"an object is no string", cond("o", `"y"`), claims, false},
		{"a path through a string", cond("s.x", `"x"`), claims, false},
		{"a name with a dot cannot be addressed", cond("dot.ted", `"d"`), claims, false},
		{"all of two", cond("s", `"x"`) + "," + cond("n", `1`), claims, true},
		{"one of two fails", cond("s", `"x"`) + "," + cond("n", `2`), claims, false},
		{"any of two", `{"anyOf":[` + cond("s", `"q"`) + "," + cond("s", `"x"`) + `]}`, claims, true},
		{"none of two", `{"anyOf":[` + cond("s", `"q"`) + "," + cond("s", `"r"`) + `]}`, claims, false},
		{"SVC-22 the software root, named", cond(RootClaim, `"software"`), soft, true},
		{"SVC-22 the software root, not named", cond("s", `"x"`), soft, false},
		{"SVC-22 the software root, named in a branch that failed",
			`{"anyOf":[` + cond("s", `"x"`) + `,{"allOf":[` + cond(RootClaim, `"software"`) + "," + cond("s", `"q"`) + `]}]}`, soft, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			p, err := Parse([]byte(wrapPolicy(r.rule)))
			if err != nil {
				t.Fatal(err)
			}
			err = p.Evaluate(&token.Token{Issuer: issuer, Claims: r.claims})
			if (err == nil) != r.ok || (err != nil && evidence.CodeOf(err) != evidence.CodePolicy) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAuthority(t *testing.T) {
	p, err := Parse([]byte(wrapPolicy(`{"claim":"s","equals":"x"}`)))
	if err != nil {
		t.Fatal(err)
	}
	for iss, ok := range map[string]bool{
		issuer:                              true,
		issuer + "/":                        true,
		"HTTPS://Attest.Cloister.TEST/soft": true,
		"https://attest.cloister.test/Soft": false,
		issuer + "//":                       false,
		issuer + "ware":                     false,
		"https://attest.cloister.test":      false,
		"":                                  false,
	} {
		err := p.Evaluate(&token.Token{Issuer: iss, Claims: map[string]any{"s": "x"}})
		if (err == nil) != ok {
			t.Errorf("issuer %q: %v", iss, err)
		}
	}
}

func vectors(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("NOT TESTED against real evidence: %v; set CLOISTER_VECTORS", err)
	}
	return dir
}

// A real token and two real policies: only the one that is written for guests is met, and only at its time.
func TestRealPolicies(t *testing.T) {
	dir := vectors(t)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	guest, err := Parse(read("skr-release-policies/public_SKR_policy-datadisk.json"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := Parse(read("skr-release-policies/cvm-deployment-skr-policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(guest.Authorities()) != 26 || len(host.Authorities()) != 60 {
		t.Errorf("%d and %d authorities, want 26 and 60", len(guest.Authorities()), len(host.Authorities()))
	}
	a, err := token.NewAuthority(initdata.Service{URL: "https://sharedeus2.eus2.attest.azure.net", SigningKeys: []initdata.SigningKey{
		{KID: "J0pAPdfXXHqWWimgrH853wMIdh5/fLe1z6uSXYPXCa0=", PEM: string(read("maa-azureguest-jwt/signing-key.pem"))}}})
	if err != nil {
		t.Fatal(err)
	}
	jwt := strings.TrimSpace(string(read("maa-azureguest-jwt/token.jwt")))
	begin, end := time.Unix(1736697400, 0), time.Unix(1736726200, 0)
	tok, err := token.Verify(jwt, []token.Authority{a}, begin)
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.Evaluate(tok); err != nil {
		t.Errorf("the guests' policy: %v", err)
	}
	if err := host.Evaluate(tok); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("the hosts' policy: %v", err)
	}
	pub, kid, err := WrappingKey(tok)
	if err != nil || kid != "TpmEphemeralEncryptionKey" || pub.N.BitLen() != 2048 {
		t.Errorf("wrapping key %q: %v", kid, err)
	}
	for name, at := range map[string]time.Time{"before": begin.Add(-time.Second), "at its end": end, "today": time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)} {
		if _, err := token.Verify(jwt, []token.Authority{a}, at); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := token.Verify(jwt, []token.Authority{a}, end.Add(-time.Second)); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(wrapPolicy(`{"claim":"a","equals":"x"}`)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if p, err := Parse(in); err == nil {
			_ = p.Evaluate(&token.Token{Issuer: p.Authorities()[0]})
		}
	})
}
