// Package gueststate decides which generation of a VM's guest state may be opened.
//
// A guest state (VMGS) carries a generation. Opening generation N promises N+1 to one session; the session
// writes N+1 into its file and confirms it before the vTPM starts. From then on N is refused: an older copy,
// and a clone that lost the race. The functions are pure; who calls them makes the result durable.
//
// With N confirmed, and perhaps N+1 promised:
//
//	open(N)    promises N+1 to the session that asks; an earlier promise is void
//	open(N+1)  only where N+1 was promised: a session wrote its file and did not get to confirm. Confirms N+1, promises N+2
//	open(less) refused: rolled back
//	open(more) refused: unknown generation
//
// So a crash between any two steps leaves a file that opens.
//
// An owner may approve one state that would be refused: one restored from a backup of the disk, or any after the store
// of these records was itself restored. Opening it begins a new owner epoch, see restore.go.
package gueststate

import (
	"crypto/subtle"
	"fmt"
	"regexp"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

const rule = "guest state generation"

var sessionForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// CheckSession refuses sessions that are not 32 bytes in lower-case hex.
func CheckSession(session string) error {
	if !sessionForm.MatchString(session) {
		return evidence.Refuse(evidence.CodeParse, "session", fmt.Sprintf("%d characters", len(session)), "64 lower-case hex digits")
	}
	return nil
}

// Open gives the state after an accepted open. Epoch is the store's. Whichever state is opened, an approval that waits is
// void afterwards: it was about the state of then.
func Open(s keystore.GuestState, epoch, generation uint64, session string) (keystore.GuestState, error) {
	if err := CheckSession(session); err != nil {
		return s, err
	}
	if Approved(s, epoch, generation) != nil {
		return openApproved(s, epoch, session)
	}
	switch {
	case s.StoreEpoch != epoch:
		return s, restored(s, generation)
	case generation < s.Confirmed:
		return s, refuse(generation, fmt.Sprintf("rolled back: generation %d was confirmed, an earlier guest state is not opened", s.Confirmed))
	case same(session, s.ConfirmedSession):
		return s, evidence.Refuse(evidence.CodeBinding, "session", "a session that was confirmed before", "a fresh one").By(rule)
	case generation == s.Confirmed:
	case s.Pending != nil && generation == s.Pending.Generation:
		if same(session, s.Pending.Session) {
			return s, evidence.Refuse(evidence.CodeBinding, "session", "the session that generation was promised to", "a fresh one").By(rule)
		}
		s.Confirmed, s.ConfirmedSession, s.Pending = s.Pending.Generation, s.Pending.Session, nil
	default:
		return s, refuse(generation, fmt.Sprintf("unknown generation: %d is confirmed and this one was never promised", s.Confirmed))
	}
	next := s.Confirmed + 1
	if s.Pending != nil {
		next = s.Pending.Generation // promised before, perhaps as the first of an owner epoch
	}
	s.Pending, s.Approval = &keystore.Pending{Generation: next, Session: session}, nil
	return s, nil
}

// Confirm gives the state after an accepted confirmation. Only the session that opened last may confirm; it
// may say so again when the answer was lost. Epoch is the store's.
func Confirm(s keystore.GuestState, epoch, generation uint64, session string) (keystore.GuestState, error) {
	if err := CheckSession(session); err != nil {
		return s, err
	}
	if s.StoreEpoch != epoch {
		return s, restored(s, generation)
	}
	if s.Pending == nil {
		if generation == s.Confirmed && same(session, s.ConfirmedSession) {
			return s, nil
		}
		return s, evidence.Refuse(evidence.CodeBinding, "session", "no open of this session is waiting", "the latest session, once opened").By(rule)
	}
	switch {
	case !same(session, s.Pending.Session):
		return s, evidence.Refuse(evidence.CodeBinding, "session", "superseded: another session opened this guest state later", "the latest session").By(rule)
	case generation != s.Pending.Generation:
		return s, refuse(generation, fmt.Sprintf("generation %d, which was promised", s.Pending.Generation))
	}
	s.Confirmed, s.ConfirmedSession, s.Pending = s.Pending.Generation, s.Pending.Session, nil
	return s, nil
}

func refuse(generation uint64, want string) error {
	return evidence.Refuse(evidence.CodeBinding, "generation", fmt.Sprint(generation), want).By(rule)
}

func same(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
