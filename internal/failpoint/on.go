//go:build failpoints

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var hits atomic.Int64

// Hit kills the process when CLOISTER_FAILPOINT names this point.
func (p Point) Hit() {
	name, nth, numbered := strings.Cut(os.Getenv("CLOISTER_FAILPOINT"), "#")
	if name != p.name {
		return
	}
	want := int64(1)
	if numbered {
		n, err := strconv.ParseInt(nth, 10, 64)
		if err != nil {
			return
		}
		want = n
	}
	if hits.Add(1) == want {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal arrives at once, but nothing after this point may run
	}
}
