package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
)

var schema = Schema{Known: []string{"secureBootEnabled", "x-ms-sevsnpvm-vmpl", "x-ms-sevsnpvm-is-debuggable", "x-ms-sevsnpvm-hostdata", "pcrs", "events",
	"$is-debuggable", "$sgx-mrsigner", "$sgx-mrenclave", "$product-id", "$svn", "$tee"}, Open: []string{"x-ms-runtime."}, Properties: []string{"report_validity_in_minutes", "omit_x5c"}}

func claims() []Claim {
	return Flatten(map[string]any{
		"secureBootEnabled": true, "x-ms-sevsnpvm-vmpl": 0, "x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-hostdata": "aa",
		"pcrs": []any{0, 4, 7}, "x-ms-runtime": map[string]any{"user": map[string]any{"name": "web"}, "keys": []any{map[string]any{"kid": "a"}, map[string]any{"kid": "b"}}},
		"events": `{"Events":[{"n":1,"ok":true},{"n":2,"ok":false}],"none":null,"half":1.5}`,
	})
}

func vectors(t testing.TB) string {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	dir = filepath.Join(dir, "maa-policies")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	return dir
}

func TestVectors(t *testing.T) {
	dir := vectors(t)
	raw, err := os.ReadFile(filepath.Join(dir, "policy-hashes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var hashes map[string]map[string]string
	if err := json.Unmarshal(raw, &hashes); err != nil {
		t.Fatal(err)
	}
	permits := map[string]bool{"add.custom.claim.txt": true, "permit.secure.boot.txt": true, "sevsnpvm.permit.all.txt": true, "sgx.default.2021.txt": true}
	for name, want := range hashes {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := Hash(string(text)); got != want["x-ms-policy-hash"] {
				t.Errorf("hash %s, want %s", got, want["x-ms-policy-hash"])
			}
			p, err := Parse(string(text))
			if err != nil {
				t.Fatal(err)
			}
			out, err := p.Evaluate(claims(), schema)
			if (err == nil) != permits[name] {
				t.Fatalf("permitted %v, want %v (%v)", err == nil, permits[name], err)
			}
			if name == "add.custom.claim.txt" && Object(out.Issued)["SecurityLevelValue"] != int64(100) {
				t.Errorf("issued %v", out.Issued)
			}
		})
	}
}

func auth(version, rules string) string {
	return "version=" + version + ";\nauthorizationrules{\n" + rules + "\n};"
}

