package template

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxRange bounds range, as Azure does.
const maxRange = 10_000

// pureFunctions look at their arguments only.
var pureFunctions = map[string]function{
	"concat": {min: 1, max: -1, pure: concat}, "format": {min: 1, max: -1, pure: format},
	"uniquestring": {min: 1, max: -1, pure: joined(UniqueString)}, "guid": {min: 1, max: -1, pure: joined(GUID)},
	"tolower": textual(func(s string) any { return strings.ToLower(s) }), "toupper": textual(func(s string) any { return strings.ToUpper(s) }),
	"trim": textual(func(s string) any { return strings.TrimSpace(s) }), "base64": textual(func(s string) any { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"uricomponent":   textual(func(s string) any { return uriComponent(s) }),
	"base64tostring": {min: 1, max: 1, pure: base64ToString}, "base64tojson": {min: 1, max: 1, pure: base64ToJSON}, "json": {min: 1, max: 1, pure: fromJSON},
	"uri": {min: 2, max: 2, pure: uri}, "substring": {min: 2, max: 3, pure: substring}, "replace": {min: 3, max: 3, pure: replace}, "split": {min: 2, max: 2, pure: split},
	"join": {min: 2, max: 2, pure: joinList}, "padleft": {min: 2, max: 3, pure: padLeft},
	"startswith": folded(strings.HasPrefix), "endswith": folded(strings.HasSuffix), "indexof": index(strings.Index), "lastindexof": index(strings.LastIndex),
	"length": {min: 1, max: 1, pure: length}, "empty": {min: 1, max: 1, pure: empty}, "contains": {min: 2, max: 2, pure: contains},
	"first": {min: 1, max: 1, pure: end(true)}, "last": {min: 1, max: 1, pure: end(false)}, "skip": {min: 2, max: 2, pure: part(false)}, "take": {min: 2, max: 2, pure: part(true)},
	"equals": {min: 2, max: 2, pure: func(a []any) (any, error) { return equal(a[0], a[1]), nil }},
	"less":   compared(func(c int) bool { return c < 0 }), "lessorequals": compared(func(c int) bool { return c <= 0 }),
	"greater": compared(func(c int) bool { return c > 0 }), "greaterorequals": compared(func(c int) bool { return c >= 0 }),
	"and": {min: 2, max: -1, pure: all(true)}, "or": {min: 2, max: -1, pure: all(false)}, "not": {min: 1, max: 1, pure: not},
	"true": constant(true), "false": constant(false), "null": constant(nil),
	"add": arithmetic(sum), "sub": arithmetic(difference), "mul": arithmetic(product), "div": arithmetic(quotient), "mod": arithmetic(remainder),
	"int": {min: 1, max: 1, pure: toInt}, "string": {min: 1, max: 1, pure: func(a []any) (any, error) { return text(a[0]), nil }}, "bool": {min: 1, max: 1, pure: toBool},
	"array": {min: 1, max: 1, pure: toArray}, "createarray": {max: -1, pure: func(a []any) (any, error) { return append([]any{}, a...), nil }}, "createobject": {max: -1, pure: createObject},
	"union": {min: 2, max: -1, pairs: true, pure: union}, "intersection": {min: 2, max: -1, pairs: true, pure: intersection}, "coalesce": {min: 1, max: -1, pure: coalesce},
	"min": extreme(-1), "max": extreme(1), "range": {min: 2, max: 2, pure: rangeOf}, "items": {min: 1, max: 1, pure: items}, "flatten": {min: 1, max: 1, pure: flatten},
}

func constant(v any) function { return function{pure: func([]any) (any, error) { return v, nil }} }

func texts(args []any) ([]string, error) {
	out := make([]string, len(args))
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			return nil, wrongType(args, i, "String")
		}
		out[i] = s
	}
	return out, nil
}

func textual(f func(string) any) function {
	return function{min: 1, max: 1, pure: func(args []any) (any, error) {
		s, err := texts(args)
		if err != nil {
			return nil, err
		}
		return f(s[0]), nil
	}}
}

