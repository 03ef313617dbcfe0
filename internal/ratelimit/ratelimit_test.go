package ratelimit

import (
	"fmt"
	"testing"
	"time"
)

func of(r Rate) func(string) Rate { return func(string) Rate { return r } }

func TestTake(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	l := New(of(Rate{20, 2}))
	for n := range 20 {
		if left, wait := l.Take("a", begin); wait != 0 || left != 19-n {
			t.Fatalf("call %d: %d left, waits %s", n+1, left, wait)
		}
	}
	for _, r := range []struct {
		name, caller string
		after        time.Duration
		wait         time.Duration
	}{
		{"one too many", "a", 0, 500 * time.Millisecond},
		{"being refused costs nothing", "a", 0, 500 * time.Millisecond},
		{"another caller", "b", 0, 0},
		{"a little later", "a", 200 * time.Millisecond, 300 * time.Millisecond},
		{"a clock that went back", "a", -time.Hour, 300 * time.Millisecond},
		{"when the wait is over", "a", 500 * time.Millisecond, 0},
		{"and then again too many", "a", 500 * time.Millisecond, 500 * time.Millisecond},
	} {
		if _, wait := l.Take(r.caller, begin.Add(r.after)); wait.Round(time.Millisecond) != r.wait {
			t.Errorf("%s: waits %s, want %s", r.name, wait, r.wait)
		}
	}
	later := begin.Add(time.Hour)
	for n := range 20 {
		if _, wait := l.Take("a", later); wait != 0 {
			t.Fatalf("after a rest, call %d waits %s", n+1, wait)
		}
	}
	if _, wait := l.Take("a", later); wait == 0 {
		t.Error("a rest gave more than one burst")
	}
}

// Many callers cost no more memory than those that are at work.
func TestForgets(t *testing.T) {
	l := New(of(Rate{20, 2}))
	at := time.Unix(1_800_000_000, 0)
	for n := range 3 * maxBuckets {
		at = at.Add(time.Second)
		for range 3 {
			l.Take("busy", at)
		}
		l.Take(fmt.Sprint(n), at)
	}
	if len(l.buckets) > maxBuckets+1 {
		t.Errorf("%d callers are remembered", len(l.buckets))
	}
	if _, wait := l.Take("busy", at); wait == 0 {
		t.Error("a busy caller was forgotten, and so not refused")
	}
}

func TestValid(t *testing.T) {
	for _, r := range []struct {
		rate Rate
		want bool
	}{{Rate{}, true}, {Rate{1, 0.1}, true}, {Rate{0, 1}, false}, {Rate{1, 0}, false}, {Rate{-1, 1}, false}} {
		if r.rate.Valid() != r.want {
			t.Errorf("%+v", r.rate)
		}
	}
}
