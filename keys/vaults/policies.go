package vaults

import (
	"fmt"
	"slices"
	"strings"
)

// AccessPolicy gives one identity permissions in a vault without role assignments. Permissions on secrets, certificates and
// storage accounts are kept for clients, and give nothing: there are none of these here.
type AccessPolicy struct {
	Tenant        string      `json:"tenantId"`
	ObjectID      string      `json:"objectId"`
	ApplicationID string      `json:"applicationId,omitempty"`
	Permissions   Permissions `json:"permissions"`
}

// Permissions by what they are about.
type Permissions struct {
	Keys         []string `json:"keys,omitempty"`
	Secrets      []string `json:"secrets,omitempty"`
	Certificates []string `json:"certificates,omitempty"`
	Storage      []string `json:"storage,omitempty"`
}

// keyPermissions maps the actions on keys, below Microsoft.KeyVault/vaults/keys/, to the permission that allows each.
var keyPermissions = map[string]string{
	"read": "get", "create/action": "create", "import/action": "import", "write": "update", "delete": "delete", "recover/action": "recover", "purge/action": "purge",
	"backup/action": "backup", "restore/action": "restore", "encrypt/action": "encrypt", "decrypt/action": "decrypt", "wrap/action": "wrapKey", "unwrap/action": "unwrapKey",
	"sign/action": "sign", "verify/action": "verify", "release/action": "release", "rotate/action": "rotate",
	"rotationpolicy/read": "getrotationpolicy", "rotationpolicy/write": "setrotationpolicy", List: "list",
}

// List is the action of listing, which roles do not tell from reading and access policies do.
const List = "list"

func known(permission string) bool {
	if strings.EqualFold(permission, "all") {
		return true
	}
	for _, p := range keyPermissions {
		if strings.EqualFold(p, permission) {
			return true
		}
	}
	return false
}

func (p AccessPolicy) key() string {
	return strings.ToLower(p.ObjectID + "/" + p.ApplicationID)
}

func (p AccessPolicy) check(field, tenant string) error {
	if !strings.EqualFold(p.Tenant, tenant) {
		return refuse(field+".tenantId", fmt.Sprintf("%q", p.Tenant), tenant)
	}
	if !uuidForm.MatchString(p.ObjectID) {
		return refuse(field+".objectId", fmt.Sprintf("%q", p.ObjectID), "an object id")
	}
	if p.ApplicationID != "" && !uuidForm.MatchString(p.ApplicationID) {
		return refuse(field+".applicationId", fmt.Sprintf("%q", p.ApplicationID), "an application's id, or absent")
	}
	for _, permission := range p.Permissions.Keys {
		if !known(permission) {
			return refuse(field+".permissions.keys", fmt.Sprintf("%q", permission), "a permission on keys")
		}
	}
	return nil
}

// Allows tells whether the vault's access policies give an identity, signed in by an application, the permission for an
// action. "all" doesn't mean purge, as in Key Vault.
func (v Vault) Allows(objectID, applicationID, action string) bool {
	want, ok := keyPermissions[action]
	if !ok {
		return false
	}
	for _, p := range v.AccessPolicies {
		if !strings.EqualFold(p.ObjectID, objectID) || p.ApplicationID != "" && !strings.EqualFold(p.ApplicationID, applicationID) {
			continue
		}
		if slices.ContainsFunc(p.Permissions.Keys, func(have string) bool {
			return strings.EqualFold(have, want) || strings.EqualFold(have, "all") && want != "purge"
		}) {
			return true
		}
	}
	return false
}

// Permission is what a caller lacks, for messages.
func Permission(action string) string { return keyPermissions[action] }
