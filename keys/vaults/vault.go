// Package vaults holds what a vault or an HSM pool is, and the rules by which one is made, changed, deleted, recovered
// and purged. The functions are pure; who calls them keeps the result.
package vaults

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

// Kind tells vaults from pools.
type Kind string

// The kinds. AES keys lie in pools only.
const (
	KindVault Kind = "vault"
	KindPool  Kind = "pool" // a Managed HSM pool
)

// Vault is a vault or a pool of one tenant. Names are unique among all tenants, since they are host names.
type Vault struct {
	Name   string `json:"name"`
	Kind   Kind   `json:"kind"`
	Tenant string `json:"tenant"`
	// Owner is the object id of who made it: with the administrators, who may give access to keys. Empty for vaults of the
	// configuration, where only the configuration says who may.
	Owner string `json:"owner,omitempty"`

	SKU            string         `json:"sku,omitempty"` // kept for clients; it changes nothing
	Roles          bool           `json:"roles"`         // access by role assignments, else by AccessPolicies
	AccessPolicies []AccessPolicy `json:"accessPolicies,omitempty"`
	Administrators []string       `json:"administrators,omitempty"` // of a pool: object ids

	RetentionDays   int  `json:"retentionDays"` // of deleted keys, and of the vault itself when deleted
	PurgeProtection bool `json:"purgeProtection,omitempty"`

	// What the control plane knows the vault by. Nothing here is decided by these.
	Resource string            `json:"resource,omitempty"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`

	Created time.Time  `json:"created"`
	Deleted *time.Time `json:"deleted,omitempty"`
	PurgeAt *time.Time `json:"purgeAt,omitempty"`
	Purging bool       `json:"purging,omitempty"` // its keys are being destroyed; there is no way back
}

// ID names the vault in the keystore.
func (v Vault) ID() keystore.VaultID { return keystore.VaultID{Tenant: v.Tenant, Name: v.Name} }

// Retention is how long what was deleted can be recovered.
func (v Vault) Retention() time.Duration { return time.Duration(v.RetentionDays) * 24 * time.Hour }

// Live tells whether the vault answers.
func (v Vault) Live() bool { return v.Deleted == nil && !v.Purging }

// The limits of Key Vault.
const (
	MinRetentionDays = 7
	MaxRetentionDays = 90
	maxPolicies      = 1024
	maxAdmins        = 16
)

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// CheckName refuses what is no name of a vault, in lower case.
func CheckName(name string) error {
	if !client.IsVaultName(name) {
		return evidence.Refuse(evidence.CodeParse, "vault name", fmt.Sprintf("%q", name), "3 to 24 lower-case letters, digits and single hyphens, from a letter to a letter or digit")
	}
	return nil
}

// check reports the first thing that no vault may be.
func (v Vault) check() error {
	if err := CheckName(v.Name); err != nil {
		return err
	}
	switch {
	case v.Kind != KindVault && v.Kind != KindPool:
		return refuse("kind", fmt.Sprintf("%q", v.Kind), "vault or pool")
	case v.Tenant == "":
		return refuse("tenant", "none", "a tenant")
	case v.RetentionDays < MinRetentionDays || v.RetentionDays > MaxRetentionDays:
		return refuse("retentionDays", fmt.Sprint(v.RetentionDays), fmt.Sprintf("%d to %d", MinRetentionDays, MaxRetentionDays))
	case v.Kind == KindPool && (!v.Roles || len(v.AccessPolicies) > 0):
		return refuse("accessPolicies", "of a pool", "roles: a pool has no access policies")
	case v.Kind == KindVault && len(v.Administrators) > 0:
		return refuse("administrators", "of a vault", "none: only a pool has administrators")
	case len(v.Administrators) > maxAdmins:
		return refuse("administrators", fmt.Sprint(len(v.Administrators)), fmt.Sprintf("at most %d", maxAdmins))
	case len(v.AccessPolicies) > maxPolicies:
		return refuse("accessPolicies", fmt.Sprint(len(v.AccessPolicies)), fmt.Sprintf("at most %d", maxPolicies))
	}
	for i, id := range v.Administrators {
		if !uuidForm.MatchString(id) {
			return refuse(fmt.Sprintf("administrators[%d]", i), fmt.Sprintf("%q", id), "an object id")
		}
	}
	seen := map[string]bool{}
	for i, p := range v.AccessPolicies {
		field := fmt.Sprintf("accessPolicies[%d]", i)
		if err := p.check(field, v.Tenant); err != nil {
			return err
		}
		if seen[p.key()] {
			return refuse(field+".objectId", p.ObjectID, "each identity once")
		}
		seen[p.key()] = true
	}
	return nil
}

func refuse(field, got, want string) error {
	return evidence.Refuse(evidence.CodeParse, field, got, want)
}

// Administers tells whether a principal may give access to the keys of the vault.
func (v Vault) Administers(objectID string) bool {
	return v.Owner != "" && strings.EqualFold(v.Owner, objectID) || slices.ContainsFunc(v.Administrators, func(a string) bool { return strings.EqualFold(a, objectID) })
}
