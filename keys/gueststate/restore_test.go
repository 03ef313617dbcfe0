package gueststate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

const (
	owner = "the owner"
	first = uint64(1) << countBits // of the first owner epoch after an approval
)

var at = time.Unix(1_800_000_000, 0)

func TestApprove(t *testing.T) {
	at5 := keystore.GuestState{Confirmed: 5, ConfirmedSession: session(5)}
	pending := keystore.GuestState{Confirmed: 5, ConfirmedSession: session(5), Pending: &keystore.Pending{Generation: 6, Session: session(6)}}
	for _, r := range []struct {
		name       string
		state      keystore.GuestState
		epoch      uint64
		generation uint64
		by         string
		want       evidence.Code
	}{
		{"an earlier copy", at5, 0, 2, owner, ""},
		{"one never promised", at5, 0, 9, owner, ""},
		{"the confirmed one, after the store was restored", at5, 1, 5, owner, ""},
		{"a later one, after the store was restored", at5, 1, 8, owner, ""},
		{"a VM that never started, after the store was restored", keystore.GuestState{}, 1, 0, owner, ""},
		{"the confirmed one", at5, 0, 5, owner, evidence.CodePolicy},
		{"the promised one", pending, 0, 6, owner, evidence.CodePolicy},
		{"HD-09 an emptied guest state", at5, 0, 0, owner, evidence.CodePolicy},
		{"HD-09 an emptied guest state, after the store was restored", at5, 1, 0, owner, evidence.CodePolicy},
		{"nobody", at5, 0, 2, "", evidence.CodeAuthz},
		{"beyond all generations", at5, 0, generations, owner, evidence.CodeParse},
		{"in the last owner epoch", at5, 0, generations - 1, owner, evidence.CodeUnsupported},
		{"in the last epoch of the store", at5, 1 << 17, 2, owner, evidence.CodeUnsupported},
	} {
		t.Run(r.name, func(t *testing.T) {
			s, err := Approve(r.state, r.epoch, r.generation, r.by, at)
			if evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if (s.Approval != nil) != (err == nil) {
				t.Errorf("approval %+v with %v", s.Approval, err)
			}
		})
	}
}

func TestOpenApproved(t *testing.T) {
	at5 := keystore.GuestState{Confirmed: 5, ConfirmedSession: session(5), Pending: &keystore.Pending{Generation: 6, Session: session(6)}}
	approve := func(s keystore.GuestState, epoch, generation uint64) keystore.GuestState {
		s, err := Approve(s, epoch, generation, owner, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, r := range []struct {
		name       string
		state      keystore.GuestState
		epoch      uint64
		generation uint64
		session    string
		next       uint64
		want       evidence.Code
		reason     string
	}{
		{"the approved one", approve(at5, 0, 2), 0, 2, session(9), first, "", ""},
		{"the approved one, after the store was restored", approve(at5, 1, 5), 1, 5, session(9), 1 << approvalBits << countBits, "", ""},
		{"the confirmed one, while another is approved", approve(at5, 0, 2), 0, 5, session(9), 6, "", ""},
		{"HD-09 one that was not approved", at5, 0, 2, session(9), 0, evidence.CodeBinding, "rolled back"},
		{"HD-09 another than the approved one", approve(at5, 0, 2), 0, 3, session(9), 0, evidence.CodeBinding, "rolled back"},
		{"after the store was restored", at5, 1, 5, session(9), 0, evidence.CodePolicy, "approval"},
		{"the promised one, after the store was restored", at5, 1, 6, session(9), 0, evidence.CodePolicy, "approval"},
		{"another than the approved one, after the store was restored", approve(at5, 1, 6), 1, 5, session(9), 0, evidence.CodePolicy, "approval"},
		{"an approval from before the store was restored", approve(at5, 0, 2), 1, 2, session(9), 0, evidence.CodePolicy, "approval"},
		{"the confirmed session", approve(at5, 0, 2), 0, 2, session(5), 0, evidence.CodeBinding, "fresh"},
		{"the promised session", approve(at5, 0, 2), 0, 2, session(6), 0, evidence.CodeBinding, "fresh"},
		{"no session", approve(at5, 0, 2), 0, 2, "", 0, evidence.CodeParse, "64"},
	} {
		t.Run(r.name, func(t *testing.T) {
			s, err := Open(r.state, r.epoch, r.generation, r.session)
			if evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), r.reason) {
					t.Errorf("%v does not say %q", err, r.reason)
				}
				return
			}
			if s.Approval != nil || s.StoreEpoch != r.epoch || s.Pending == nil || s.Pending.Generation != r.next || !client.Follows(r.next, r.generation) {
				t.Errorf("%+v %+v", s, s.Pending)
			}
		})
	}
	t.Run("confirming what was opened before the store was restored", func(t *testing.T) {
		if _, err := Confirm(at5, 1, 6, session(6)); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Error(err)
		}
	})
}

