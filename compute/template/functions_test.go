package template

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

var testScope = Scope{Subscription: "00000000-0000-0000-0000-00000000000a", TenantID: "t", Group: "G", Location: "local", Deployment: "d",
	Tags: map[string]string{"env": "test"}, Environment: map[string]any{"name": "Cloister"},
	Now: func() time.Time { return time.Date(2026, 11, 24, 9, 8, 7, 6_000_000, time.UTC) }, NewGUID: func() string { return "11111111-2222-4333-8444-555555555555" }}

// evaluate evaluates one expression as an output would.
func evaluate(t *testing.T, expression string) (any, error) {
	t.Helper()
	doc := `{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0",
	"parameters":{"o":{"type":"object","defaultValue":{"A":{"b":[10,20,"x"]},"n":null}},"l":{"type":"array","defaultValue":[1,2,3]},"s":{"type":"string","defaultValue":"héllo😀"}},
	"variables":{"v":"[concat(parameters('s'),'!')]"},"resources":[]}`
	tpl, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Expand(tpl, Inputs{Scope: testScope})
	if err != nil {
		t.Fatal(err)
	}
	return p.eval.walk(expression, "x", &place{what: "an output", reference: true})
}

func TestFunctions(t *testing.T) {
	list := func(v ...any) any { return append([]any{}, v...) }
	n := func(i int) any { return int64(i) }
	for expression, want := range map[string]any{
		"plain": "plain", "[[escaped]": "[escaped]", "[open": "[open", "": "", "['it''s']": "it's", "[ concat ( 'a' , 'b' ) ]": "ab", "[-5]": n(-5),
		"[concat('a',1,true())]": "a1True", "[concat(createArray(1),createArray(2))]": list(n(1), n(2)),
		"[format('{0}-{1:D3}-{{x}}-{1:X}', 'a', 26)]": "a-026-{x}-1A", "[format('{0:D2}', -5)]": "-05",
		"[parameters('O').a.B[1]]": n(20), "[parameters('o')['A']['b'][2]]": "x", "[variables('V')]": "héllo😀!",
		"[toUpper('aé')]": "AÉ", "[toLower('AÉ')]": "aé", "[trim(' a ')]": "a", "[substring('hello', 1, 3)]": "ell", "[substring('hello', 2)]": "llo", "[substring('abc', 3)]": "",
		"[length(parameters('s'))]": n(7), "[indexOf(parameters('s'),'😀')]": n(5), "[indexOf('abC','c')]": n(2), "[indexOf('a','z')]": n(-1), "[lastIndexOf('aXbx','x')]": n(3),
		"[startsWith('ABC','ab')]": true, "[endsWith('ABC','bc')]": true, "[startsWith('ABC','b')]": false,
		"[replace('aXbX','X','-')]": "a-b-", "[split('a,b;c', createArray(',',';'))]": list("a", "b", "c"), "[split('a,,b', ',')]": list("a", "", "b"), "[join(createArray('a',2),'-')]": "a-2",
		"[padLeft('7', 3, '0')]": "007", "[padLeft(12, 5)]": "   12",
		"[length(parameters('l'))]": n(3), "[length(createObject('a',1))]": n(1), "[empty('')]": true, "[empty(null())]": true, "[empty(createArray(1))]": false,
		"[contains('abc','b')]": true, "[contains(parameters('l'),2)]": true, "[contains(parameters('o'),'a')]": true, "[contains(parameters('l'),'2')]": false,
		"[first('abc')]": "a", "[last(parameters('l'))]": n(3), "[first(createArray())]": nil, "[skip('abc',1)]": "bc", "[take(parameters('l'),2)]": list(n(1), n(2)), "[take('abc',9)]": "abc",
		"[equals('a','A')]": false, "[equals(createObject('A',1),createObject('a',1))]": true, "[equals(createArray(1,'x'),createArray(1,'x'))]": true, "[equals(1,'1')]": false, "[equals(null(),null())]": true,
		"[less(1,2)]": true, "[lessOrEquals(2,2)]": true, "[greater('b','a')]": true, "[greaterOrEquals(1,2)]": false,
		"[and(true(),false())]": false, "[or(true(),false(),false())]": true, "[not(false())]": true,
		"[if(true(),'a',div(1,0))]": "a", "[if(false(),substring('',1,1),'b')]": "b",
		"[add(1,2)]": n(3), "[sub(1,2)]": n(-1), "[mul(-3,4)]": n(-12), "[div(7,2)]": n(3), "[mod(7,3)]": n(1), "[mod(-7,3)]": n(-1),
		"[int('42')]": n(42), "[int(json('4.0'))]": n(4), "[string(5)]": "5", "[string(true())]": "True", "[string(createObject('b',1,'a','<'))]": `{"a":"<","b":1}`,
		"[bool('TRUE')]": true, "[bool(0)]": false, "[bool('1')]": true, "[array('a')]": list("a"), "[array(createArray(1))]": list(n(1)),
		"[json('{\"a\":[1,null]}').a[0]]": n(1), "[createArray()]": list(), "[coalesce(null(),parameters('o').n,'z')]": "z",
		"[union(createArray(1,2),createArray(2,3))]":                                           list(n(1), n(2), n(3)),
		"[union(createObject('A',createObject('x',1)),createObject('a',createObject('y',2)))]": map[string]any{"A": map[string]any{"x": n(1), "y": n(2)}},
		"[intersection(createArray(1,2,3),createArray(3,2))]":                                  list(n(2), n(3)),
		"[intersection(createObject('a',1,'b',2),createObject('a',1,'b',3))]":                  map[string]any{"a": n(1)},
		"[min(3,1,2)]": n(1), "[max(parameters('l'))]": n(3), "[range(2,3)]": list(n(2), n(3), n(4)), "[range(0,0)]": list(),
		"[items(createObject('b',2,'a',1))[0].key]": "a", "[flatten(createArray(createArray(1),createArray(2,3)))]": list(n(1), n(2), n(3)),
		"[base64('one')]": "b25l", "[base64ToString('b25l')]": "one", "[base64ToJson(base64('{\"a\":1}')).a]": n(1), "[uriComponent('a b/é')]": "a%20b%2F%C3%A9",
		"[uri('https://a.test/b/','c/d')]": "https://a.test/b/c/d", "[uri('https://a.test/b','c')]": "https://a.test/c",
		"[resourceId('Microsoft.Network/virtualNetworks/subnets','net','a')]": "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/net/subnets/a",
		"[resourceId('other','Microsoft.Compute/disks','d')]":                 "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/other/providers/Microsoft.Compute/disks/d",
		"[resourceId('s','other','Microsoft.Compute/disks','d')]":             "/subscriptions/s/resourceGroups/other/providers/Microsoft.Compute/disks/d",
		"[subscriptionResourceId('Microsoft.X/y','z')]":                       "/subscriptions/00000000-0000-0000-0000-00000000000a/providers/Microsoft.X/y/z",
		"[resourceGroup().location]":                                          "local", "[resourceGroup().tags.env]": "test", "[subscription().subscriptionId]": testScope.Subscription, "[deployment().name]": "d", "[environment().name]": "Cloister",
		// Values that others got from Azure's own tools.
		"[uniqueString('test')]": "rbgf3xv4ufgzg", "[uniqueString('hello','world')]": "a7wkljktk6wne", "[uniqueString('abc')]": "cgtzqvhu4i23s", "[uniqueString('foo','bar','baz')]": "xzi4ioaxtmth4",
		"[uniqueString('/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg')]": "bmg7c6xu4tw46",
		"[guid('a','b')]": GUID("a-b"),
	} {
		if got, err := evaluate(t, expression); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v; want %#v", expression, got, err, want)
		}
	}
	if got := GUID(""); got[14] != '5' {
		t.Errorf("guid is no UUID of version 5: %s", got)
	}
}

