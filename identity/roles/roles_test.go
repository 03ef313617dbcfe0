package roles

import (
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
)

func TestAllowed(t *testing.T) {
	const me, group = "me", "/subscriptions/s/resourceGroups/g"
	for _, r := range []struct {
		name              string
		role, at          string
		action, scope, id string
		ok                bool
	}{
		{"a contributor writes below", "Contributor", "/subscriptions/s", "Microsoft.Compute/virtualMachines/write", group, me, true},
		{"names have no case", "contributor", "/Subscriptions/S", "microsoft.compute/virtualmachines/WRITE", group, me, true},
		{"a reader reads", "Reader", "/", "Microsoft.Compute/virtualMachines/read", group, me, true},
		{"an officer creates keys", "Key Vault Crypto Officer", "/vaults/v", "Microsoft.KeyVault/vaults/keys/create/action", "/vaults/v/keys/k", me, true},
		{"a release user releases", "Key Vault Crypto Service Release User", "/vaults/v", "Microsoft.KeyVault/vaults/keys/release/action", "/vaults/v", me, true},
		{"a reader does not write", "Reader", "/", "Microsoft.Compute/virtualMachines/write", group, me, false},
		{"an owner does not touch keys", "Owner", "/", "Microsoft.KeyVault/vaults/keys/release/action", "/vaults/v", me, false},
		{"a contributor does not assign roles", "Contributor", "/", "Microsoft.Authorization/roleAssignments/write", group, me, false},
		{"SVC-13 another vault", "Key Vault Crypto Officer", "/vaults/v", "Microsoft.KeyVault/vaults/keys/read", "/vaults/v2", me, false},
		{"a scope beside, with the same beginning", "Contributor", "/subscriptions/s", "Microsoft.Compute/virtualMachines/write", "/subscriptions/s2", me, false},
		{"SVC-12 dots do not climb", "Contributor", "/subscriptions/s", "Microsoft.Compute/virtualMachines/write", "/subscriptions/s/../t", me, false},
		{"somebody else", "Contributor", "/", "Microsoft.Compute/virtualMachines/write", group, "other", false},
		{"nobody", "Contributor", "/", "Microsoft.Compute/virtualMachines/write", group, "", false},
		{"a role nobody knows", "Superuser", "/", "Microsoft.Compute/virtualMachines/write", group, me, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			l := List{{PrincipalID: me, Role: r.role, Scope: r.at}}
			err := l.Allowed(&identity.Principal{ObjectID: r.id}, r.action, r.scope)
			if (err == nil) != r.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil && evidence.CodeOf(err) != evidence.CodeAuthz {
				t.Errorf("code %s", evidence.CodeOf(err))
			}
		})
	}
	if err := (List)(nil).Allowed(nil, "x", "/"); err == nil {
		t.Error("no principal was allowed")
	}
}

func TestValidate(t *testing.T) {
	if err := (List{{PrincipalID: "p", Role: "Reader", Scope: "/"}}).Validate(); err != nil {
		t.Error(err)
	}
	for name, a := range map[string]Assignment{
		"no principal": {Role: "Reader", Scope: "/"},
		"no such role": {PrincipalID: "p", Role: "reeder", Scope: "/"},
		"no scope":     {PrincipalID: "p", Role: "Reader"},
	} {
		if err := (List{a}).Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
