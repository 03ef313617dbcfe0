package main

import (
	"strings"
	"testing"
	"time"
)

// TestSlowWorkIsTold: nothing for two seconds, then each step.
func TestSlowWorkIsTold(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1767225600, 0)
	say := slow(&out, func() time.Time { return now })
	say("one")
	now = now.Add(2 * time.Second)
	say("two")
	now = now.Add(time.Millisecond)
	say("three")
	if out.String() != "  three …\n" {
		t.Errorf("%q", out.String())
	}
}

func TestStepsHaveTheirTimes(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1767225600, 0)
	next, finish := steps(&out, func() time.Time { return now })
	next("one")
	now = now.Add(1500 * time.Millisecond)
	next("two")
	now = now.Add(time.Second)
	finish()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "one") || !strings.HasSuffix(lines[0], "1.5 s") || !strings.HasSuffix(lines[1], "1.0 s") {
		t.Errorf("%q", out.String())
	}
}