func folded(f func(string, string) bool) function {
	return function{min: 2, max: 2, pure: func(args []any) (any, error) {
		s, err := texts(args)
		if err != nil {
			return nil, err
		}
		return f(strings.ToLower(s[0]), strings.ToLower(s[1])), nil
	}}
}

// index counts as .NET does: in units of UTF-16, without case.
func index(f func(string, string) int) function {
	return function{min: 2, max: 2, pure: func(args []any) (any, error) {
		s, err := texts(args)
		if err != nil {
			return nil, err
		}
		in := strings.ToLower(s[0])
		at := f(in, strings.ToLower(s[1]))
		if at < 0 {
			return int64(-1), nil
		}
		return int64(len(units(in[:at]))), nil
	}}
}

func units(s string) []uint16 { return utf16.Encode([]rune(s)) }

func joined(f func(string) string) func([]any) (any, error) {
	return func(args []any) (any, error) {
		parts := make([]string, len(args))
		for i, a := range args {
			switch a.(type) {
			case string, int64, bool:
				parts[i] = text(a)
			default:
				return nil, wrongType(args, i, "String")
			}
		}
		return f(strings.Join(parts, "-")), nil
	}
}

func concat(args []any) (any, error) {
	if _, is := args[0].([]any); is {
		out := []any{}
		for i, a := range args {
			list, ok := a.([]any)
			if !ok {
				return nil, wrongType(args, i, "Array")
			}
			out = append(out, list...)
		}
		return out, nil
	}
	var b strings.Builder
	for i, a := range args {
		switch a.(type) {
		case string, int64, bool, Number:
			b.WriteString(text(a))
		default:
			return nil, wrongType(args, i, "String")
		}
	}
	return b.String(), nil
}

// format fills in "{0}"; "{0:D3}" and "{0:X}" are the only forms of a number that are served.
func format(args []any) (any, error) {
	form, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	var b strings.Builder
	for at := 0; at < len(form); {
		c := form[at]
		switch {
		case (c == '{' || c == '}') && strings.HasPrefix(form[at+1:], string(c)):
			b.WriteByte(c)
			at += 2
		case c == '{':
			end := strings.IndexByte(form[at:], '}')
			if end < 0 {
				return nil, problem("the format has a '{' without its '}'")
			}
			s, err := formatOne(form[at+1:at+end], args[1:])
			if err != nil {
				return nil, err
			}
			b.WriteString(s)
			at += end + 1
		case c == '}':
			return nil, problem("the format has a '}' without its '{'")
		default:
			b.WriteByte(c)
			at++
		}
		if b.Len() > maxSize {
			return nil, problem("the result is longer than %d bytes", maxSize)
		}
	}
	return b.String(), nil
}

func formatOne(hole string, args []any) (string, error) {
	where, how, styled := strings.Cut(hole, ":")
	n, err := strconv.ParseUint(where, 10, 8)
	if err != nil {
		return "", problem("the format item '{%s}' is not supported: want a number, as in {0} or {0:D2}", clip(hole))
	}
	if n >= uint64(len(args)) {
		return "", problem("the format item '{%s}' has no argument", clip(hole))
	}
	if !styled {
		return text(args[n]), nil
	}
	i, ok := args[n].(int64)
	width, err := strconv.ParseUint("0"+how[min(1, len(how)):], 10, 8)
	if ok && err == nil && width < 100 && how != "" {
		sign, abs := "", strconv.FormatUint(magnitude(i), 10)
		if i < 0 {
			sign = "-"
		}
		switch how[0] {
		case 'D', 'd':
			return sign + strings.Repeat("0", max(0, int(width)-len(abs))) + abs, nil
		case 'X':
			return fmt.Sprintf("%0*X", int(width), uint64(i)), nil
		case 'x':
			return fmt.Sprintf("%0*x", int(width), uint64(i)), nil
		}
	}
	return "", problem("the format item '{%s}' is not supported: want a text, or an integer as in {0:D2} or {0:X}", clip(hole))
}

