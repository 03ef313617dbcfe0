package challenge_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloister.dev/cloister/attest/challenge"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/store"
	"cloister.dev/cloister/store/embedded"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Every store passes the same tests.
func stores(t *testing.T) map[string]func(issuer string) challenge.Store {
	t.Helper()
	etcd, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Stop)
	db := store.Open(etcd.Client(), "/cloister/attest")
	memory := map[string]challenge.Store{}
	return map[string]func(string) challenge.Store{
		"memory": func(issuer string) challenge.Store {
			if memory[issuer] == nil {
				memory[issuer] = challenge.NewMemory()
			}
			return memory[issuer]
		},
		"shared": func(issuer string) challenge.Store { return challenge.NewShared(db, issuer) },
	}
}

func open(t *testing.T, s challenge.Store) *challenge.Challenges {
	t.Helper()
	c, err := challenge.New(s, time.Minute, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func issue(t *testing.T, c *challenge.Challenges) challenge.Challenge {
	t.Helper()
	got, err := c.Issue(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestChallenges(t *testing.T) {
	for name, at := range stores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			c, replica, foreign := open(t, at("a")), open(t, at("a")), open(t, at("b"))
			first, second := issue(t, c), issue(t, c)
			if first.Nonce == second.Nonce || len(first.Nonce) != 43 || !first.Expires.Equal(now.Add(time.Minute)) {
				t.Fatalf("nonces %+v and %+v", first, second)
			}
			refused := func(what string, c *challenge.Challenges, nonce string, at time.Time, want evidence.Code) {
				t.Helper()
				if err := c.Redeem(ctx, nonce, at); evidence.CodeOf(err) != want {
					t.Errorf("%s: %v, want %s", what, err, want)
				}
			}
			refused("SVC-13 another issuer's", foreign, first.Nonce, now, evidence.CodeBinding)
			if err := replica.Redeem(ctx, first.Nonce, now); err != nil {
				t.Errorf("at another replica: %v", err)
			}
			refused("SVC-14 the same again", c, first.Nonce, now, evidence.CodeBinding)
			refused("SVC-14 the same again at another replica", replica, first.Nonce, now, evidence.CodeBinding)
			refused("at its end", c, second.Nonce, second.Expires, evidence.CodeBinding)
			third := issue(t, c)
			if err := c.Redeem(ctx, third.Nonce, third.Expires.Add(-time.Second)); err != nil {
				t.Errorf("twin, before its end: %v", err)
			}
			refused("one of nobody's", c, strings.Repeat("A", 43), now, evidence.CodeBinding)
			for what, nonce := range map[string]string{"empty": "", "short": "AAAA", "long": strings.Repeat("A", 400), "a path": "../../../../../../../../../../../../../../../x", "padding": third.Nonce + "=", "bits behind its end": strings.Repeat("A", 42) + "B"} {
				refused(what, c, nonce, now, evidence.CodeParse)
			}
		})
	}
}

func TestSVC14OneOfAHundredRedeems(t *testing.T) {
	for name, at := range stores(t) {
		t.Run("SVC-14 "+name, func(t *testing.T) {
			replicas := []*challenge.Challenges{open(t, at("a")), open(t, at("a"))}
			nonce := issue(t, replicas[0]).Nonce
			var won, lost atomic.Int32
			var all sync.WaitGroup
			start := make(chan struct{})
			for n := range 100 {
				all.Go(func() {
					<-start
					switch err := replicas[n%2].Redeem(t.Context(), nonce, now); {
					case err == nil:
						won.Add(1)
					case evidence.CodeOf(err) == evidence.CodeBinding:
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			close(start)
			all.Wait()
			if won.Load() != 1 || lost.Load() != 99 {
				t.Errorf("%d redeemed it, %d were refused; want 1 and 99", won.Load(), lost.Load())
			}
		})
	}
}

func TestBound(t *testing.T) {
	c, err := challenge.New(challenge.NewMemory(), time.Minute, 3)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		issue(t, c)
	}
	if _, err := c.Issue(t.Context(), now); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("a fourth of three: %v", err)
	}
	if _, err := c.Issue(t.Context(), now.Add(time.Minute)); err != nil {
		t.Errorf("twin, after their end: %v", err)
	}
}

// broken is a store that can't be reached.
type broken struct{}

func (broken) Put(context.Context, string, time.Time, time.Time) error { return errors.New("no route") }
func (broken) Take(context.Context, string, time.Time) (bool, error) {
	return true, errors.New("no route")
}

func TestSVC28AStoreThatIsAway(t *testing.T) {
	c := open(t, broken{})
	if _, err := c.Issue(t.Context(), now); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("issue: %v", err)
	}
	if err := c.Redeem(t.Context(), strings.Repeat("A", 43), now); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("redeem: %v", err)
	}
}

func TestNew(t *testing.T) {
	m := challenge.NewMemory()
	for name, f := range map[string]func() error{
		"no store": func() error { _, err := challenge.New(nil, time.Minute, 1); return err },
		"no life":  func() error { _, err := challenge.New(m, 0, 1); return err },
		"an hour":  func() error { _, err := challenge.New(m, time.Hour, 1); return err },
		"none":     func() error { _, err := challenge.New(m, time.Minute, 0); return err },
		"endless":  func() error { _, err := challenge.New(m, time.Minute, 1<<40); return err },
	} {
		if f() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := challenge.New(m, time.Minute, 1); err != nil {
		t.Errorf("twin: %v", err)
	}
}
