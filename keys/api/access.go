package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys/vaults"
)

// may tells whether the caller may do an action on a key, or on the vault where name is empty. A VM's identity has no right
// but that to its own guest state, whatever is assigned to it.
func (c *call) may(action, name string) error {
	if c.caller.Kind == identity.KindVM || c.caller.VMID != "" {
		return forbidden(actions+action, nil)
	}
	return c.allowed(c.vault, c.caller, action, name)
}

// allowed tells whether a principal may do an action on a key of a vault, by the roles of the configuration and those
// assigned in the vault, or by the vault's access policies where it has these instead.
func (c *call) allowed(v vaults.Vault, p *identity.Principal, action, name string) error {
	if !v.Roles {
		return c.byPolicy(v, p, action, name)
	}
	scope := "/vaults/" + v.Name
	if name != "" {
		scope += "/keys/" + name
	}
	if c.Roles.Allowed(p, actions+action, scope) == nil {
		return nil // without a look at the records: most calls
	}
	list, err := c.rolesIn(v)
	if err != nil {
		return err
	}
	if err := list.Allowed(p, actions+action, scope); err != nil {
		return forbidden(actions+action, err)
	}
	return nil
}

// rolesIn are the role assignments that count in a vault: those of the configuration and its own.
func (c *call) rolesIn(v vaults.Vault) (roles.List, error) {
	stored, err := c.assignments(v)
	if err != nil {
		return nil, err
	}
	list := slices.Clone(c.Roles)
	for _, a := range stored {
		list = append(list, roles.Assignment{PrincipalID: a.PrincipalID, Role: a.Role, Scope: "/vaults/" + v.Name + a.Scope})
	}
	return list, nil
}

func (c *call) byPolicy(v vaults.Vault, p *identity.Principal, action, name string) error {
	if action == "read" && (name == "" || c.operation == "versions") {
		action = vaults.List
	}
	if v.Allows(p.ObjectID, p.ClientID, action) {
		return nil
	}
	want := "keys " + vaults.Permission(action)
	return &failure{status: http.StatusForbidden, code: "Forbidden", inner: "AccessDenied",
		message: fmt.Sprintf("The user, group or application 'appid=%s;oid=%s' does not have %s permission on key vault '%s;location=%s'.", p.ClientID, p.ObjectID, want, v.Name, v.Location),
		refusal: evidence.Refuse(evidence.CodeAuthz, "access policies of "+v.Name, "no permission "+strings.TrimPrefix(want, "keys ")+" for "+p.ObjectID, "an access policy that gives it")}
}