func magnitude(i int64) uint64 {
	if i < 0 {
		return uint64(-(i + 1)) + 1
	}
	return uint64(i)
}

func uriComponent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if isName(c) || strings.IndexByte("-.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func uri(args []any) (any, error) {
	s, err := texts(args)
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(s[0])
	if err != nil || !base.IsAbs() {
		return nil, problem("the base '%s' is no absolute URI", clip(s[0]))
	}
	ref, err := url.Parse(s[1])
	if err != nil {
		return nil, problem("'%s' is no URI", clip(s[1]))
	}
	return base.ResolveReference(ref).String(), nil
}

func base64ToString(args []any) (any, error) {
	s, err := texts(args)
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(s[0])
	if err != nil || !utf8.Valid(raw) {
		return nil, problem("the argument is not base64 of UTF-8") // its text may be a secret
	}
	return string(raw), nil
}

func base64ToJSON(args []any) (any, error) {
	s, err := base64ToString(args)
	if err != nil {
		return nil, err
	}
	return fromJSON([]any{s})
}

func fromJSON(args []any) (any, error) {
	s, err := texts(args)
	if err != nil {
		return nil, err
	}
	v, err := Read([]byte(s[0]))
	if err != nil {
		return nil, problem("the argument is no JSON")
	}
	return v, nil
}

func bounds(args []any, from int) ([]int64, error) {
	var out []int64
	for i, a := range args[from:] {
		n, ok := a.(int64)
		if !ok {
			return nil, wrongType(args, from+i, "Integer")
		}
		out = append(out, n)
	}
	return out, nil
}

func substring(args []any) (any, error) {
	s, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	n, err := bounds(args, 1)
	if err != nil {
		return nil, err
	}
	u := units(s)
	size := int64(len(u))
	if len(n) == 1 {
		n = append(n, size-n[0])
	}
	if n[0] < 0 || n[1] < 0 || n[0] > size || n[1] > size-n[0] {
		return nil, problem("The index and length parameters must refer to a location within the string. The index parameter: '%d', the length parameter: '%d', the length of the string parameter: '%d'", n[0], n[1], size)
	}
	return string(utf16.Decode(u[n[0] : n[0]+n[1]])), nil
}

func replace(args []any) (any, error) {
	s, err := texts(args)
	if err != nil {
		return nil, err
	}
	if s[1] == "" {
		return nil, problem("the text to be replaced is empty")
	}
	if n := strings.Count(s[0], s[1]); len(s[0])+n*len(s[2]) > maxSize {
		return nil, problem("the result is longer than %d bytes", maxSize)
	}
	return strings.ReplaceAll(s[0], s[1], s[2]), nil
}

func split(args []any) (any, error) {
	s, ok := args[0].(string)
	if !ok {
		return nil, wrongType(args, 0, "String")
	}
	var at []string
	switch d := args[1].(type) {
	case string:
		at = []string{d}
	case []any:
		var err error
		if at, err = texts(d); err != nil {
			return nil, wrongType(args, 1, "String")
		}
	default:
		return nil, wrongType(args, 1, "String")
	}
	out := []any{}
	begin := 0
next:
	for i := 0; i < len(s); {
		for _, d := range at {
			if d != "" && strings.HasPrefix(s[i:], d) {
				out = append(out, s[begin:i])
				i += len(d)
				begin = i
				continue next
			}
		}
		i++
	}
	return append(out, s[begin:]), nil
}

func joinList(args []any) (any, error) {
	list, ok := args[0].([]any)
	if !ok {
		return nil, wrongType(args, 0, "Array")
	}
	between, ok := args[1].(string)
	if !ok {
		return nil, wrongType(args, 1, "String")
	}
	parts, size := make([]string, len(list)), 0
	for i, v := range list {
		parts[i] = text(v)
		size += len(parts[i]) + len(between)
	}
	if size > maxSize {
		return nil, problem("the result is longer than %d bytes", maxSize)
	}
	return strings.Join(parts, between), nil
}

