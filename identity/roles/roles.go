// Package roles knows Azure's built-in role names and decides whether an assignment allows an action.
package roles

import (
	"fmt"
	"path"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
)

// Role is a named set of actions. Patterns have "*" for any text, slashes included, and no case.
type Role struct {
	Name       string
	ID         string // the fixed GUID that Azure's clients know the role by
	Actions    []string
	NotActions []string
}

// Assignment gives a role to a principal at a scope and everything below it.
type Assignment struct {
	PrincipalID string `json:"principalId"`
	Role        string `json:"role"`  // a built-in name
	Scope       string `json:"scope"` // "/subscriptions/…", "/vaults/NAME", "/attestation", or "/" for all
}

// List is a set of assignments.
type List []Assignment

const (
	keyVaultKeys = "Microsoft.KeyVault/vaults/keys/"
	assignments  = "Microsoft.Authorization/roleAssignments/"
)

// BuiltIn lists the roles that can be assigned.
var BuiltIn = []Role{
	{Name: "Owner", ID: "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", Actions: []string{"*"}, NotActions: []string{keyVaultKeys + "*", "Microsoft.Attestation/*"}},
	{Name: "Contributor", ID: "b24988ac-6180-42a0-ab88-20f7382dd24c", Actions: []string{"*"}, NotActions: []string{"Microsoft.Authorization/*/write", "Microsoft.Authorization/*/delete", keyVaultKeys + "*", "Microsoft.Attestation/*"}},
	{Name: "Reader", ID: "acdd72a7-3385-48ef-bd42-f606fba817ae", Actions: []string{"*/read"}, NotActions: []string{keyVaultKeys + "*"}},
	{Name: "Key Vault Crypto Officer", ID: "14b46e9e-c2b7-41b4-b07b-48a6ebf60603", Actions: []string{keyVaultKeys + "*"}},
	{Name: "Key Vault Crypto User", ID: "12338af0-0e69-4776-bea7-57ae8d297424", Actions: []string{
		keyVaultKeys + "read", keyVaultKeys + "write", keyVaultKeys + "backup/action", keyVaultKeys + "encrypt/action", keyVaultKeys + "decrypt/action",
		keyVaultKeys + "wrap/action", keyVaultKeys + "unwrap/action", keyVaultKeys + "sign/action", keyVaultKeys + "verify/action"}},
	{Name: "Key Vault Crypto Service Release User", ID: "08bbd89e-9f13-488c-ac41-acfcb10c90ab", Actions: []string{keyVaultKeys + "release/action"}},
	{Name: "Key Vault Crypto Service Encryption User", ID: "e147488a-f6f5-4113-8e2d-b22465e65bf6", Actions: []string{keyVaultKeys + "read", keyVaultKeys + "wrap/action", keyVaultKeys + "unwrap/action"}},
	// Without the keys themselves: in Azure those are data actions.
	{Name: "Key Vault Contributor", ID: "f25e0fa2-a7c8-4377-a976-54943a77a395", Actions: []string{"Microsoft.KeyVault/*"}, NotActions: []string{keyVaultKeys + "*"}},
	{Name: "Key Vault Data Access Administrator", ID: "8b54135c-b56d-4d72-a534-26097cfdc8d8", Actions: []string{
		assignments + "read", assignments + "write", assignments + "delete"}},
	{Name: "Managed HSM Crypto Officer", ID: "515eb02d-2335-4d2d-92f2-b1cbdf9c3778", Actions: []string{keyVaultKeys + "*"}},
	{Name: "Managed HSM Crypto User", ID: "21dbd100-6940-42c2-9190-5d6cb909625b", Actions: []string{keyVaultKeys + "*"}, NotActions: []string{keyVaultKeys + "purge/action", keyVaultKeys + "recover/action"}},
	{Name: "Managed HSM Crypto Auditor", ID: "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3", Actions: []string{keyVaultKeys + "read"}},
	{Name: "Managed HSM Crypto Service Encryption User", ID: "33413926-3206-4cdd-b39a-83574fe37a17", Actions: []string{keyVaultKeys + "read", keyVaultKeys + "wrap/action", keyVaultKeys + "unwrap/action"}},
	{Name: "Managed HSM Crypto Service Release User", ID: "21dbd100-6940-42c2-9190-5d6cb909625c", Actions: []string{keyVaultKeys + "release/action"}},
	{Name: "Managed HSM Policy Administrator", ID: "4bd23610-cdcf-4971-bdee-bdc562cc28e4", Actions: []string{assignments + "read", assignments + "write", assignments + "delete"}},
	{Name: "Attestation Reader", ID: "fd1bd22b-8476-40bc-a0bc-69b95687b9f3", Actions: []string{"Microsoft.Attestation/attestationProviders/read"}},
	{Name: "Attestation Contributor", ID: "bbf86eb8-f7b4-4cce-96e4-18cddf81d86e", Actions: []string{"Microsoft.Attestation/*"}},
}