func TestFunctionsRefuse(t *testing.T) {
	for expression, want := range map[string]string{
		"[nothing()]": "function 'nothing' is not valid", "[listKeys('a','b')]": "read no secrets", "[ns.f()]": "user-defined", "[newGuid()]": "only in the default value", "[utcNow()]": "only in the default value",
		"[copyIndex()]": "without a loop", "[copyIndex('x')]": "no loop 'x'", "[parameters('none')]": "'none' is not found", "[variables('none')]": "'none' is not found", "[parameters(1)]": "type 'Integer'",
		"[]": "expected token 'Identifier' and actual 'EndOfData' at position '1'", "[concat('a']": "expected token 'RightParenthesis'", "[concat('a',)]": "expected token 'Identifier' and actual 'RightParenthesis'",
		"[concat]": "expected token 'LeftParenthesis'", "[concat('a') x]": "expected token 'EndOfData' and actual 'Identifier' at position '13'", "['a]": "does not end", "[a.]": "user-defined", "[{}]": "'{' at position '1' is not expected",
		"[parameters('o').]": "expected token 'Identifier'", "[parameters('o')[]": "expected token", "[99999999999999999999]": "no integer of 64 bits", "[-]": "no integer",
		"[parameters('o').zz]": "doesn't exist, available properties are 'A, n'", "[parameters('l')[3]]": "index '3' is out of bounds", "[parameters('l')[-1]]": "out of bounds", "[parameters('l').a]": "must be an integer", "[parameters('s').a]": "type 'String'", "[parameters('o')[1]]": "must be a string",
		"[concat()]": "0 arguments", "[concat(createObject())]": "type 'Object'", "[concat(createArray(),'a')]": "argument 2", "[concat(null())]": "type 'Null'", "[if(1,2,3)]": "'Boolean'", "[if(true(),1)]": "2 arguments; want 3",
		"[div(1,0)]": "division by zero", "[mod(1,0)]": "division by zero", "[add(9223372036854775807,1)]": "no integer of 64 bits", "[sub(-9223372036854775807,2)]": "64 bits", "[mul(9223372036854775807,2)]": "64 bits", "[div(-9223372036854775808,-1)]": "64 bits", "[add('1',2)]": "type 'String'",
		"[int('4.5')]": "no integer", "[int('x')]": "no integer", "[int(true())]": "type 'Boolean'", "[bool('maybe')]": "neither", "[json('{')]": "no JSON", "[json(1)]": "type 'Integer'", "[base64ToString('%')]": "not base64", "[base64ToJson('e30=x')]": "not base64",
		"[substring('abc',4)]": "within the string", "[substring('abc',1,9)]": "within the string", "[substring('abc',-1)]": "within the string", "[substring('a',9223372036854775807,9223372036854775807)]": "within the string", "[replace('a','','b')]": "empty", "[split(1,',')]": "type 'Integer'", "[split('a',1)]": "type 'Integer'",
		"[padLeft('a',17)]": "0 to 16", "[padLeft('a',3,'xy')]": "one character", "[length(1)]": "type 'Integer'", "[length(null())]": "type 'Null'", "[contains(1,1)]": "type 'Integer'", "[first(1)]": "type 'Integer'", "[skip('a','b')]": "type 'String'",
		"[less(1,'a')]": "type 'String'", "[less('a',1)]": "type 'Integer'", "[and(true(),1)]": "type 'Integer'", "[not('a')]": "type 'String'", "[createObject('a')]": "pairs", "[createObject(1,2)]": "type 'Integer'", "[createObject('a',1,'A',2)]": "twice",
		"[union(createArray(1),createObject())]": "argument", "[intersection(1,2)]": "type 'Integer'", "[min()]": "0 arguments", "[min(createArray())]": "empty", "[max('a')]": "type 'String'", "[range(0,10001)]": "at most 10000", "[range(0,-1)]": "-1 integers", "[range(2147483647,5)]": "none above",
		"[items(1)]": "type 'Integer'", "[flatten(createArray(1))]": "want 'Array'", "[uri('x','y')]": "no absolute URI", "[format('{1}','a')]": "no argument", "[format('{0')]": "without its '}'", "[format('}')]": "without its '{'", "[format('{0:N2}',1)]": "not supported", "[format('{0:D2}','a')]": "not supported", "[format('{a}','a')]": "not supported", "[format(1)]": "type 'Integer'", "[format('{0:D}}',1)]": "without its",
		"[resourceId('a','b')]": "no argument is a resource type", "[resourceId('A.B/c/d','x')]": "requires '2' resource name", "[resourceId('A.B/c','x','y')]": "requires '1'", "[resourceId('A.B/c','x/y')]": "slash", "[resourceId('A.B/c','')]": "empty", "[resourceId('A.B/c',1)]": "type 'Integer'", "[subscriptionResourceId('A.B','x')]": "no argument",
		"[reference('none')]": "not defined in the template", "[reference('/subscriptions/s/resourceGroups/g/providers/A.B/c/d')]": "needs an api-version", "[reference('none','2020-01-01','Half')]": "want 'Full'", "[uniqueString(createArray())]": "type 'Array'", "[deployment().properties.parameters]": "doesn't exist",
		"[" + strings.Repeat("concat(", 70) + "'a'" + strings.Repeat(")", 70) + "]": "nested deeper", "[" + strings.Repeat("a", 25000) + "]": "longer than", "[parameters('o')" + strings.Repeat(".a", 80) + "]": "in a row",
	} {
		got, err := evaluate(t, expression)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, %v; want a refusal with %q", expression, got, err, want)
		}
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]any{
		"{template: {\"$schema\": 1}} // end": map[string]any{"template": map[string]any{"$schema": int64(1)}}, "/* a */[1,-2.5e3,\"\\u00e9\\ud83d\\ude00\\n\", true, null]": []any{int64(1), Number("-2.5e3"), "é😀\n", true, nil},
		"\ufeff{}": map[string]any{}, "[]": []any{}, "4.0": Number("4.0"), "\"a\nb\"": "a\nb", "123456789012345678901": Number("123456789012345678901"),
	} {
		if got, err := Read([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %#v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": "ends too early", "{": "name", "{\"a\":1,}": "name", "[1,]": "JSON value", "[1 2]": "',' or ']'", "{\"a\" 1}": "':'", "{\"a\":1}x": "after the end", "{\"a\":1,\"A\":2}": "twice", "{a:{b:[1,x]}}": "line '1' and column '10'", "\"a": "does not end", "\"\\x\"": "escape", "\"\\ud800\"": "surrogate", "\"\\ud800\\u0041\"": "surrogate", "\"\\u00zz\"": "escape",
		"01": "no number", "1.": "no number", "-": "no number", ".5": "JSON value", "1e": "no number", "+1": "JSON value", "\"\x01\"": "control", "/*": "comment", "\xff": "UTF-8", "nul": "JSON value", "{\n\n \"a\": ?}": "line '3' and column '7'", strings.Repeat("[", 60): "nested deeper", "1" + strings.Repeat("0", 80): "no number",
	} {
		if got, err := Read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %#v, %v; want a refusal with %q", text, got, err, want)
		}
	}
}

func TestDates(t *testing.T) {
	now := testScope.Now()
	for form, want := range map[string]string{"yyyy-MM-ddTHH:mm:ss.fffZ": "2026-11-24T09:08:07.006Z", "u": "2026-11-24 09:08:07Z", "yyMMdd": "261124"} {
		if got, err := formatTime(now, form); err != nil || got != want {
			t.Errorf("%s: %s, %v", form, got, err)
		}
	}
	for _, form := range []string{"d", "dddd d", "tt", "'a'", "T"} {
		if got, err := formatTime(now, form); err == nil {
			t.Errorf("%s: %s", form, got)
		}
	}
}