func padLeft(args []any) (any, error) {
	with := " "
	if len(args) == 3 {
		s, ok := args[2].(string)
		if !ok || len(units(s)) != 1 {
			return nil, problem("the text to pad with must be one character")
		}
		with = s
	}
	switch args[0].(type) {
	case string, int64:
	default:
		return nil, wrongType(args, 0, "String")
	}
	n, ok := args[1].(int64)
	if !ok || n < 0 || n > 16 { // Azure's bound
		return nil, problem("the length is %s; want 0 to 16", show(args[1]))
	}
	s := text(args[0])
	return strings.Repeat(with, max(0, int(n)-len(units(s)))) + s, nil
}

func length(args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(len(units(v))), nil
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return nil, wrongType(args, 0, "Array")
}

func empty(args []any) (any, error) {
	if args[0] == nil {
		return true, nil
	}
	n, err := length(args)
	if err != nil {
		return nil, err
	}
	return n == int64(0), nil
}

func contains(args []any) (any, error) {
	switch in := args[0].(type) {
	case string:
		switch args[1].(type) {
		case string, int64:
			return strings.Contains(in, text(args[1])), nil
		}
		return nil, wrongType(args, 1, "String")
	case []any:
		return slices.ContainsFunc(in, func(v any) bool { return equal(v, args[1]) }), nil
	case map[string]any:
		name, ok := args[1].(string)
		if !ok {
			return nil, wrongType(args, 1, "String")
		}
		_, has := get(in, name)
		return has, nil
	}
	return nil, wrongType(args, 0, "Array")
}

func end(first bool) func([]any) (any, error) {
	return func(args []any) (any, error) {
		switch v := args[0].(type) {
		case string:
			u := units(v)
			if len(u) == 0 {
				return "", nil
			}
			if first {
				return string(utf16.Decode(u[:1])), nil
			}
			return string(utf16.Decode(u[len(u)-1:])), nil
		case []any:
			switch {
			case len(v) == 0:
				return nil, nil
			case first:
				return v[0], nil
			}
			return v[len(v)-1], nil
		}
		return nil, wrongType(args, 0, "Array")
	}
}

func part(take bool) func([]any) (any, error) {
	return func(args []any) (any, error) {
		n, ok := args[1].(int64)
		if !ok {
			return nil, wrongType(args, 1, "Integer")
		}
		switch v := args[0].(type) {
		case string:
			u := units(v)
			i := max(0, min(n, int64(len(u))))
			if take {
				return string(utf16.Decode(u[:i])), nil
			}
			return string(utf16.Decode(u[i:])), nil
		case []any:
			i := max(0, min(n, int64(len(v))))
			if take {
				return append([]any{}, v[:i]...), nil
			}
			return append([]any{}, v[i:]...), nil
		}
		return nil, wrongType(args, 0, "Array")
	}
}

// equal compares texts with case and names of members without.
func equal(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			w, has := get(b, k)
			if !has || !equal(v, w) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case []any, map[string]any:
		return false
	}
	return a == b
}

func compared(f func(int) bool) function {
	return function{min: 2, max: 2, pure: func(args []any) (any, error) {
		if a, ok := args[0].(string); ok {
			b, ok := args[1].(string)
			if !ok {
				return nil, wrongType(args, 1, "String")
			}
			return f(strings.Compare(a, b)), nil
		}
		n, err := bounds(args, 0)
		if err != nil {
			return nil, err
		}
		switch {
		case n[0] < n[1]:
			return f(-1), nil
		case n[0] > n[1]:
			return f(1), nil
		}
		return f(0), nil
	}}
}

func all(neutral bool) func([]any) (any, error) {
	return func(args []any) (any, error) {
		out := neutral
		for i, a := range args {
			b, ok := a.(bool)
			if !ok {
				return nil, wrongType(args, i, "Boolean")
			}
			if b != neutral {
				out = b
			}
		}
		return out, nil
	}
}

