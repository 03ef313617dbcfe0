package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const head = `"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0"`

func expand(text string, given string) (*Plan, error) {
	t, err := Parse([]byte("{" + head + "," + text + "}"))
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if given != "" {
		v, err := Read([]byte(given))
		if err != nil {
			return nil, err
		}
		values = v.(map[string]any)
	}
	return Expand(t, Inputs{Parameters: values, Scope: testScope})
}

// shape writes a plan shortly: names with what they wait for.
func shape(p *Plan) string {
	var out []string
	for _, r := range p.Resources {
		s := r.Name
		if !r.Enabled {
			s = "-" + s
		}
		for _, d := range r.DependsOn {
			s += "<" + p.Resources[d].Name
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// res writes a resource of one segment.
func res(name, more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"type":"A.B/c","apiVersion":"2020-01-01","name":"` + name + `"` + more + `}`
}

func TestOrder(t *testing.T) {
	for name, r := range map[string]struct{ text, want string }{
		"none":               {`"resources":[]`, ""},
		"by name":            {`"resources":[` + res("a", `"dependsOn":["b"]`) + "," + res("b", "") + `]`, "a<b b"},
		"by short id":        {`"resources":[` + res("a", `"dependsOn":["A.b/C/B"]`) + "," + res("b", "") + `]`, "a<b b"},
		"by full id":         {`"resources":[` + res("a", `"dependsOn":["[resourceId('A.B/c','b')]"]`) + "," + res("b", "") + `]`, "a<b b"},
		"by reference":       {`"resources":[` + res("a", `"properties":{"x":"[reference('b').y.z]","w":"[concat('q',reference(resourceId('A.B/c','d'),'2020-01-01','Full').location)]"}`) + "," + res("b", "") + "," + res("d", "") + `]`, "a<b<d b d"},
		"lazy reference":     {`"resources":[` + res("a", `"properties":{"x":"[if(false(),reference('b').y,'no')]"}`) + "," + res("b", "") + `]`, "a b"},
		"copies":             {`"resources":[` + res("[concat('a',copyIndex(1))]", `"copy":{"name":"loop","count":2}`) + "," + res("z", `"dependsOn":["LOOP"]`) + `]`, "a1 a2 z<a1<a2"},
		"no copies":          {`"resources":[` + res("[concat('a',copyIndex())]", `"copy":{"name":"loop","count":0}`) + `]`, ""},
		"serial":             {`"resources":[` + res("[concat('a',copyIndex('l'))]", `"copy":{"name":"l","count":"[add(2,3)]","mode":"Serial","batchSize":2}`) + `]`, "a0 a1 a2<a0<a1 a3<a0<a1 a4<a2<a3"},
		"condition":          {`"resources":[` + res("a", `"condition":"[not(true())]"`) + "," + res("b", `"dependsOn":["a"]`) + `]`, "-a b<a"},
		"nested":             {`"resources":[{"type":"A.B/c","apiVersion":"1","name":"p","resources":[{"type":"d","apiVersion":"1","name":"k","dependsOn":["p"]}]}]`, "p p/k<p"},
		"one of two":         {`"resources":[` + res("a", `"condition":false`) + "," + res("a", "") + "," + res("b", `"dependsOn":["A.B/c/a"]`) + `]`, "-a a b<a"},
		"empty dependencies": {`"resources":[` + res("a", `"dependsOn":[],"copy":null,"condition":null`) + `]`, "a"},
		"a diamond":          {`"resources":[` + res("a", `"dependsOn":["b","c"]`) + "," + res("b", "") + "," + res("c", `"dependsOn":["d"]`) + "," + res("d", `"dependsOn":["b"]`) + `]`, "a<b<c b c<d d<b"},
	} {
		if p, err := expand(r.text, ""); err != nil || shape(p) != r.want {
			got := ""
			if p != nil {
				got = shape(p)
			}
			t.Errorf("%s: %q, %v; want %q", name, got, err, r.want)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	many := make([]string, 801)
	for i := range many {
		many[i] = res(fmt.Sprint("r", i), "")
	}
	bomb := []string{`"v0":"[createArray('0123456789','0123456789')]"`}
	for i := 1; i < 40; i++ {
		bomb = append(bomb, fmt.Sprintf(`"v%d":"[createArray(variables('v%d'),variables('v%d'))]"`, i, i-1, i-1))
	}
	for name, r := range map[string]struct{ text, given, want, path string }{
		"a circle":                       {`"resources":[` + res("a", `"dependsOn":["b"]`) + "," + res("b", `"dependsOn":["a"]`) + `]`, "", "Circular dependency detected on resource: '/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/G/providers/A.B/c/a'", "resources[0].dependsOn"},
		"a circle of one":                {`"resources":[` + res("a", `"dependsOn":["a"]`) + `]`, "", "Circular", ""},
		"a circle by references":         {`"resources":[` + res("a", `"properties":"[reference('b')]"`) + "," + res("b", `"properties":"[reference('a')]"`) + `]`, "", "Circular", ""},
		"a dependency that is not there": {`"resources":[` + res("a", `"dependsOn":["zz"]`) + `]`, "", "The resource 'zz' is not defined in the template", "resources[0].dependsOn"},
		"an ambiguous name":              {`"resources":[` + res("a", `"dependsOn":["b"]`) + "," + res("b", "") + `,{"type":"A.B/other","apiVersion":"1","name":"b"}]`, "", "'b' is not defined", ""},
		"a dependency of no text":        {`"resources":[` + res("a", `"dependsOn":[1]`) + `]`, "", "want a string", "resources[0].dependsOn[0]"},
		"dependencies of no list":        {`"resources":[` + res("a", `"dependsOn":"b"`) + `]`, "", "want a list", ""},
		"the same twice":                 {`"resources":[` + res("a", "") + "," + res("A", "") + `]`, "", "defined multiple times", "resources[1]"},
		"too many resources":             {`"resources":[` + strings.Join(many, ",") + `]`, "", "exceeds '800'", "resources[800]"},
		"too many copies":                {`"resources":[` + res("[concat('a',copyIndex())]", `"copy":{"name":"l","count":801}`) + `]`, "", "from 0 to 800", "resources[0].copy.count"},
		"a negative count":               {`"resources":[` + res("a", `"copy":{"name":"l","count":-1}`) + `]`, "", "from 0 to 800", ""},
		"a count of no number":           {`"resources":[` + res("a", `"copy":{"name":"l","count":"2"}`) + `]`, "", "'2'", ""},
		"copies of one name":             {`"resources":[` + res("a", `"copy":{"name":"l","count":2}`) + `]`, "", "defined multiple times", ""},
		"a copy without a name":          {`"resources":[` + res("a", `"copy":{"count":2}`) + `]`, "", "no name", ""},
		"a copy with another member":     {`"resources":[` + res("a", `"copy":{"name":"l","count":2,"x":1}`) + `]`, "", "'x' is not known", "resources[0].copy.x"},
		"an unknown mode":                {`"resources":[` + res("a", `"copy":{"name":"l","count":2,"mode":"wild"}`) + `]`, "", "parallel or serial", ""},
		"a batch of none":                {`"resources":[` + res("a", `"copy":{"name":"l","count":2,"batchSize":0}`) + `]`, "", "batch size", ""},
		"copies that hold resources":     {`"resources":[` + res("[concat('a',copyIndex())]", `"copy":{"name":"l","count":1},"resources":[{}]`) + `]`, "", "can hold no resources", ""},
		"a count from a reference":       {`"resources":[` + res("a", "") + "," + res("b", `"copy":{"name":"l","count":"[reference('a').n]"}`) + `]`, "", "not expected at this location", ""},
		"a name from a reference":        {`"resources":[` + res("a", "") + "," + res("[reference('a').n]", "") + `]`, "", "not expected at this location", "resources[1].name"},
		"a condition from a reference":   {`"resources":[` + res("a", "") + "," + res("b", `"condition":"[reference('a').n]"`) + `]`, "", "not expected at this location", ""},
		"a variable from a reference":    {`"variables":{"v":"[reference('a')]"},"resources":[` + res("a", "") + `]`, "", "not expected at this location", "variables.v"},
		"a reference by a reference":     {`"resources":[` + res("a", "") + "," + res("b", `"properties":"[reference(reference('a').n)]"`) + `]`, "", "argument of a reference must be known", ""},
		"a reference to nothing":         {`"resources":[` + res("b", `"properties":"[reference('a')]"`) + `]`, "", "'a' is not defined", "resources[0].properties"},
		"a condition of text":            {`"resources":[` + res("a", `"condition":"true"`) + `]`, "", "want true or false", ""},
		"no name":                        {`"resources":[{"type":"A.B/c","apiVersion":"1"}]`, "", "the 'name' of the template resource is Null", "resources[0].name"},
		"no type":                        {`"resources":[{"name":"a","apiVersion":"1"}]`, "", "'type'", ""},
		"no version":                     {`"resources":[{"name":"a","type":"A.B/c"}]`, "", "'apiVersion'", ""},
		"a name of two segments":         {`"resources":[` + res("a/b", "") + `]`, "", "incorrect segment lengths", "resources[0]"},
		"an empty segment":               {`"resources":[{"type":"A.B/c/d","apiVersion":"1","name":"a/"}]`, "", "incorrect segment lengths", ""},
		"no namespace":                   {`"resources":[{"type":"A/c","apiVersion":"1","name":"a"}]`, "", "incorrect segment lengths", ""},
		"a nested template":              {`"resources":[{"type":"Microsoft.Resources/deployments","apiVersion":"1","name":"n"}]`, "", "nested and linked templates are not supported", ""},
		"another group":                  {`"resources":[` + res("a", `"resourceGroup":"other"`) + `]`, "", "'resourceGroup' of a template resource is not supported", "resources[0].resourceGroup"},
		"a scope":                        {`"resources":[` + res("a", `"scope":"/"`) + `]`, "", "'scope'", ""},
		"a resource of no object":        {`"resources":[1]`, "", "want an object", "resources[0]"},
		"resources of no list":           {`"resources":{}`, "", "want a list", "resources"},
		"no resources":                   {`"outputs":{}`, "", "want a list", "resources"},
		"an unknown section":             {`"resources":[],"else":{}`, "", "'else' is not known", "else"},
		"own functions":                  {`"resources":[],"functions":[{}]`, "", "user-defined functions", "functions"},
		"symbolic names":                 {`"resources":[],"languageVersion":"2.0"`, "", "symbolic names", "languageVersion"},
		"a parameter without a value":    {`"parameters":{"p":{"type":"string"}},"resources":[]`, "", "The value for the template parameter 'p' is not provided", "parameters.p"},
		"a parameter that is not there":  {`"parameters":{"p":{"type":"string"}},"resources":[]`, `{"p":"x","q":1}`, "The template parameters 'q' in the parameters file are not valid", "parameters"},
		"a parameter of another type":    {`"parameters":{"p":{"type":"int"}},"resources":[]`, `{"p":"1"}`, "Expected a value of type 'Integer', but received a value of type 'String'", "parameters.p"},
		"a fraction":                     {`"parameters":{"p":{"type":"int"}},"resources":[]`, `{"p":1.5}`, "type 'Integer'", ""},
		"null":                           {`"parameters":{"p":{"type":"string"}},"resources":[]`, `{"p":null}`, "type 'Null'", ""},
		"not allowed":                    {`"parameters":{"p":{"type":"string","allowedValues":["a","b"]}},"resources":[]`, `{"p":"c"}`, "The provided value 'c' for the template parameter 'p' is not valid. The parameter value is not part of the allowed value(s): 'a,b'.", ""},
		"too short":                      {`"parameters":{"p":{"type":"string","minLength":3}},"resources":[]`, `{"p":"ab"}`, "greater than or equal to '3'", ""},
		"too long":                       {`"parameters":{"p":{"type":"array","maxLength":1}},"resources":[]`, `{"p":[1,2]}`, "less than or equal to '1'", ""},
		"too small":                      {`"parameters":{"p":{"type":"int","minValue":1}},"resources":[]`, `{"p":0}`, "greater than or equal to '1'", ""},
		"too large":                      {`"parameters":{"p":{"type":"int","maxValue":1}},"resources":[]`, `{"p":2}`, "less than or equal to '1'", ""},
		"a length of an integer":         {`"parameters":{"p":{"type":"int","maxLength":1}},"resources":[]`, `{"p":2}`, "can have no 'maxlength'", ""},
		"a bad default":                  {`"parameters":{"p":{"type":"int","defaultValue":"x"}},"resources":[]`, "", "type 'Integer'", "parameters.p"},
		"defaults in a circle":           {`"parameters":{"p":{"type":"int","defaultValue":"[parameters('q')]"},"q":{"type":"int","defaultValue":"[parameters('p')]"}},"resources":[]`, "", "depends on itself", ""},
		"a default by a variable":        {`"parameters":{"p":{"type":"int","defaultValue":"[variables('v')]"}},"variables":{"v":1},"resources":[]`, "", "not expected in the default value", ""},
		"an unknown type":                {`"parameters":{"p":{"type":"text"}},"resources":[]`, "", "the type 'text'", "parameters.p.type"},
		"no type of a parameter":         {`"parameters":{"p":{}},"resources":[]`, "", "has no type", ""},
		"an unknown property of one":     {`"parameters":{"p":{"type":"int","nullable":true}},"resources":[]`, "", "'nullable'", ""},
		"no allowed values":              {`"parameters":{"p":{"type":"int","allowedValues":[]}},"resources":[]`, "", "not empty", ""},
		"variables in a circle":          {`"variables":{"v":"[variables('w')]","w":"[variables('v')]"},"resources":[]`, "", "depends on itself", ""},
		"a variable twice":               {`"variables":{"v":1,"copy":[{"name":"V","count":1,"input":1}]},"resources":[]`, "", "comes twice", ""},
		"a property twice":               {`"resources":[` + res("a", `"properties":{"x":[1],"copy":[{"name":"X","count":1,"input":1}]}`) + `]`, "", "comes twice", ""},
		"an unnamed index of a property": {`"resources":[` + res("a", `"properties":{"copy":[{"name":"x","count":1,"input":"[copyIndex()]"}]}`) + `]`, "", "without a loop", ""},
		"an output without a value":      {`"resources":[],"outputs":{"o":{"type":"string"}}`, "", "has no value", "outputs.o"},
		"an output of another type":      {`"resources":[],"outputs":{"o":{"type":"int","value":"x"}}`, "", "result is of type 'String'; expected 'Integer'", ""},
		"an output of no type":           {`"resources":[],"outputs":{"o":{"value":"x"}}`, "", "has the type Null", ""},
		"a secret in a name":             {`"parameters":{"p":{"type":"secureString"}},"resources":[` + res("[parameters('p')]", "") + `]`, `{"p":"x"}`, "a secure parameter can't be used here", "resources[0].name"},
		"a secret in a condition":        {`"parameters":{"p":{"type":"secureString"}},"variables":{"v":"[parameters('p')]"},"resources":[` + res("a", `"condition":"[empty(variables('v'))]"`) + `]`, `{"p":"x"}`, "a secure parameter can't be used here", ""},
		"a secret in an output":          {`"parameters":{"p":{"type":"secureObject"}},"resources":[],"outputs":{"o":{"type":"string","value":"[string(parameters('p'))]"}}`, `{"p":{"a":"topsecret"}}`, "would show a secure parameter", "outputs.o"},
		"a secret in a default":          {`"parameters":{"p":{"type":"secureString"},"q":{"type":"string","defaultValue":"[toUpper(parameters('p'))]"}},"resources":[]`, `{"p":"topsecret"}`, "would show a secure parameter", ""},
		"a secret that is not allowed":   {`"parameters":{"p":{"type":"secureString","allowedValues":["othersecret"]}},"resources":[]`, `{"p":"topsecret"}`, "not part of the allowed value(s).", ""},
		"a secret of another type":       {`"parameters":{"p":{"type":"secureString"}},"resources":[]`, `{"p":["topsecret"]}`, "type 'Array'", ""},
		"a secret in a mistake":          {`"parameters":{"p":{"type":"secureString"}},"resources":[` + res("a", `"properties":"[resourceId('A.B/c',concat(toLower(parameters('p')),'/x'))]"`) + `]`, `{"p":"TOPSECRET"}`, "the reason is not told", "resources[0].properties"},
		"values that double":             {`"variables":{` + strings.Join(bomb, ",") + `},"resources":[]`, "", "bytes of values", ""},
		"texts that double":              {`"parameters":{"p":{"type":"string"}},"variables":{"copy":[{"name":"c","count":800,"input":"[concat(parameters('p'),parameters('p'))]"}]},"resources":[]`, `{"p":"` + strings.Repeat("x", 100_000) + `"}`, "bytes of values", ""},
		"too many steps":                 {`"variables":{"l":"[range(0,10000)]","copy":[{"name":"c","count":800,"input":"[concat(string(variables('l')[0]),if(contains(variables('l'),-1),'','x'),if(contains(variables('l'),-1),'','x'),if(contains(variables('l'),-1),'','x'),if(contains(variables('l'),-1),'','x'))]"}]},"resources":[]`, "", "too many steps", ""},
	} {
		_, err := expand(r.text, r.given)
		var e *Error
		if !errors.As(err, &e) || e.Code != "InvalidTemplate" || !strings.Contains(e.Message, r.want) || r.path != "" && e.Path != r.path {
			t.Errorf("%s: got %.600v (path %q); want %q at %q", name, err, pathOf(err), r.want, r.path)
		}
		if err != nil && (strings.Contains(err.Error(), "topsecret") || strings.Contains(err.Error(), "othersecret")) {
			t.Errorf("%s: the message shows a secret: %v", name, err)
		}
	}
}

func pathOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Path
	}
	return ""
}

func TestHeaderIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		`[]`: "want an object", `{}`: "no '$schema'", `{"$schema":"https://other.test/deploymentTemplate.json#"}`: "is not supported",
		`{"$schema":"https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"}`:            "for a resource group",
		`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"}`:                        "'contentVersion' is Null",
		`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0"}`: "four numbers", `{` + head + `}`: "want a list",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Parse([]byte(`{"$schema":"http://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","resources":[]}`)); err != nil {
		t.Errorf("az's own form: %v", err)
	}
}

const whole3 = `"parameters":{"count":{"type":"int","defaultValue":2},"name":{"type":"string","defaultValue":"[concat('n-',newGuid())]"},"key":{"type":"secureString"}},
"variables":{"disks":{"copy":[{"name":"d","count":"[parameters('count')]","input":{"lun":"[copyIndex('d')]"}}]},"copy":[{"name":"w","count":2,"input":"[concat('w',copyIndex('w'))]"}],"k":"[concat('x',parameters('key'))]"},
"resources":[` + `{"type":"A.B/c","apiVersion":"2020-01-01","name":"base","location":"[resourceGroup().location]","tags":{"[variables('w')[1]]":"t"}},
{"type":"A.B/c","apiVersion":"2021-01-01","name":"[parameters('name')]","comments":"c","sku":{"name":"s"},"properties":{"ip":"[reference('base').ip]","loc":"[reference('base','2020-01-01','full').location]","disks":"[variables('disks').d]","data":"[base64(variables('k'))]","copy":[{"name":"l","count":2,"input":"[mul(copyIndex('l',1),10)]"}]}}],
"outputs":{"id":{"type":"string","value":"[resourceId('A.B/c',parameters('name'))]"},"ip":{"type":"string","value":"[reference('base').ip]"},"secret":{"type":"secureString","value":"[variables('k')]"},"list":{"type":"array","copy":{"count":2,"input":"[copyIndex()]"}},"off":{"type":"string","condition":false,"value":"x"}}`

func readBase(id, version string) (map[string]any, error) {
	if !strings.HasSuffix(id, "/base") || version != "2020-01-01" {
		return nil, fmt.Errorf("asked for %s %s", id, version)
	}
	return map[string]any{"location": "local", "properties": map[string]any{"ip": "10.0.0.4"}}, nil
}

func TestBodiesAndOutputs(t *testing.T) {
	p, err := expand(whole3, `{"key":"topsecret"}`)
	if err != nil {
		t.Fatal(err)
	}
	name := "n-" + testScope.NewGUID()
	if got := shape(p); got != "base "+name+"<base" {
		t.Errorf("order: %s", got)
	}
	if p.Resources[0].Secure || !p.Resources[1].Secure {
		t.Error("which bodies come from secure parameters")
	}
	for i, want := range []string{`{"location":"local","tags":{"w1":"t"}}`,
		`{"properties":{"data":"eHRvcHNlY3JldA==","disks":[{"lun":0},{"lun":1}],"ip":"10.0.0.4","l":[10,20],"loc":"local"},"sku":{"name":"s"}}`} {
		if body, withheld, err := p.Body(i, readBase); err != nil || withheld || string(JSON(body)) != want {
			t.Errorf("body %d: %s, %v, %v", i, JSON(body), withheld, err)
		}
	}
	out, err := p.Outputs(readBase)
	raw, _ := json.Marshal(out)
	if want := `{"id":{"Type":"String","Value":"/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/G/providers/A.B/c/` + name + `"},"ip":{"Type":"String","Value":"10.0.0.4"},"list":{"Type":"Array","Value":[0,1]},"secret":{"Type":"SecureString","Value":null}}`; err != nil || string(raw) != want {
		t.Errorf("outputs: %s, %v", raw, err)
	}
	if params := p.Parameters(); params["key"].Value != nil || params["name"].Value != name || params["count"].Value != int64(2) {
		t.Errorf("parameters: %v", params)
	}
	if got, ok := p.Secrets(); !ok || !slices.Equal(got, []string{"eHRvcHNlY3JldA==", "xtopsecret", "topsecret"}) {
		t.Errorf("secrets: %v", got)
	}
	long := strings.Repeat("é", 90) + `"<`
	if got := Redact(`'topsecret' `+long[:100]+`… "`+strings.Repeat("é", 90)+`\"<"`, []string{long, "topsecret"}); strings.Contains(got, "topsecret") || strings.Contains(got, "éé") {
		t.Errorf("redacted: %s", got)
	}

	failed := errors.New("no such thing")
	if _, _, err := p.Body(1, func(string, string) (map[string]any, error) { return nil, failed }); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a reference that fails: %v", err)
	}
	if _, err := p.Outputs(func(string, string) (map[string]any, error) { return map[string]any{}, nil }); err == nil || !strings.Contains(err.Error(), "'ip' doesn't exist") {
		t.Errorf("an output of what is not there: %v", err)
	}
}

// After a restart the values of secure parameters are gone: what needs them says so, the rest goes on.
func TestWithheldSecrets(t *testing.T) {
	tpl, err := Parse([]byte("{" + head + "," + whole3 + "}"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(tpl, Inputs{Withheld: true, Scope: testScope, Parameters: map[string]any{"name": "kept", "count": int64(1)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, withheld, err := p.Body(0, readBase); err != nil || withheld {
		t.Errorf("a body without secrets: %v, %v", withheld, err)
	}
	if _, withheld, err := p.Body(1, readBase); err != nil || !withheld {
		t.Errorf("a body with secrets: %v, %v", withheld, err)
	}
	if _, err := p.Outputs(readBase); err != nil {
		t.Errorf("secure outputs have no values anyway: %v", err)
	}
}

// The public form holds no default value of a secure parameter.
func TestPublicForm(t *testing.T) {
	tpl, err := Parse([]byte("{" + head + `,"parameters":{"p":{"type":"secureString","DefaultValue":"topsecret","allowedValues":["topsecret"],"metadata":{"d":1}},"q":{"type":"string","defaultValue":"open"}},"resources":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	raw := string(JSON(tpl.Public()))
	if strings.Contains(raw, "topsecret") || !strings.Contains(raw, "open") || !strings.Contains(raw, `"metadata":{"d":1}`) {
		t.Error(raw)
	}
	if _, err := Parse([]byte(raw)); err != nil {
		t.Errorf("the public form is no template: %v", err)
	}
}

// Whatever comes, expanding ends, and never with more resources than there may be; what is accepted is accepted again
// as it was written down.
func FuzzExpand(f *testing.F) {
	f.Add("{"+head+","+whole3+"}", `{"key":"k"}`)
	f.Add("{"+head+`,"resources":[`+res("[concat('a',copyIndex())]", `"copy":{"name":"l","count":3}`)+`]}`, "")
	f.Add("{"+head+`,"variables":{"a":"[concat(variables('b'),variables('b'))]","b":"[format('{0:D9}',1)]"},"resources":[]}`, "{}")
	for _, s := range []string{"[concat('a', 1)]", "[[x]", "[a.b()]", "[if(true(),substring('é',0,1),int('1'))]", "[resourceId('A.B/c','d')]", "[reference('x').y[0]]"} {
		f.Add("{"+head+`,"resources":[`+res("a", `"properties":"`+s+`"`)+`]}`, "{}")
	}
	f.Fuzz(func(t *testing.T, text, given string) {
		if len(text)+len(given) > 1<<16 {
			return
		}
		tpl, err := Parse([]byte(text))
		if err != nil {
			return
		}
		values, _ := Read([]byte(given))
		params, _ := values.(map[string]any)
		p, err := Expand(tpl, Inputs{Parameters: params, Scope: testScope})
		var e *Error
		if err != nil {
			if !errors.As(err, &e) {
				t.Errorf("an error without a code: %v", err)
			}
			return
		}
		if len(p.Resources) > MaxResources {
			t.Errorf("%d resources", len(p.Resources))
		}
		again, err := Parse(JSON(tpl.Public()))
		if err != nil {
			t.Fatalf("the public form is refused: %v", err)
		}
		q, err := Expand(again, Inputs{Parameters: p.Kept(), Withheld: true, Scope: testScope})
		if err != nil || shape(q) != shape(p) {
			t.Errorf("read again: %v", err)
		}
		for i := range p.Resources {
			if _, _, err := p.Body(i, func(string, string) (map[string]any, error) {
				return map[string]any{"properties": map[string]any{}}, nil
			}); err != nil && !errors.As(err, &e) {
				t.Errorf("an error without a code: %v", err)
			}
		}
	})
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{"concat('a')", "a.b[1].c", "'it''s'", "-5", "f(", "f('x',g(1))[h()]", "{", strings.Repeat("\x9f", 120)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseExpression(s); err == nil && n == nil {
			t.Error("neither an expression nor a mistake")
		}
	})
}
