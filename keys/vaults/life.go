package vaults

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
)

// A Conflict is a refusal because of the state that a vault is in. Its reason is one of the constants.
type Conflict struct{ Reason, Message string }

func (c *Conflict) Error() string { return c.Message }

// The reasons of conflicts.
const (
	Taken     = "taken"     // by another vault
	IsDeleted = "deleted"   // and can be recovered
	NotThere  = "not there" // or not deleted, where a deleted one is wanted
	Protected = "protected" // against purging
)

func conflict(reason, format string, args ...any) error {
	return &Conflict{reason, fmt.Sprintf(format, args...)}
}

// Put gives the vault that a request asks for: a new one, or a changed one. Old is nil where there is none. By is the
// tenant's caller, mayGive whether that caller may give access to keys.
//
// Kind, tenant, owner and retention never change, and purge protection is never taken away: that would be a way to lose
// keys that their owner relied on.
func Put(old *Vault, ask Vault, by string, mayGive bool, now time.Time) (Vault, error) {
	if err := ask.check(); err != nil {
		return Vault{}, err
	}
	if old == nil {
		if by == "" {
			return Vault{}, evidence.Refuse(evidence.CodeAuthz, "caller", "nobody", "the tenant's caller")
		}
		ask.Owner, ask.Created, ask.Deleted, ask.PurgeAt, ask.Purging = by, now, nil, nil, false
		return ask, nil
	}
	switch {
	case old.Tenant != ask.Tenant || old.Kind != ask.Kind || !strings.EqualFold(old.Resource, ask.Resource):
		return Vault{}, conflict(Taken, "The name %s is in use: names of vaults and pools are unique.", ask.Name)
	case !old.Live():
		return Vault{}, conflict(IsDeleted, "A vault with the name %s exists in deleted state; recover or purge it.", ask.Name)
	case ask.RetentionDays != old.RetentionDays:
		return Vault{}, refuse("retentionDays", fmt.Sprint(ask.RetentionDays), fmt.Sprintf("%d: it was set before and can't be modified", old.RetentionDays))
	case old.PurgeProtection && !ask.PurgeProtection:
		return Vault{}, refuse("purgeProtection", "false", "true: enabling it is irreversible")
	case !mayGive && old.accessDiffers(ask):
		return Vault{}, evidence.Refuse(evidence.CodeAuthz, "caller "+by, "no right to give access to keys of "+ask.Name, "the vault's owner, or who may assign roles there").By("access to keys")
	}
	ask.Owner, ask.Created, ask.Resource = old.Owner, old.Created, old.Resource
	return ask, nil
}

func (v Vault) accessDiffers(w Vault) bool {
	same := func(a, b AccessPolicy) bool {
		return a.Tenant == b.Tenant && a.ObjectID == b.ObjectID && a.ApplicationID == b.ApplicationID && slices.Equal(a.Permissions.Keys, b.Permissions.Keys)
	}
	return v.Roles != w.Roles || !slices.Equal(v.Administrators, w.Administrators) || !slices.EqualFunc(v.AccessPolicies, w.AccessPolicies, same)
}

// Delete gives the vault as it is until it is recovered or purged. One that is deleted already stays as it is.
func Delete(v *Vault, now time.Time) (Vault, error) {
	if v == nil {
		return Vault{}, conflict(NotThere, "There is no such vault.")
	}
	if !v.Live() {
		return *v, nil
	}
	out, at, purge := *v, now.UTC().Truncate(time.Second), now.UTC().Truncate(time.Second).Add(v.Retention())
	out.Deleted, out.PurgeAt = &at, &purge
	return out, nil
}

// Recover gives a deleted vault back, with the keys that it had.
func Recover(v *Vault, tenant string) (Vault, error) {
	if v == nil || v.Tenant != tenant || v.Deleted == nil || v.Purging {
		return Vault{}, conflict(NotThere, "There is no such deleted vault.")
	}
	out := *v
	out.Deleted, out.PurgeAt = nil, nil
	return out, nil
}

// Purge gives a deleted vault whose keys may be destroyed: at once where its tenant asks and it isn't protected, or when its
// time is over.
func Purge(v *Vault, tenant string, now time.Time) (Vault, error) {
	switch {
	case v == nil || v.Tenant != tenant || v.Deleted == nil:
		return Vault{}, conflict(NotThere, "There is no such deleted vault.")
	case v.PurgeProtection && !v.Due(now):
		return Vault{}, conflict(Protected, "Vault %s is protected against purging until %s.", v.Name, v.PurgeAt.Format(time.RFC3339))
	}
	out := *v
	out.Purging = true
	return out, nil
}

// Due tells whether a vault is to be purged: its time as a deleted vault is over, or a purge began.
func (v Vault) Due(now time.Time) bool {
	return v.Purging || v.Deleted != nil && !now.Before(*v.PurgeAt)
}
