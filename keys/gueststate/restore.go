package gueststate

import (
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

// A generation has an owner epoch in its upper bits and a count in its lower ones. Whoever opens by approval becomes the
// owner of a new epoch: the generations that follow are above all that were ever promised, so that no copy from the
// branch that was left can be taken for one of the new branch.
//
// Owner epochs of different store epochs don't meet: what a store promised and then forgot by a restore lies in the
// range of its own epoch. Generations stay below 2^53, where JSON's numbers are exact.
const (
	countBits    = client.CountBits // generations in an owner epoch
	approvalBits = 12               // owner epochs in a store epoch
	generations  = uint64(1) << 53
)

const approvalRule = "approval of a restore"

// Approve gives the state after an owner's consent to opening one generation, once, while the store's epoch lasts. It
// replaces one that waits. Refused are generations that need none, and an empty guest state where one was confirmed:
// that would be a new VM under an old name.
func Approve(s keystore.GuestState, epoch, generation uint64, by string, at time.Time) (keystore.GuestState, error) {
	switch {
	case generation >= generations:
		return s, evidence.Refuse(evidence.CodeParse, "generation", fmt.Sprint(generation), fmt.Sprintf("below %d", generations))
	case by == "":
		return s, evidence.Refuse(evidence.CodeAuthz, "caller", "nobody", "the owner").By(approvalRule)
	case generation == 0 && s.Confirmed > 0:
		return s, evidence.Refuse(evidence.CodePolicy, "generation", "0", fmt.Sprintf("a guest state; there was one of generation %d", s.Confirmed)).By(approvalRule)
	case s.StoreEpoch == epoch && (generation == s.Confirmed || s.Pending != nil && generation == s.Pending.Generation):
		return s, evidence.Refuse(evidence.CodePolicy, "generation", fmt.Sprint(generation), "one that is not opened without approval").By(approvalRule)
	}
	if _, err := firstOfNext(s, epoch, generation); err != nil {
		return s, err
	}
	s.Approval = &keystore.Approval{Generation: generation, StoreEpoch: epoch, By: by, At: at.UTC()}
	return s, nil
}

// Approved gives the approval that opening a generation would use up, or nil.
func Approved(s keystore.GuestState, epoch, generation uint64) *keystore.Approval {
	if s.Approval == nil || s.Approval.StoreEpoch != epoch || s.Approval.Generation != generation {
		return nil
	}
	return s.Approval
}

// restored refuses what only an owner can decide: what was confirmed after the backup is not known here.
func restored(s keystore.GuestState, generation uint64) error {
	return evidence.Refuse(evidence.CodePolicy, "generation", fmt.Sprintf("%d, and the key keeper was restored from a backup that knew %d", generation, s.Confirmed),
		"the owner's approval of this very generation").By(rule)
}

// openApproved uses the approval up. What was promised or confirmed to others counts no more.
func openApproved(s keystore.GuestState, epoch uint64, session string) (keystore.GuestState, error) {
	if same(session, s.ConfirmedSession) || s.Pending != nil && same(session, s.Pending.Session) {
		return s, evidence.Refuse(evidence.CodeBinding, "session", "a session that opened before", "a fresh one").By(rule)
	}
	next, err := firstOfNext(s, epoch, s.Approval.Generation)
	if err != nil {
		return s, err
	}
	s.Confirmed, s.StoreEpoch, s.Approval = s.Approval.Generation, epoch, nil
	s.Pending = &keystore.Pending{Generation: next, Session: session}
	return s, nil
}

// firstOfNext is the first generation of a new owner epoch.
func firstOfNext(s keystore.GuestState, epoch, generation uint64) (uint64, error) {
	highest := max(s.Confirmed, generation)
	if s.Pending != nil {
		highest = max(highest, s.Pending.Generation)
	}
	if epoch >= generations>>(countBits+approvalBits) {
		return 0, exhausted()
	}
	next := max(highest>>countBits+1, epoch<<approvalBits) << countBits
	if next >= generations {
		return 0, exhausted()
	}
	return next, nil
}

func exhausted() error {
	return evidence.Refuse(evidence.CodeUnsupported, "generation", "the last owner epoch was used", fmt.Sprintf("generations below %d", generations)).By(approvalRule)
}
