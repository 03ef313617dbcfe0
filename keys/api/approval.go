package api

import (
	"fmt"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/gueststate"
	"cloister.dev/cloister/keys/keystore"
)

var afterApproval = failpoint.New("keys/restore-approved")

// approveRestore answers POST /gueststate/VMID/approve-restore: an owner's consent to opening one generation that would be
// refused, once. It takes the right to restore keys. The operator has it in no case: it is against the operator that a
// guest state set back is refused.
func (c *call) approveRestore(vmID string) (any, error) {
	if !uuidForm.MatchString(vmID) {
		return nil, evidence.Refuse(evidence.CodeParse, "vmId", fmt.Sprintf("%q", vmID), "a UUID in lower case")
	}
	name := client.KeyName(vmID)
	e := c.entry("approve-restore", name)
	e.VMID = strings.ToLower(vmID)
	var in client.ApproveBody
	err := c.mayApprove(name)
	if err == nil {
		err = decodeBody(c.body, &in)
	}
	if err == nil && in.Generation == nil {
		err = badParameter("generation is missing: an approval names the one generation that it is for")
	}
	if err != nil {
		return nil, c.refused(e, err)
	}
	e.Generation = in.Generation
	err = c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		if _, err := c.guestStateKey(k, name); err != nil {
			return nil, err
		}
		next, err := gueststate.Approve(*k.GuestState, c.Backend.Epoch(), *in.Generation, c.caller.ObjectID, c.Now())
		if err != nil {
			return nil, err
		}
		if err := c.granted(e); err != nil {
			return nil, err
		}
		k.GuestState = &next
		return k, nil
	})
	if err != nil {
		return nil, c.refused(e, err)
	}
	afterApproval.Hit()
	return in, nil
}

func (c *call) mayApprove(name string) error {
	if err := c.may("restore/action", name); err != nil {
		return err
	}
	if c.isOperator() {
		return evidence.Refuse(evidence.CodeAuthz, "caller", "the operator "+c.caller.ObjectID, "an owner of the VM").By("the operator approves no restore")
	}
	return nil
}