func TestEvaluate(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		permit       bool
	}{
		{"SVC-06 no rule at all", "version=1.0;", false},
		{"SVC-06 empty section", auth("1.0", ""), false},
		{"SVC-06 no rule matches", auth("1.0", `[type=="secureBootEnabled", value==false] => permit();`), false},
		{"SVC-06 twin: the rule matches", auth("1.0", `[type=="secureBootEnabled", value==true] => permit();`), true},
		{"SVC-06 text is not boolean", auth("1.0", `[type=="secureBootEnabled", value=="true"] => permit();`), false},
		{"SVC-06 two results, deny wins before", auth("1.0", `=> deny(); => permit();`), false},
		{"SVC-06 two results, deny wins behind", auth("1.0", `=> permit(); => deny();`), false},
		{"deny that does not match", auth("1.0", `[type=="x-ms-sevsnpvm-is-debuggable", value==true] => deny(); => permit();`), true},
		{"each bracket on its own", auth("1.0", `c:[type=="x-ms-sevsnpvm-is-debuggable"] && [value==true] => deny(); => permit();`), false},
		{"claim of another issuer", auth("1.0", `[type=="secureBootEnabled", issuer=="AttestationPolicy"] => permit();`), false},
		{"single equals sign", auth("1.0", `[type="secureBootEnabled"] => permit();`), true},
		{"comments and blanks", auth("1.0", "// a comment\n[ type == \"secureBootEnabled\" ]\t=> permit ( ) ; // end"), true},
		{"order", auth("1.0", `[type=="x-ms-sevsnpvm-vmpl", value < 1] => permit();`), true},
		{"order not met", auth("1.0", `[type=="x-ms-sevsnpvm-vmpl", value >= 1] => permit();`), false},
		{"value before type is no error", auth("1.0", `[value < 1, type=="x-ms-sevsnpvm-vmpl"] => permit();`), true},
		{"SVC-07 order of a text is an error, whatever was permitted", auth("1.0", `=> permit(); [type=="x-ms-sevsnpvm-hostdata", value < 1] => deny();`), false},
		{"value type", auth("1.0", `[type=="x-ms-sevsnpvm-vmpl", valueType=="Integer"] => permit();`), true},
		{"value type not met", auth("1.0", `[type=="x-ms-sevsnpvm-vmpl", valueType=="String"] => permit();`), false},
		{"not equal", auth("1.0", `[type=="x-ms-sevsnpvm-hostdata", value!="bb"] => permit();`), true},
		{"no such claim", auth("1.2", `![type=="x-ms-runtime.extra"] => permit();`), true},
		{"no such claim, but there is", auth("1.2", `![type=="x-ms-runtime.user.name"] => permit();`), false},
		{"nested claim", auth("1.0", `[type=="x-ms-runtime.user.name", value=="web"] => permit();`), true},
		{"claims of objects in an array", auth("1.0", `[type=="x-ms-runtime.keys.kid", value=="b"] => permit();`), true},
		{"member of a set", auth("1.0", `[type=="pcrs", value==7] => permit();`), true},
		{"no member of a set", auth("1.0", `[type=="pcrs", value==5] => permit();`), false},
		{"added claim is seen later", auth("1.0", `=> add(type="a", value=1); [type=="a", value==1] => permit();`), true},
		{"added claim is not the service's", auth("1.0", `=> add(type="secureBootEnabled", value="x"); [type=="secureBootEnabled", value=="x", issuer=="AttestationService"] => permit();`), false},
		{"copied claim is not the service's", auth("1.0", `c:[type=="pcrs"] => add(claim=c); [type=="pcrs", issuer=="AttestationPolicy", value==4] => permit();`), true},
		{"two names compared", auth("1.0", `a:[type=="x-ms-sevsnpvm-hostdata"] && b:[value==a.value, issuer!="x"] => permit();`), true},
		{"JmesPath to boolean", auth("1.2", `c:[type=="events"] => add(type="ok", value=JsonToClaimValue(JmesPath(c.value, "Events[?n == `+"`1`"+`].ok | [0]"))); [type=="ok", value==true] => permit();`), true},
		{"JmesPath to another boolean", auth("1.2", `c:[type=="events"] => add(type="ok", value=JsonToClaimValue(JmesPath(c.value, "Events[?n == `+"`2`"+`].ok | [0]"))); [type=="ok", value==true] => permit();`), false},
		{"JSON null does nothing", auth("1.2", `c:[type=="events"] => add(type="n", value=JsonToClaimValue(JmesPath(c.value, "none"))); ![type=="n"] => permit();`), true},
		{"SVC-07 JSON fraction is an error", auth("1.2", `=> permit(); c:[type=="events"] => add(type="n", value=JsonToClaimValue(JmesPath(c.value, "half")));`), false},
		{"SVC-07 JSON object is an error", auth("1.2", `=> permit(); c:[type=="events"] => add(type="n", value=JsonToClaimValue(c.value));`), false},
		{"SVC-07 bad query", auth("1.2", `=> permit(); c:[type=="events"] => add(type="n", value=JmesPath(c.value, "["));`), false},
		{"SVC-07 function of another type", auth("1.2", `=> permit(); c:[type=="pcrs"] => add(type="n", value=NegateBool(c.value));`), false},
		{"NegateBool, AppendString", auth("1.2", `c:[type=="x-ms-sevsnpvm-is-debuggable"] && d:[type=="x-ms-sevsnpvm-hostdata", value=="aa"] => add(type=AppendString("n","x"), value=NegateBool(c.value)); [type=="nx", value==true] => permit();`), true},
		{"IsSubsetOf", auth("1.2", `a:[type=="pcrs"] => add(type="s", value=IsSubsetOf(JsonToClaimValue("[4,7]"), a.value)); [type=="s", value==true] => permit();`), true},
		{"IsSubsetOf not", auth("1.2", `a:[type=="pcrs"] => add(type="s", value=IsSubsetOf(JsonToClaimValue("[4,8]"), a.value)); [type=="s", value==true] => permit();`), false},
		{"ContainsOnlyValue", auth("1.2", `=> add(type="s", value=ContainsOnlyValue(JsonToClaimValue("[4,4]"), 4)); [type=="s", value==true] => permit();`), true},
		{"ContainsOnlyValue not", auth("1.2", `=> add(type="s", value=ContainsOnlyValue(JsonToClaimValue("[4,5]"), 4)); [type=="s", value==true] => permit();`), false},
		{"ContainsOnlyValue of nothing", auth("1.2", `=> add(type="s", value=ContainsOnlyValue(JsonToClaimValue("[]"), 4)); [type=="s", value==true] => permit();`), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.policy)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Evaluate(claims(), schema)
			if (err == nil) != c.permit {
				t.Fatalf("permitted %v, want %v (%v)", err == nil, c.permit, err)
			}
			if err != nil && evidence.CodeOf(err) != evidence.CodePolicy {
				t.Errorf("code of %v", err)
			}
		})
	}
	if out, err := (&Policy{}).Evaluate(claims(), schema); err == nil {
		t.Errorf("the zero policy permitted: %v", out)
	}
}