// model is a host that keeps copies of all guest states of a VM, an owner who approves some, and a store that is restored
// from backups.
type model struct {
	store, backup keystore.GuestState
	epoch         uint64
	copies        []uint64 // generations
	running       []running
}

type running struct {
	session string
	next    uint64
	epoch   uint64
}

func (m *model) open(t *rapid.T) {
	g := rapid.SampledFrom(m.copies).Draw(t, "copy")
	mine := session(len(m.running) + 1)
	before := m.store
	next, err := Open(m.store, m.epoch, g, mine)
	byApproval := Approved(before, m.epoch, g) != nil
	if err != nil {
		if byApproval {
			t.Fatalf("the approved generation %d is refused: %v", g, err)
		}
		return
	}
	if before.StoreEpoch != m.epoch && !byApproval {
		t.Fatalf("generation %d opened without approval after a restore of the store", g)
	}
	if g < before.Confirmed && !byApproval {
		t.Fatalf("generation %d opened without approval with %d confirmed", g, before.Confirmed)
	}
	if next.Approval != nil {
		t.Fatal("an approval outlives an open")
	}
	promised := next.Pending.Generation
	if !client.Follows(promised, g) {
		t.Fatalf("%d promised after %d", promised, g)
	}
	if highest := slices.Max(m.copies); byApproval && highest >= promised {
		t.Fatalf("the new owner epoch begins at %d, not above a copy of %d", promised, highest)
	}
	m.store = next
	m.running = append(m.running, running{mine, promised, m.epoch})
	m.copies = append(m.copies, promised) // written before it is confirmed
}

func (m *model) confirm(t *rapid.T) {
	if len(m.running) == 0 {
		return
	}
	r := rapid.SampledFrom(m.running).Draw(t, "session")
	before := m.store
	next, err := Confirm(m.store, m.epoch, r.next, r.session)
	if err != nil {
		return
	}
	latest := m.running[len(m.running)-1]
	if r.session != latest.session {
		t.Fatal("confirmed to a session that is not the latest")
	}
	if r.epoch != m.epoch {
		t.Fatal("confirmed to a session of before the store's restore")
	}
	if next.Confirmed < before.Confirmed {
		t.Fatalf("went back from %d to %d by confirming", before.Confirmed, next.Confirmed)
	}
	m.store = next
}

func (m *model) approve(t *rapid.T) {
	g := rapid.SampledFrom(m.copies).Draw(t, "approved")
	if next, err := Approve(m.store, m.epoch, g, owner, at); err == nil {
		m.store = next
	}
}

func (m *model) restoreStore(*rapid.T) {
	m.store = m.backup
	m.epoch++
}

// Whatever a host does with copies of guest states and the keeper with backups of its store: a generation that is given by
// an approval is above every file there is, nothing earlier is opened without approval, nothing at all after a restore of
// the store, and an approval serves once.
func TestApprovalsEpochsAndRestores(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{copies: []uint64{0}}
		t.Repeat(map[string]func(*rapid.T){
			"open": m.open, "confirm": m.confirm, "approve": m.approve, "restore the store": m.restoreStore,
			"back the store up": func(*rapid.T) { m.backup = m.store },
			"": func(t *rapid.T) {
				if p := m.store.Pending; p != nil && p.Generation <= m.store.Confirmed {
					t.Fatalf("promised %d with %d confirmed", p.Generation, m.store.Confirmed)
				}
			},
		})
	})
}
