package gueststate

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

func session(n int) string { return fmt.Sprintf("%064x", n) }

func TestOpen(t *testing.T) {
	fresh := keystore.GuestState{}
	at3 := keystore.GuestState{Confirmed: 3, ConfirmedSession: session(3)}
	at3pending := keystore.GuestState{Confirmed: 3, ConfirmedSession: session(3), Pending: &keystore.Pending{Generation: 4, Session: session(4)}}
	for _, r := range []struct {
		name       string
		state      keystore.GuestState
		generation uint64
		session    string
		next       uint64
		want       evidence.Code
		reason     string
	}{
		{"the first start", fresh, 0, session(1), 1, "", ""},
		{"a later start", at3, 3, session(9), 4, "", ""},
		{"again, before anything was written", at3pending, 3, session(9), 4, "", ""},
		{"the same session asks again", at3pending, 3, session(4), 4, "", ""},
		{"after a crash between writing and confirming", at3pending, 4, session(9), 5, "", ""},
		{"HD-09 an earlier copy", at3, 2, session(9), 0, evidence.CodeBinding, "rolled back"},
		{"HD-09 an emptied guest state", at3, 0, session(9), 0, evidence.CodeBinding, "rolled back"},
		{"HD-09 an earlier copy while one is promised", at3pending, 2, session(9), 0, evidence.CodeBinding, "rolled back"},
		{"a generation never promised", at3, 4, session(9), 0, evidence.CodeBinding, "unknown generation"},
		{"beyond the promised one", at3pending, 5, session(9), 0, evidence.CodeBinding, "unknown generation"},
		{"the last generation there is", at3, 1<<64 - 1, session(9), 0, evidence.CodeBinding, "unknown generation"},
		{"a guest state where there was none", fresh, 1, session(9), 0, evidence.CodeBinding, "unknown generation"},
		{"a session used before", at3, 3, session(3), 0, evidence.CodeBinding, "fresh"},
		{"a promised session used again", at3pending, 4, session(4), 0, evidence.CodeBinding, "fresh"},
		{"no session", at3, 3, "", 0, evidence.CodeParse, "64"},
		{"a short session", at3, 3, "abcd", 0, evidence.CodeParse, "64"},
		{"a session in upper case", at3, 3, strings.Repeat("A", 64), 0, evidence.CodeParse, "64"},
	} {
		t.Run(r.name, func(t *testing.T) {
			s, err := Open(r.state, 0, r.generation, r.session)
			if evidence.CodeOf(err) != r.want {
				t.Fatalf("%v", err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), r.reason) {
					t.Errorf("%v does not say %q", err, r.reason)
				}
				return
			}
			if s.Pending == nil || s.Pending.Generation != r.next || s.Pending.Session != r.session || s.Confirmed != r.generation {
				t.Errorf("%+v %+v", s, s.Pending)
			}
		})
	}
}

func TestConfirm(t *testing.T) {
	pending := keystore.GuestState{Confirmed: 3, ConfirmedSession: session(3), Pending: &keystore.Pending{Generation: 4, Session: session(4)}}
	done := keystore.GuestState{Confirmed: 4, ConfirmedSession: session(4)}
	for _, r := range []struct {
		name       string
		state      keystore.GuestState
		generation uint64
		session    string
		want       evidence.Code
	}{
		{"the session that opened", pending, 4, session(4), ""},
		{"again", done, 4, session(4), ""},
		{"HD-09 a session that lost", pending, 4, session(5), evidence.CodeBinding},
		{"another session afterwards", done, 4, session(5), evidence.CodeBinding},
		{"the confirmed session while a later one waits", pending, 3, session(3), evidence.CodeBinding},
		{"an earlier generation", pending, 3, session(4), evidence.CodeBinding},
		{"a later generation", pending, 5, session(4), evidence.CodeBinding},
		{"a later generation afterwards", done, 5, session(4), evidence.CodeBinding},
		{"without open", keystore.GuestState{}, 0, session(4), evidence.CodeBinding},
		{"no session", keystore.GuestState{}, 0, "", evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			s, err := Confirm(r.state, 0, r.generation, r.session)
			if evidence.CodeOf(err) != r.want {
				t.Fatalf("%v", err)
			}
			if err == nil && (s.Confirmed != 4 || s.Pending != nil) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// An honest VM that may crash, or lose an answer, between any two steps is never locked out.
func TestCrashLocksNobodyOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s keystore.GuestState
		file, sessions := uint64(0), 0
		for range rapid.IntRange(1, 30).Draw(t, "starts") {
			sessions++
			mine := session(sessions)
			next, err := Open(s, 0, file, mine)
			if err != nil {
				t.Fatalf("locked out at generation %d of %+v: %v", file, s, err)
			}
			s = next
			// How far this start gets: nothing written, written, confirmed.
			got := rapid.IntRange(0, 2).Draw(t, "crash after")
			if got == 0 {
				continue
			}
			file++
			if got == 1 {
				continue
			}
			for range rapid.IntRange(1, 3).Draw(t, "times confirmed") {
				if s, err = Confirm(s, 0, file, mine); err != nil {
					t.Fatalf("confirm %d: %v", file, err)
				}
			}
		}
	})
}

// Whatever a host does with copies: a generation is confirmed to at most one session, none goes back, and a copy
// older than the last confirmed generation is never opened.
func TestCopiesNeverWin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type running struct {
			session string
			next    uint64
		}
		var s keystore.GuestState
		var sessions []running
		confirmedBy := map[uint64]string{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			before := s.Confirmed
			if rapid.Bool().Draw(t, "open") || len(sessions) == 0 {
				g := rapid.Uint64Range(0, s.Confirmed+3).Draw(t, "generation")
				mine := session(len(sessions) + 1)
				next, err := Open(s, 0, g, mine)
				if err == nil {
					if g < before {
						t.Fatalf("opened %d with %d confirmed", g, before)
					}
					s = next
					sessions = append(sessions, running{mine, g + 1})
				}
			} else {
				r := sessions[rapid.IntRange(0, len(sessions)-1).Draw(t, "which")]
				next, err := Confirm(s, 0, r.next, r.session)
				if err == nil {
					if by, ok := confirmedBy[r.next]; ok && by != r.session {
						t.Fatalf("generation %d confirmed to two sessions", r.next)
					}
					if r.session != sessions[len(sessions)-1].session {
						t.Fatal("confirmed to a session that is not the latest")
					}
					confirmedBy[r.next] = r.session
					s = next
				}
			}
			if s.Confirmed < before {
				t.Fatalf("went back from %d to %d", before, s.Confirmed)
			}
		}
	})
}
