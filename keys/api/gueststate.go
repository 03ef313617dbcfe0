package api

import (
	"errors"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/gueststate"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/release"
)

var (
	afterOpen    = failpoint.New("keys/guest-state-opened")
	afterConfirm = failpoint.New("keys/guest-state-confirmed")
)

// mayOpen tells whether the caller may ask for a VM's guest state: the VM itself, or who has the role to release its key.
func (c *call) mayOpen(vmID, name string) error {
	if c.caller.Kind != identity.KindVM && c.caller.VMID == "" {
		return c.may("release/action", name)
	}
	if c.caller.VMID != vmID {
		return forbidden(actions+"release/action", nil)
	}
	return nil
}

// guestStateCall is what open and confirm share: who may ask, and one change of one record.
func (c *call) guestStateCall(event, vmID string, in *client.OpenBody, change func(k *keystore.Key, v *keystore.Version, w wrapTo, export exporter) (any, error)) (string, error) {
	if !uuidForm.MatchString(vmID) {
		return "", evidence.Refuse(evidence.CodeParse, "vmId", fmt.Sprintf("%q", vmID), "a UUID in lower case")
	}
	name := client.KeyName(vmID)
	e := c.entry(event, name)
	if err := c.mayOpen(vmID, name); err != nil {
		return "", c.refused(e, err)
	}
	if err := c.guestStateBody(in); err != nil {
		return "", c.refused(e, err)
	}
	e.TokenSHA256, e.Session, e.Generation = audit.Digest(in.Target), audit.Digest(in.Session), &in.Generation
	var export exporter
	if event == "open" {
		var err error
		if export, err = c.prepareExport(name); err != nil {
			return "", c.refused(e, err)
		}
	}
	var value string
	audited := false
	err := c.Backend.Update(c.req.Context(), c.id(name), func(k *keystore.Key) (*keystore.Key, error) {
		v, err := c.guestStateKey(k, name)
		if err != nil {
			return nil, err
		}
		e.Version = v.ID
		if a := gueststate.Approved(*k.GuestState, c.Backend.Epoch(), in.Generation); a != nil && event == "open" {
			e.ApprovedBy = a.By
		}
		w, t, err := c.judge(k, in.Target, &e)
		if err != nil {
			return nil, unattested(err)
		}
		if export.also != nil {
			// The customer's key has a policy of its own: both must say yes.
			if err := allows(export.also, t); err != nil {
				return nil, unattested(fmt.Errorf("customer-managed key %s: %w", export.also.ID.Name, err))
			}
		}
		if w.kid != release.TransferKey {
			return nil, unattested(evidence.Refuse(evidence.CodeBinding, "x-ms-runtime.keys", "key "+w.kid, "key "+release.TransferKey))
		}
		answer, err := change(k, v, w, export)
		if err != nil {
			return nil, unattested(err)
		}
		if value, err = c.Signer.Sign(answer); err != nil {
			return nil, err
		}
		// The entry comes before the record: without it nothing changes for the session before this one.
		audited = true
		if err := c.granted(e); err != nil {
			return nil, err
		}
		return k, nil
	})
	if err == nil {
		return value, nil
	}
	if audited {
		// "granted" may be in the log, but the record was not written and no answer goes out.
		e.Outcome, e.Error = "failed", err.Error()
		return "", errors.Join(err, c.Audit.Write(e))
	}
	return "", c.refused(e, err)
}

func (c *call) guestStateBody(in *client.OpenBody) error {
	if err := decodeBody(c.body, in); err != nil {
		return err
	}
	if in.Nonce == "" || len(in.Nonce) > maxNonce {
		return evidence.Refuse(evidence.CodeParse, "nonce", fmt.Sprintf("%d bytes", len(in.Nonce)), fmt.Sprintf("1 to %d", maxNonce))
	}
	return gueststate.CheckSession(in.Session)
}

// guestStateKey finds the one version of a guest-state key that is there and usable.
func (c *call) guestStateKey(k *keystore.Key, name string) (*keystore.Version, error) {
	field := "guest-state key " + name
	switch {
	case k == nil:
		return nil, &failure{status: 404, code: "KeyNotFound", message: "A key with (name/id) " + name + " was not found in this key vault.",
			refusal: evidence.Refuse(evidence.CodeBinding, field, "no such key", "a key that was made before the VM starts")}
	case k.Deleted != nil || k.Destroyed:
		return nil, unattested(evidence.Refuse(evidence.CodeBinding, field, "key destroyed", "a key that was not deleted"))
	case k.GuestState == nil || len(k.Versions) != 1:
		return nil, fmt.Errorf("record of %s: not a guest-state key with one version", name)
	}
	v, err := c.usable(k, "", false)
	if err != nil {
		return nil, unattested(err)
	}
	return v, nil
}

func (c *call) openGuestState(vmID string) (any, error) {
	var in client.OpenBody
	value, err := c.guestStateCall("open", vmID, &in, func(k *keystore.Key, v *keystore.Version, w wrapTo, export exporter) (any, error) {
		form, err := keywrap.ParseForm(in.Enc)
		if err != nil {
			return nil, err
		}
		next, err := gueststate.Open(*k.GuestState, c.Backend.Epoch(), in.Generation, in.Session)
		if err != nil {
			return nil, err
		}
		if err := sameEnvelope(k.Customer, export.before); err != nil {
			return nil, err
		}
		wrapped, customer, err := export.wrap(form, w)
		if err != nil {
			return nil, fmt.Errorf("wrapping %s: %w", k.ID, err)
		}
		a, err := c.answer(k, v, form, w, wrapped, in.Nonce)
		if err != nil {
			return nil, err
		}
		k.GuestState, k.Customer = &next, customer
		a.Cloister = &client.GuestState{VMID: vmID, Generation: in.Generation, Next: next.Pending.Generation, Session: in.Session, Nonce: in.Nonce, OperatorTrusted: next.OperatorTrusted}
		return a, nil
	})
	if err != nil {
		return nil, err
	}
	afterOpen.Hit()
	return client.ReleaseBody{Value: value}, nil
}

func (c *call) confirmGuestState(vmID string) (any, error) {
	var in client.OpenBody
	value, err := c.guestStateCall("confirm", vmID, &in, func(k *keystore.Key, _ *keystore.Version, _ wrapTo, _ exporter) (any, error) {
		next, err := gueststate.Confirm(*k.GuestState, c.Backend.Epoch(), in.Generation, in.Session)
		if err != nil {
			return nil, err
		}
		k.GuestState = &next
		return client.GuestState{VMID: vmID, Generation: in.Generation, Session: in.Session, Nonce: in.Nonce, OperatorTrusted: next.OperatorTrusted, Confirmed: true}, nil
	})
	if err != nil {
		return nil, err
	}
	afterConfirm.Hit()
	return client.ReleaseBody{Value: value}, nil
}