// ByName finds a built-in role; names have no case.
func ByName(name string) (Role, bool) {
	for _, r := range BuiltIn {
		if strings.EqualFold(r.Name, name) {
			return r, true
		}
	}
	return Role{}, false
}

// ByID finds a built-in role by its GUID.
func ByID(id string) (Role, bool) {
	for _, r := range BuiltIn {
		if strings.EqualFold(r.ID, id) {
			return r, true
		}
	}
	return Role{}, false
}

// OnlyKeys tells whether a role is about keys and nothing else.
func (r Role) OnlyKeys() bool {
	for _, a := range r.Actions {
		if !strings.HasPrefix(a, keyVaultKeys) {
			return false
		}
	}
	return len(r.Actions) > 0
}

// ServiceEncryption tells whether a role is for services that keep data under a customer's key, and for nothing else.
func (r Role) ServiceEncryption() bool {
	return strings.HasSuffix(r.Name, " Crypto Service Encryption User")
}

// Validate reports every assignment that could never work.
func (l List) Validate() error {
	for i, a := range l {
		field := fmt.Sprintf("roles[%d]", i)
		switch _, known := ByName(a.Role); {
		case a.PrincipalID == "":
			return evidence.Refuse(evidence.CodePolicy, field+".principalId", "empty", "an object id")
		case !known:
			return evidence.Refuse(evidence.CodePolicy, field+".role", a.Role, "a built-in role name")
		case !strings.HasPrefix(a.Scope, "/"):
			return evidence.Refuse(evidence.CodePolicy, field+".scope", a.Scope, "a path that begins with /")
		}
	}
	return nil
}

// Allowed tells whether a principal may do an action at a scope: nil, or a refusal with code deny/authz.
func (l List) Allowed(p *identity.Principal, action, scope string) error {
	if p == nil || p.ObjectID == "" {
		return evidence.Refuse(evidence.CodeAuthz, "caller", "nobody", "a principal")
	}
	for _, a := range l {
		if !strings.EqualFold(a.PrincipalID, p.ObjectID) || !covers(a.Scope, scope) {
			continue
		}
		if r, ok := ByName(a.Role); ok && r.allows(action) {
			return nil
		}
	}
	return evidence.Refuse(evidence.CodeAuthz, "action "+action, fmt.Sprintf("no role of %s at %s", p.ObjectID, scope), "a role assignment that allows it")
}

func (r Role) allows(action string) bool {
	for _, not := range r.NotActions {
		if matches(not, action) {
			return false
		}
	}
	for _, a := range r.Actions {
		if matches(a, action) {
			return true
		}
	}
	return false
}

// covers tells whether a scope is the assignment's scope or lies below it. Whole path segments count.
func covers(assigned, scope string) bool {
	assigned, scope = strings.ToLower(path.Clean(assigned)), strings.ToLower(path.Clean(scope))
	return assigned == "/" || scope == assigned || strings.HasPrefix(scope, assigned+"/")
}

// matches compares an action with a pattern in which "*" stands for any text.
func matches(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(action, parts[0]) {
		return false
	}
	action = action[len(parts[0]):]
	for i, part := range parts[1:] {
		if i == len(parts)-2 {
			return strings.HasSuffix(action, part)
		}
		at := strings.Index(action, part)
		if at < 0 {
			return false
		}
		action = action[at+len(part):]
	}
	return action == ""
}
