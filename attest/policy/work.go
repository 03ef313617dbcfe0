package policy

import (
	"fmt"
	"math/bits"
	"regexp"
	"strings"
)

// cost is what a call counts, before it is made.
func cost(function string, args []Value) int {
	n := 1
	for _, a := range args {
		n += size(a)
	}
	switch function {
	case "JmesPath":
		doc, okDoc := args[0].(string)
		query, okQuery := args[1].(string)
		if okDoc && okQuery {
			if work, err := growth(query, len(doc)); err == nil { // a refused query is never run
				n += work / 1024
			}
		}
	case "IsSubsetOf":
		n += len(members(args[0])) * len(members(args[1]))
	}
	return n
}

// size is what a pass over a value counts.
func size(v Value) int {
	n := 0
	for _, m := range members(v) {
		s, _ := m.(string)
		n += weight(len(s))
	}
	return n
}

// joins finds uses of join whose separator is not written out.
var joins = regexp.MustCompile("join\\s*\\(\\s*([^'`\\s]|$)")

// growth bounds the bytes that a query makes of a document. A query can copy what it reads: each entry of a list
// or an object but the first, and each text made of JSON (quotes are escaped), at most doubles it; a text that is
// written in the query can take the place of each value. Queries beyond the bound are refused before they run,
// since the library that runs them has no bound of its own.
func growth(query string, document int) (int, error) {
	if joins.MatchString(query) {
		return 0, fmt.Errorf("join with a separator that is not written out")
	}
	texts := strings.Count(query, "to_string") + strings.Count(query, "join")
	doublings := strings.Count(query, ",") + texts
	if texts > 0 {
		doublings += bits.Len(uint(len(query)))
	}
	if most := bits.Len(uint(maxWork / (document + 1))); doublings >= most {
		return 0, fmt.Errorf("a query that may copy its document 2^%d times, and the document has %d bytes", doublings, document)
	}
	return (document + 1) << doublings, nil
}

// sized subtracts what the JSON text of a value takes at least from a budget in bytes, and stops below 0. Parts of a
// query's result may be shared, so that its text can be much larger than what lies in memory.
func sized(v any, budget int) int {
	budget--
	switch v := v.(type) {
	case string:
		return budget - len(v)
	case []any:
		for _, e := range v {
			if budget = sized(e, budget); budget < 0 {
				return budget
			}
		}
	case map[string]any:
		for name, e := range v {
			if budget = sized(e, budget-len(name)-3); budget < 0 {
				return budget
			}
		}
	}
	return budget
}
