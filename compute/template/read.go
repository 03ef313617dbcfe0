package template

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth bounds the nesting of a document.
const MaxDepth = 48

// Read reads a JSON document as Azure's reader takes templates: comments are skipped, and a member's name may be bare
// ("template:"), which az sends. Else it is strict: UTF-8, no member twice (names have no case), nothing after the end.
// Whole numbers of 64 bits become int64; others stay texts of type Number. Mistakes have line and column.
func Read(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, invalid("", "the text is not UTF-8")
	}
	r := &reader{text: string(raw)}
	v, err := r.value("", 0)
	if err != nil {
		return nil, err
	}
	if err := r.blank(); err != nil {
		return nil, err
	}
	if r.at < len(r.text) {
		return nil, r.bad("", "text after the end")
	}
	return v, nil
}

// Number is a number that is no int64, as it was written.
type Number string

// MarshalJSON writes it as it came.
func (n Number) MarshalJSON() ([]byte, error) { return []byte(n), nil }

var numberForm = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

type reader struct {
	text string
	at   int
}

// bad tells a place: the path of the value, line and column in bytes, both from 1.
func (r *reader) bad(path, format string, args ...any) error {
	at := min(r.at, len(r.text))
	line := strings.Count(r.text[:at], "\n")
	column := at - strings.LastIndex(r.text[:at], "\n")
	return invalid(path, "%s at line '%d' and column '%d'", fmt.Sprintf(format, args...), line+1, column)
}

// blank skips white space and comments.
func (r *reader) blank() error {
	for r.at < len(r.text) {
		rest := r.text[r.at:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0:
			r.at++
		case strings.HasPrefix(rest, "\ufeff") && r.at == 0:
			r.at += len("\ufeff")
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			r.at += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				return r.bad("", "a comment does not end")
			}
			r.at += 2 + end + 2
		default:
			return nil
		}
	}
	return nil
}

func (r *reader) value(path string, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, r.bad(path, "nested deeper than %d", MaxDepth)
	}
	if err := r.blank(); err != nil {
		return nil, err
	}
	if r.at >= len(r.text) {
		return nil, r.bad(path, "it ends too early")
	}
	switch c := r.text[r.at]; {
	case c == '{':
		return r.object(path, depth)
	case c == '[':
		return r.array(path, depth)
	case c == '"':
		return r.str(path)
	case c == '-' || c >= '0' && c <= '9':
		return r.number(path)
	}
	for word, v := range map[string]any{"true": true, "false": false, "null": nil} {
		if strings.HasPrefix(r.text[r.at:], word) {
			r.at += len(word)
			return v, nil
		}
	}
	return nil, r.bad(path, "want a JSON value")
}

func (r *reader) object(path string, depth int) (any, error) {
	r.at++
	obj, folded := map[string]any{}, map[string]bool{}
	for {
		if err := r.blank(); err != nil {
			return nil, err
		}
		if r.eat('}') && len(obj) == 0 {
			return obj, nil
		}
		name, err := r.name(path)
		if err != nil {
			return nil, err
		}
		if folded[strings.ToLower(name)] {
			return nil, r.bad(path, "member '%s' comes twice", clip(name))
		}
		folded[strings.ToLower(name)] = true
		if err := r.blank(); err != nil {
			return nil, err
		}
		if !r.eat(':') {
			return nil, r.bad(path, "want ':' after a member's name")
		}
		if obj[name], err = r.value(join(path, name), depth+1); err != nil {
			return nil, err
		}
		if done, err := r.next('}', path); done || err != nil {
			return obj, err
		}
	}
}

func (r *reader) array(path string, depth int) (any, error) {
	r.at++
	list := []any{}
	if err := r.blank(); err != nil {
		return nil, err
	}
	if r.eat(']') {
		return list, nil
	}
	for {
		v, err := r.value(fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if done, err := r.next(']', path); done || err != nil {
			return list, err
		}
	}
}

func (r *reader) eat(c byte) bool {
	if r.at < len(r.text) && r.text[r.at] == c {
		r.at++
		return true
	}
	return false
}

// next reads a comma, or the end.
func (r *reader) next(end byte, path string) (bool, error) {
	if err := r.blank(); err != nil {
		return false, err
	}
	switch {
	case r.eat(end):
		return true, nil
	case r.eat(','):
		return false, nil
	}
	return false, r.bad(path, "want ',' or '%c'", end)
}

func (r *reader) name(path string) (string, error) {
	if r.at < len(r.text) && r.text[r.at] == '"' {
		return r.str(path)
	}
	begin := r.at
	for r.at < len(r.text) && (isName(r.text[r.at]) || r.text[r.at] == '$' || r.text[r.at] == '-') {
		r.at++
	}
	if begin == r.at {
		return "", r.bad(path, "want a member's name")
	}
	return r.text[begin:r.at], nil
}

func isName(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (r *reader) number(path string) (any, error) {
	begin := r.at
	for r.at < len(r.text) && strings.IndexByte("+-.eE0123456789", r.text[r.at]) >= 0 {
		r.at++
	}
	text := r.text[begin:r.at]
	if len(text) > 64 || !numberForm.MatchString(text) {
		r.at = begin
		return nil, r.bad(path, "'%s' is no number", clip(text))
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	return Number(text), nil
}

var escapes = map[byte]string{'"': `"`, '\\': `\`, '/': "/", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t"}

func (r *reader) str(path string) (string, error) {
	r.at++
	var b strings.Builder
	for {
		if r.at >= len(r.text) {
			return "", r.bad(path, "a string does not end")
		}
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"':
			return b.String(), nil
		case c < 0x20 && c != '\n' && c != '\r' && c != '\t': // az sends strings of several lines as they are in the file
			return "", r.bad(path, "a control character in a string")
		case c != '\\':
			b.WriteByte(c)
			continue
		}
		if r.at >= len(r.text) {
			return "", r.bad(path, "a string does not end")
		}
		c = r.text[r.at]
		r.at++
		if s, ok := escapes[c]; ok {
			b.WriteString(s)
			continue
		}
		first, ok := r.hex4()
		if c != 'u' || !ok {
			return "", r.bad(path, "an unknown escape in a string")
		}
		if utf16.IsSurrogate(first) {
			second := rune(0)
			if strings.HasPrefix(r.text[r.at:], `\u`) {
				r.at += 2
				second, ok = r.hex4()
			}
			if first = utf16.DecodeRune(first, second); !ok || first == utf8.RuneError {
				return "", r.bad(path, "half a surrogate pair in a string")
			}
		}
		b.WriteRune(first)
	}
}

func (r *reader) hex4() (rune, bool) {
	if r.at+4 > len(r.text) {
		return 0, false
	}
	n, err := strconv.ParseUint(r.text[r.at:r.at+4], 16, 16)
	if err != nil {
		return 0, false
	}
	r.at += 4
	return rune(n), true
}

// join adds a member to a path. A name that would read as several gets brackets.
func join(path, name string) string {
	if strings.ContainsAny(name, ".[]'") {
		return path + "['" + clip(name) + "']"
	}
	if path == "" {
		return clip(name)
	}
	return path + "." + clip(name)
}

// clip keeps what strangers wrote short in messages.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
