package claims

import (
	"maps"
	"slices"
)

// keys lists the members of an object in alphabetical order.
func keys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
