//go:build failpoints

package issuer

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

const crashDir = "CLOISTER_TEST_CRASH_DIR"

// life is a start, a token, a turn of keys, and the end of the first key.
func life(t *testing.T, dir string) *Issuer {
	t.Helper()
	i := open(t, dir, now)
	sign(t, i, now, TokenLife)
	for _, at := range []time.Duration{week, week + 48*time.Hour} {
		if _, err := i.Advance(now.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// The service is killed after each durable write of its keys' lives. Started again it goes on, and no key that was
// published is another one afterwards.
func TestKilledAtEachWrite(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		life(t, dir)
		return
	}
	for _, point := range []string{"attest/signing-key", "attest/signing-key#2", "attest/signing-key#3", "attest/key-schedule", "attest/key-schedule#2", "attest/key-schedule#3", "attest/key-schedule#4", "attest/key-schedule#5", "attest/key-retired"} {
		t.Run("CP-09 "+point, func(t *testing.T) {
			dir := t.TempDir()
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledAtEachWrite$")
			c.Env = append(os.Environ(), crashDir+"="+dir, "CLOISTER_FAILPOINT="+point)
			out, err := c.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed at the point: %v\n%s", err, out)
			}
			var published []string
			if _, err := os.Stat((&Issuer{dir: dir, name: "software"}).schedulePath()); err == nil {
				i := &Issuer{dir: dir, name: "software", url: url, rotation: Rotation{Every: week}}
				if err := i.load(now); err != nil {
					t.Fatal(err)
				}
				published = kids(i, now)
			}
			i := life(t, dir)
			end := now.Add(week + 48*time.Hour)
			want := 2 // the one in use and the next
			if point == "attest/signing-key" {
				want = 3 // a first key without a schedule may have signed tokens that live for a year
			}
			if got := kids(i, end); len(got) != want {
				t.Errorf("%d keys at the end, want %d", len(got), want)
			}
			for _, k := range i.published(end, true) {
				if k.Number < 3 && len(published) >= k.Number && !slices.Contains(published, k.kid) {
					t.Errorf("key %d was published and is another one now", k.Number)
				}
			}
		})
	}
}
