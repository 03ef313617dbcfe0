// Package failpoint names the durable writes of the journey, so that tests can kill a process at each.
//
// A point does nothing in an ordinary build. In a build with the tag "failpoints", the process kills
// itself with SIGKILL when it reaches the point that CLOISTER_FAILPOINT names ("name" or "name#n" for
// the n-th time, from 1).
package failpoint

import (
	"fmt"
	"sort"
	"sync"
)

// Point is a place right after a durable write.
type Point struct{ name string }

var (
	mu    sync.Mutex
	names = map[string]bool{}
)

// New registers a point; call it from a package-level variable. The name is "package/what-was-written".
func New(name string) Point {
	mu.Lock()
	defer mu.Unlock()
	if names[name] {
		panic(fmt.Sprintf("failpoint %q registered twice", name))
	}
	names[name] = true
	return Point{name}
}

// Names lists the registered points, sorted.
func Names() []string {
	mu.Lock()
	defer mu.Unlock()
	out := make([]string, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}
