package arm

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// Whatever comes, the strict reader never panics, and what it accepts the standard reader accepts as well.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,2,null,true,"x"]}}`, `{"a":1,"A":2}`, `[]`, `{`, `{"a":1}x`, "{\"\xff\":1}", strings.Repeat(`{"a":`, 50)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := Parse(raw); err == nil {
			var v map[string]any
			if err := json.Unmarshal(raw, &v); err != nil {
				t.Errorf("accepted %q, which is no JSON object: %v", raw, err)
			}
		}
	})
}

// An id that is accepted has no part that could leave its place, and writing it gives the same resource.
func FuzzParseID(f *testing.F) {
	const nic = "Microsoft.Network/networkInterfaces"
	for _, s := range []string{"", "/", "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n",
		"/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/../providers/Microsoft.Network/networkInterfaces/n",
		"/subscriptions/00000000-0000-0000-0000-00000000000a/resourcegroups/g/providers/microsoft.network/NETWORKINTERFACES/n/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s, nic)
		if err != nil {
			return
		}
		if strings.Contains(s, "..") || strings.ContainsAny(s, "\\\x00%") {
			t.Errorf("accepted %q", s)
		}
		if again, err := ParseID(id.String(), nic); err != nil || again != id || id.Key() != Key(s) {
			t.Errorf("%q reads as %v, %v", s, again, err)
		}
	})
}

func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"/a/b", "//a//", "/a/%2e%2e/b", "/a%2fb", "/a%00", "/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse("https://host/" + s)
		if err != nil {
			return
		}
		parts, err := splitPath(u)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\\\x00\n") {
				t.Errorf("%q gives the segment %q", s, p)
			}
		}
	})
}

func TestDecode(t *testing.T) {
	shape := Shape{"name": Text, "n": Number, "on": Flag, "word": OneOf("FromImage"), "in": Object(Shape{"x": Text}), "list": List(Shape{"y": Text}), "id": ReadOnly, "tags": Free}
	type wire struct {
		Name, Word string
		N          int
		On         bool
		In         struct{ X string }
		List       []struct{ Y string }
		Tags       map[string]string
	}
	for _, r := range []struct {
		body   string
		target string // of the refusal; "" accepts
	}{
		{`{"name":"a","n":4,"on":true,"word":"fromimage","in":{"x":"b"},"list":[{"y":"c"}],"tags":{"T":"v"}}`, ""},
		{`{"NAME":"a","n":4.0,"on":true,"word":"FROMIMAGE","in":{"X":"b"},"list":[{"Y":"c"}],"id":7,"other":null,"more":{"a":[false,"",{}]},"tags":{"T":"v"}}`, ""},
		{`{"n":4.5}`, "n"}, {`{"n":"4"}`, "n"}, {`{"n":1e99}`, "n"}, {`{"on":1}`, "on"}, {`{"name":3}`, "name"}, {`{"word":"Attach"}`, "word"}, {`{"word":3}`, "word"},
		{`{"in":[1]}`, "in"}, {`{"in":{"z":1}}`, "in.z"}, {`{"list":{"a":1}}`, "list"}, {`{"list":[3]}`, "list[0]"}, {`{"list":[{"y":1}]}`, "list[0].y"},
		{`{"other":true}`, "other"}, {`{"other":0}`, "other"}, {`{"other":"x"}`, "other"}, {`{"other":{"a":[0]}}`, "other"},
	} {
		var w wire
		err := Decode([]byte(r.body), shape, &w)
		if e := AsError(err); r.target == "" && err != nil || r.target != "" && (e == nil || e.Target != r.target || e.Status != 400) {
			t.Errorf("%s: got %v, want a refusal at %q", r.body, err, r.target)
		}
		if r.target == "" && (w.Name != "a" || w.N != 4 || !w.On || w.Word != "FromImage" || w.In.X != "b" || len(w.List) != 1 || w.List[0].Y != "c" || w.Tags["T"] != "v") {
			t.Errorf("%s: got %+v", r.body, w)
		}
	}
}
