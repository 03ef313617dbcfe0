package dcap

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

// Bounds of documents. Real ones have up to 8 KiB and 25 levels.
const (
	maxDocument   = 256 << 10 // bytes
	maxLevels     = 256
	maxAdvisories = 256
)

// document is a signed one of Intel's: the exact bytes that were signed, and what they say.
type document struct {
	signed    []byte
	signature [64]byte
	members   members
}

// parseDocument reads {"<name>":{…},"signature":"<128 hexadecimal digits>"}. No member comes twice at any depth.
func parseDocument(name string, raw []byte) (*document, error) {
	if len(raw) == 0 || len(raw) > maxDocument {
		return nil, evidence.Refuse(evidence.CodeParse, name, fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("1 to %d bytes", maxDocument))
	}
	outer, err := strictjson.ObjectWithNumbers(name, raw)
	if err != nil {
		return nil, err
	}
	// The signature is over the bytes as they came: they must not be decoded and encoded again.
	var exact map[string]json.RawMessage
	if err := json.Unmarshal(raw, &exact); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, name, err.Error(), "a JSON object")
	}
	top := &members{path: name, values: outer}
	d := &document{members: top.object(name), signed: []byte(exact[name])}
	top.hex("signature", d.signature[:])
	if len(outer) != 2 {
		top.fail(name, fmt.Sprintf("%d members", len(outer)), "the document and its signature")
	}
	if top.err != nil {
		return nil, top.err
	}
	return d, nil
}

// members reads an object's members by name and type. The first thing wrong is kept in err, and read on is zero. Members not
// asked for are passed over: Intel adds some.
type members struct {
	path   string
	values map[string]any
	err    error
}

func (m *members) fail(name, got, want string) {
	if m.err == nil {
		m.err = evidence.Refuse(evidence.CodeParse, m.path+"."+name, got, want)
	}
}

func (m *members) has(name string) bool { _, ok := m.values[name]; return ok }

func (m *members) object(name string) members {
	v, ok := m.values[name].(map[string]any)
	if !ok {
		m.fail(name, "absent or another type", "an object")
	}
	return members{path: m.path + "." + name, values: v}
}

// list calls each with every object of a list of least to most.
func (m *members) list(name string, least, most int, each func(*members)) {
	v, ok := m.values[name].([]any)
	if !ok || len(v) < least || len(v) > most {
		m.fail(name, fmt.Sprintf("absent or %d elements", len(v)), fmt.Sprintf("%d to %d", least, most))
		return
	}
	for i, item := range v {
		obj, ok := item.(map[string]any)
		if !ok {
			m.fail(name, "an element of another type", "objects")
			return
		}
		sub := &members{path: fmt.Sprintf("%s.%s[%d]", m.path, name, i), values: obj}
		each(sub)
		m.join(sub)
	}
}

func (m *members) join(sub *members) {
	if m.err == nil {
		m.err = sub.err
	}
}

func (m *members) text(name string) string {
	s, ok := m.values[name].(string)
	if !ok {
		m.fail(name, "absent or another type", "a string")
	}
	return s
}

// hex fills to with hexadecimal digits of either case, exactly as many as it takes.
func (m *members) hex(name string, to []byte) {
	s := m.text(name)
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(to) {
		m.fail(name, fmt.Sprintf("%d characters", len(s)), fmt.Sprintf("%d hexadecimal digits", 2*len(to)))
		return
	}
	copy(to, b)
}

// number reads a whole number without sign, point or exponent.
func (m *members) number(name string, bits int) uint64 {
	v, ok := m.values[name].(json.Number)
	n, err := strconv.ParseUint(string(v), 10, bits)
	if !ok || err != nil {
		m.fail(name, fmt.Sprintf("absent or %.20q", string(v)), fmt.Sprintf("a whole number of %d bits", bits))
		return 0
	}
	return n
}

func (m *members) time(name string) time.Time {
	s := m.text(name)
	t, err := time.Parse("2006-01-02T15:04:05Z", s)
	if err != nil || t.IsZero() {
		m.fail(name, fmt.Sprintf("%.30q", s), "a time as 2006-01-02T15:04:05Z")
	}
	return t
}

// status reads a status. One that is not known is refused as such.
func (m *members) status() Status {
	s, err := ParseStatus(m.text("tcbStatus"))
	if err != nil && m.err == nil {
		m.err = err
	}
	return s
}

// advisories reads the ids of a level; most levels have none.
func (m *members) advisories() []string {
	if !m.has("advisoryIDs") {
		return nil
	}
	v, ok := m.values["advisoryIDs"].([]any)
	if !ok || len(v) > maxAdvisories {
		m.fail("advisoryIDs", "another type, or too many", "a list of strings")
		return nil
	}
	out := make([]string, 0, len(v))
	for _, item := range v {
		s, ok := item.(string)
		if !ok || s == "" {
			m.fail("advisoryIDs", "an element of another type", "a list of strings")
			return nil
		}
		out = append(out, s)
	}
	return out
}