func not(args []any) (any, error) {
	b, ok := args[0].(bool)
	if !ok {
		return nil, wrongType(args, 0, "Boolean")
	}
	return !b, nil
}

var errOverflow = problem("the result is no integer of 64 bits")

func arithmetic(f func(int64, int64) (any, error)) function {
	return function{min: 2, max: 2, pure: func(args []any) (any, error) {
		n, err := bounds(args, 0)
		if err != nil {
			return nil, err
		}
		return f(n[0], n[1])
	}}
}

func sum(a, b int64) (any, error) {
	if c := a + b; (c > a) == (b > 0) {
		return c, nil
	}
	return nil, errOverflow
}

func difference(a, b int64) (any, error) {
	if c := a - b; (c < a) == (b > 0) {
		return c, nil
	}
	return nil, errOverflow
}

func product(a, b int64) (any, error) {
	if a == 0 || b == 0 {
		return int64(0), nil
	}
	if c := a * b; c/b == a && (a != -1 || b != math.MinInt64) && (b != -1 || a != math.MinInt64) {
		return c, nil
	}
	return nil, errOverflow
}

func quotient(a, b int64) (any, error) {
	switch {
	case b == 0:
		return nil, problem("division by zero")
	case a == math.MinInt64 && b == -1:
		return nil, errOverflow
	}
	return a / b, nil
}

func remainder(a, b int64) (any, error) {
	switch b {
	case 0:
		return nil, problem("division by zero")
	case -1:
		return int64(0), nil
	}
	return a % b, nil
}

func whole(s string) (int64, error) {
	head, tail, _ := strings.Cut(s, ".")
	if strings.Trim(tail, "0") != "" {
		return 0, problem("it is no integer of 64 bits")
	}
	n, err := strconv.ParseInt(head, 10, 64)
	if err != nil {
		return 0, problem("it is no integer of 64 bits")
	}
	return n, nil
}

func toInt(args []any) (any, error) {
	switch v := args[0].(type) {
	case int64:
		return v, nil
	case Number:
		return whole(string(v))
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		if err != nil {
			return nil, problem("the text is no integer of 64 bits")
		}
		return n, nil
	}
	return nil, wrongType(args, 0, "Integer")
}

func toBool(args []any) (any, error) {
	switch v := args[0].(type) {
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	case string:
		switch strings.ToLower(v) {
		case "true", "1":
			return true, nil
		case "false", "0":
			return false, nil
		}
		return nil, problem("the text is neither true nor false")
	}
	return nil, wrongType(args, 0, "Boolean")
}

func toArray(args []any) (any, error) {
	if list, ok := args[0].([]any); ok {
		return list, nil
	}
	return []any{args[0]}, nil
}

func createObject(args []any) (any, error) {
	if len(args)%2 != 0 {
		return nil, problem("it has %d arguments; want names and values in pairs", len(args))
	}
	out := map[string]any{}
	for i := 0; i < len(args); i += 2 {
		name, ok := args[i].(string)
		if !ok {
			return nil, wrongType(args, i, "String")
		}
		if _, twice := get(out, name); twice {
			return nil, problem("the name '%s' comes twice", clip(name))
		}
		out[name] = args[i+1]
	}
	return out, nil
}

func lists(args []any) ([][]any, bool) {
	out := make([][]any, len(args))
	for i, a := range args {
		list, ok := a.([]any)
		if !ok {
			return nil, false
		}
		out[i] = list
	}
	return out, true
}

func objects(args []any) ([]map[string]any, error) {
	out := make([]map[string]any, len(args))
	for i, a := range args {
		obj, ok := a.(map[string]any)
		if !ok {
			return nil, wrongType(args, i, kindOf(args[0]))
		}
		out[i] = obj
	}
	return out, nil
}