func TestEndlessWork(t *testing.T) {
	var many []Claim
	for i := range 2000 {
		many = append(many, Claim{Type: "a", Value: int64(i), Issuer: FromService})
	}
	p, err := Parse(auth("1.0", `=> permit(); a:[type=="a"] && b:[type=="a"] && c:[type=="a"] && d:[type=="a"] => deny();`))
	if err != nil {
		t.Fatal(err)
	}
	p2, _ := Parse(auth("1.0", `=> permit(); a:[type=="a"] => add(type="b", value=a.value); a:[type=="b"] => add(type="b", value=1); a:[type=="b"] => add(type="b", value=1); a:[type=="b"] => add(type="b", value=1);`))
	for _, p := range []*Policy{p, p2} {
		if _, err := p.Evaluate(many, Schema{}); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("SVC-07: endless work gave %v", err)
		}
	}
	if _, err := p2.Evaluate(many[:3], Schema{}); err != nil {
		t.Errorf("SVC-07 twin: %v", err)
	}
}

func TestIssue(t *testing.T) {
	p, err := Parse(`version=1.1;configurationrules{=> issueproperty(type="omit_x5c", value=true);};authorizationrules{=>permit();};
issuancerules{ c:[type=="pcrs"] => issue(type="my-pcrs", value=c.value); => issue(type="n", value=1); => issue(type="n", value=2);
=> issue(type="t", value="x", issuer="me"); [type=="t", issuer=="me"] => issue(type="seen", value=true); => add(type="quiet", value=1);
=> issueproperty(type="report_validity_in_minutes", value=60); };`)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(schema); err != nil {
		t.Fatal(err)
	}
	out, err := p.Evaluate(claims(), schema)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(Object(out.Issued))
	if want := `{"my-pcrs":[0,4,7],"n":[1,2],"seen":true,"t":"x"}`; string(got) != want {
		t.Errorf("issued %s, want %s", got, want)
	}
	if len(out.Properties) != 2 || out.Properties[1].Value != int64(60) {
		t.Errorf("properties %v", out.Properties)
	}
}