// maxCompared bounds the lists whose elements are compared with each other.
const maxCompared = 512

func union(args []any) (any, error) {
	if ls, ok := lists(args); ok {
		out := []any{}
		for _, l := range ls {
			for _, v := range l {
				if !slices.ContainsFunc(out, func(x any) bool { return equal(x, v) }) {
					out = append(out, v)
				}
			}
			if len(out) > maxCompared {
				return nil, problem("the lists have more than %d elements", maxCompared)
			}
		}
		return out, nil
	}
	objs, err := objects(args)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, o := range objs {
		out = merge(out, o)
	}
	return out, nil
}

// merge puts the second over the first; objects in both are merged too.
func merge(under, over map[string]any) map[string]any {
	out, spelling := map[string]any{}, map[string]string{}
	for k, v := range under {
		out[k], spelling[strings.ToLower(k)] = v, k
	}
	for _, k := range keys(over) {
		v, name := over[k], k
		if have, ok := spelling[strings.ToLower(k)]; ok {
			name = have
			a, okA := out[have].(map[string]any)
			if b, okB := v.(map[string]any); okA && okB {
				v = merge(a, b)
			}
		}
		out[name], spelling[strings.ToLower(k)] = v, name
	}
	return out
}

func intersection(args []any) (any, error) {
	if ls, ok := lists(args); ok {
		out := []any{}
		for _, l := range ls {
			if len(l) > maxCompared {
				return nil, problem("a list has more than %d elements", maxCompared)
			}
		}
		for _, v := range ls[0] {
			in := !slices.ContainsFunc(out, func(x any) bool { return equal(x, v) })
			for _, l := range ls[1:] {
				in = in && slices.ContainsFunc(l, func(x any) bool { return equal(x, v) })
			}
			if in {
				out = append(out, v)
			}
		}
		return out, nil
	}
	objs, err := objects(args)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for k, v := range objs[0] {
		in := true
		for _, o := range objs[1:] {
			w, has := get(o, k)
			in = in && has && equal(v, w)
		}
		if in {
			out[k] = v
		}
	}
	return out, nil
}

func coalesce(args []any) (any, error) {
	for _, a := range args {
		if a != nil {
			return a, nil
		}
	}
	return nil, nil
}

func extreme(sign int64) function {
	return function{min: 1, max: -1, pure: func(args []any) (any, error) {
		if list, ok := args[0].([]any); ok && len(args) == 1 {
			args = list
		}
		n, err := bounds(args, 0)
		if err != nil {
			return nil, err
		}
		if len(n) == 0 {
			return nil, problem("the list is empty")
		}
		if sign < 0 {
			return slices.Min(n), nil
		}
		return slices.Max(n), nil
	}}
}

func rangeOf(args []any) (any, error) {
	n, err := bounds(args, 0)
	if err != nil {
		return nil, err
	}
	if n[1] < 0 || n[1] > maxRange || n[0] < -math.MaxInt32 || n[0] > math.MaxInt32-n[1] {
		return nil, problem("it is asked for %d integers from %d; at most %d, and none above %d", n[1], n[0], maxRange, math.MaxInt32)
	}
	out := make([]any, n[1])
	for i := range out {
		out[i] = n[0] + int64(i)
	}
	return out, nil
}

func items(args []any) (any, error) {
	obj, ok := args[0].(map[string]any)
	if !ok {
		return nil, wrongType(args, 0, "Object")
	}
	out := []any{}
	for _, k := range keys(obj) {
		out = append(out, map[string]any{"key": k, "value": obj[k]})
	}
	return out, nil
}

func flatten(args []any) (any, error) {
	list, ok := args[0].([]any)
	if !ok {
		return nil, wrongType(args, 0, "Array")
	}
	out := []any{}
	for _, v := range list {
		inner, ok := v.([]any)
		if !ok {
			return nil, problem("an element is of type '%s'; want 'Array'", kindOf(v))
		}
		out = append(out, inner...)
	}
	return out, nil
}