func TestParseRefuses(t *testing.T) {
	good := auth("1.0", `c:[type=="a"] => permit();`)
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ policy, at string }{
		"empty":                     {"", "line 1 column 1"},
		"no version":                {"authorizationrules{};", "line 1 column 1"},
		"unknown version":           {"version=2.0;", "line 1 column 9"},
		"configuration in 1.0":      {"version=1.0;\nconfigurationrules{};", "line 2 column 1"},
		"section twice":             {"version=1.0;authorizationrules{};authorizationrules{};", "column 34"},
		"wrong section":             {"version=1.0;\n  rules{};", "line 2 column 3"},
		"SVC-06 misspelt result":    {auth("1.0", `=> allow();`), "line 3 column 4"},
		"permit with arguments":     {auth("1.0", `=> permit(type="a", value=1);`), "line 3 column 4"},
		"issue in authorization":    {auth("1.0", `=> issue(type="a", value=1);`), "line 3 column 4"},
		"permit in issuance":        {"version=1.0;issuancerules{=>permit();};", "column 29"},
		"no type":                   {auth("1.0", `=> add(value=1);`), "line 3 column 4"},
		"no value":                  {auth("1.0", `=> add(type="a");`), "line 3 column 4"},
		"claim and more":            {auth("1.0", `c:[type=="a"] => add(claim=c, type="b");`), "line 3"},
		"unbound name":              {auth("1.0", `c:[type=="a"] => add(type="b", value=d.value);`), "line 3 column 38"},
		"name twice":                {auth("1.0", `c:[type=="a"] && c:[type=="b"] => permit();`), "line 3 column 18"},
		"negation in 1.0":           {auth("1.0", `![type=="a"] => permit();`), "line 3 column 1"},
		"named negation":            {auth("1.2", `c:![type=="a"] => permit();`), "line 3 column 3"},
		"function in 1.1":           {auth("1.1", `=> add(type="a", value=NegateBool(true));`), "line 3 column 24"},
		"unknown function":          {auth("1.2", `=> add(type="a", value=Eval("x"));`), "line 3 column 24"},
		"too few arguments":         {auth("1.2", `=> add(type="a", value=AppendString("x"));`), "line 3"},
		"unknown property":          {auth("1.0", `[name=="a"] => permit();`), "line 3 column 2"},
		"order of texts":            {auth("1.0", `[type=="a", value < "b"] => permit();`), "line 3 column 19"},
		"order of types":            {auth("1.0", `[type < 5] => permit();`), "line 3 column 7"},
		"unknown value type":        {auth("1.0", `[valueType=="Float"] => permit();`), "line 3 column 13"},
		"integer too large":         {auth("1.0", `[value==99999999999999999999] => permit();`), "line 3 column 9"},
		"fraction":                  {auth("1.0", `[value==1.5] => permit();`), "line 3 column 9"},
		"text without end":          {auth("1.0", `[type=="a] => permit();`), "line 3 column 8"},
		"unknown escape":            {auth("1.0", `[type=="\q"] => permit();`), "line 3 column 10"},
		"no semicolon":              {auth("1.0", `=> permit()`), "line 4 column 1"},
		"no arrow":                  {auth("1.0", `[type=="a"] permit();`), "line 3 column 13"},
		"stray character":           {auth("1.0", `=> permit(); #`), "line 3 column 14"},
		"policy claims the service": {auth("1.0", `=> add(type="a", value=1, issuer="AttestationService");`), "line 3 column 4"},
		"after the end":             {good + " x", "column"},
		"deep calls":                {auth("1.2", `=> add(type="a", value=`+strings.Repeat("NegateBool(", 17)+"true"+strings.Repeat(")", 17)+`);`), "line 3"},
		"invalid UTF-8":             {"version=1.0;//\xff", "policy"},
		"too large":                 {strings.Repeat(" ", MaxSize+1), "policy"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.policy)
			if evidence.CodeOf(err) != evidence.CodeParse || !strings.Contains(err.Error(), c.at) {
				t.Errorf("got %v, want a refusal at %s", err, c.at)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		ok           bool
	}{
		{"SVC-08 a claim that nobody emits", auth("1.0", `[type=="x-ms-sevsnpvm-vmlp"] => permit();`), false},
		{"SVC-08 twin", auth("1.0", `[type=="x-ms-sevsnpvm-vmpl"] => permit();`), true},
		{"SVC-08 made by a rule", auth("1.0", `=> add(type="mine", value=1); [type=="mine"] => permit();`), true},
		{"SVC-08 made by a rule, asked of the service", auth("1.0", `=> add(type="mine", value=1); [type=="mine", issuer=="AttestationService"] => permit();`), false},
		{"runtime claims are open", auth("1.0", `[type=="x-ms-runtime.anything"] => permit();`), true},
		{"issue of a claim of the service", "version=1.0;authorizationrules{=>permit();};issuancerules{=>issue(type=\"x-ms-sevsnpvm-vmpl\", value=0);};", false},
		{"issue below an object of the service", "version=1.0;authorizationrules{=>permit();};issuancerules{=>issue(type=\"x-ms-runtime.keys\", value=0);};", false},
		{"issue of iss", "version=1.0;authorizationrules{=>permit();};issuancerules{=>issue(type=\"iss\", value=\"x\");};", false},
		{"issue of a root claim", "version=1.0;authorizationrules{=>permit();};issuancerules{=>issue(type=\"x-cloister-root\", value=\"amd\");};", false},
		{"issue of an own claim", "version=1.0;authorizationrules{=>permit();};issuancerules{=>issue(type=\"mine\", value=\"x\");};", true},
		{"unknown property", "version=1.0;issuancerules{=>issueproperty(type=\"x\", value=1);};", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(c.policy)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Check(schema); (err == nil) != c.ok {
				t.Errorf("Check gave %v", err)
			}
		})
	}
	p, err := Parse("version=1.2;authorizationrules{=>permit();};issuancerules{=>issue(type=AppendString(\"is\",\"s\"), value=\"x\");};")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Evaluate(claims(), schema); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("a computed type reached a reserved claim: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`version=1.2;configurationrules{=>issueproperty(type="a",value=1);};authorizationrules{c:[type=="a",value>=-1]&&![value==true]=>permit();};issuancerules{=>issue(type="\"",value=JmesPath("{}","a"));};`)
	f.Fuzz(func(t *testing.T, in string) {
		p, err := Parse(in)
		if err != nil {
			if evidence.CodeOf(err) != evidence.CodeParse {
				t.Fatalf("no refusal: %v", err)
			}
			return
		}
		_ = p.Check(schema)
		if _, err := p.Evaluate(claims(), schema); err != nil && evidence.CodeOf(err) != evidence.CodePolicy {
			t.Fatalf("no refusal: %v", err)
		}
	})
}
