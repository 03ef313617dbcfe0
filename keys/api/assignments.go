package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/vaults"
)

var afterAssignment = failpoint.New("keys/role-assignments-written")

// The role assignments of one vault, in the form of Managed HSM's local RBAC. They add to those of the configuration; only
// roles on keys can be assigned, so that nobody can give away the right to assign.

const (
	assignmentsMember = "roleAssignments"
	manageAssignments = "Microsoft.Authorization/roleAssignments/"
	maxAssignments    = 2000
)

// assignment is one record.
type assignment struct {
	Name        string `json:"name"`
	PrincipalID string `json:"principalId"`
	Role        string `json:"role"`  // a built-in name
	Scope       string `json:"scope"` // "/", "/keys" or "/keys/NAME", below the vault
}

// assignmentBody is what clients send and get.
type assignmentBody struct {
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Type       string `json:"type,omitempty"`
	Properties struct {
		Scope            string `json:"scope,omitempty"`
		RoleDefinitionID string `json:"roleDefinitionId"`
		PrincipalID      string `json:"principalId"`
	} `json:"properties"`
}

// assignmentsID is the record that holds them. No vault has an empty name, so no key has this id.
func assignmentsID(v keystore.VaultID) keystore.ID {
	return keystore.ID{Vault: keystore.VaultID{Tenant: v.Tenant}, Name: "roles-" + v.Name}
}

func (c *call) assignments(v vaults.Vault) ([]assignment, error) {
	k, err := c.Backend.Get(c.req.Context(), assignmentsID(v.ID()))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readAssignments(k)
}

func readAssignments(k *keystore.Key) ([]assignment, error) {
	if k == nil {
		return nil, nil
	}
	var out []assignment
	if err := json.Unmarshal(k.Extra[assignmentsMember], &out); err != nil {
		return nil, fmt.Errorf("record of role assignments: %w", err)
	}
	return out, nil
}

// mayAssign tells whether the caller may read or change role assignments: by the configuration, or as the vault's owner or
// administrator. No assignment gives the right to assign.
func (c *call) mayAssign(verb string) error {
	action := manageAssignments + verb
	if c.caller.Kind == identity.KindVM || c.caller.VMID != "" {
		return forbidden(action, nil)
	}
	if c.vault.Administers(c.caller.ObjectID) {
		return nil
	}
	if err := c.Roles.Allowed(c.caller, action, "/vaults/"+c.vault.Name); err != nil {
		return forbidden(action, err)
	}
	return nil
}

// routeAssignments answers SCOPE/providers/Microsoft.Authorization/roleAssignments[/NAME], where SCOPE is empty, /keys or
// /keys/NAME. Found tells whether the path is one of these.
func (c *call) routeAssignments(p []string) (status int, body any, err error, found bool) {
	at := slices.IndexFunc(p, func(s string) bool { return strings.EqualFold(s, "providers") })
	if at < 0 || len(p) < at+3 || len(p) > at+4 || !strings.EqualFold(p[at+1], "Microsoft.Authorization") || !strings.EqualFold(p[at+2], "roleAssignments") {
		return 0, nil, nil, false
	}
	var parts []string
	for _, s := range p[:at] { // clients write the vault's own scope as an empty segment
		if s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) > 2 || len(parts) > 0 && !strings.EqualFold(parts[0], "keys") || len(parts) == 2 && !nameForm.MatchString(parts[1]) {
		return 0, nil, badParameter("a scope is /, /keys or /keys/NAME"), true
	}
	scope := "/" + strings.Join(parts, "/")
	name := ""
	if len(p) == at+4 {
		if name = strings.ToLower(p[at+3]); !uuidForm.MatchString(name) {
			return 0, nil, badParameter("the name of a role assignment is a GUID"), true
		}
	}
	status = http.StatusOK
	switch m := c.req.Method; {
	case name == "" && m == http.MethodGet:
		c.operation = "roleassignments.list"
		body, err = c.listAssignments(scope)
	case name != "" && m == http.MethodGet:
		c.operation = "roleassignments.get"
		body, err = c.getAssignment(name)
	case name != "" && m == http.MethodPut:
		c.operation = "roleassignments.create"
		status = http.StatusCreated
		body, err = c.putAssignment(scope, name)
	case name != "" && m == http.MethodDelete:
		c.operation = "roleassignments.delete"
		body, err = c.deleteAssignment(name)
	default:
		return 0, nil, nil, false
	}
	return status, body, err, true
}

func (c *call) wireAssignment(a assignment) assignmentBody {
	role, _ := roles.ByName(a.Role)
	prefix := strings.TrimSuffix(a.Scope, "/")
	b := assignmentBody{ID: prefix + "/providers/Microsoft.Authorization/roleAssignments/" + a.Name, Name: a.Name, Type: "Microsoft.Authorization/roleAssignments"}
	b.Properties.Scope, b.Properties.PrincipalID = a.Scope, a.PrincipalID
	b.Properties.RoleDefinitionID = "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + role.ID
	return b
}

func (c *call) listAssignments(scope string) (any, error) {
	if err := c.mayAssign("read"); err != nil {
		return nil, err
	}
	all, err := c.assignments(c.vault)
	if err != nil {
		return nil, err
	}
	out := []assignmentBody{}
	for _, a := range all {
		if scope == "/" || strings.EqualFold(a.Scope, scope) || strings.HasPrefix(strings.ToLower(a.Scope), strings.ToLower(scope)+"/") {
			out = append(out, c.wireAssignment(a))
		}
	}
	return map[string]any{"value": out}, nil
}

func noAssignment(name string) error {
	return &failure{status: http.StatusNotFound, code: "RoleAssignmentNotFound", message: "Role assignment " + name + " was not found."}
}

func (c *call) getAssignment(name string) (any, error) {
	if err := c.mayAssign("read"); err != nil {
		return nil, err
	}
	all, err := c.assignments(c.vault)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Name == name {
			return c.wireAssignment(a), nil
		}
	}
	return nil, noAssignment(name)
}

func (c *call) putAssignment(scope, name string) (any, error) {
	if err := c.mayAssign("write"); err != nil {
		return nil, err
	}
	var in assignmentBody
	if err := decodeBody(c.body, &in); err != nil {
		return nil, err
	}
	principal := strings.ToLower(in.Properties.PrincipalID)
	if !uuidForm.MatchString(principal) {
		return nil, badParameter("properties.principalId is not an object id")
	}
	id := in.Properties.RoleDefinitionID[strings.LastIndex(in.Properties.RoleDefinitionID, "/")+1:]
	role, ok := roles.ByID(id)
	if !ok || !role.OnlyKeys() {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "properties.roleDefinitionId", in.Properties.RoleDefinitionID, "the id of a built-in role on keys")
	}
	next := assignment{Name: name, PrincipalID: principal, Role: role.Name, Scope: scope}
	err := c.changeAssignments("assign-role", next, func(all []assignment) ([]assignment, error) {
		for _, a := range all {
			switch {
			case a == next:
				return all, nil
			case a.Name == name:
				return nil, conflict("A role assignment with this name exists and says something else.", "RoleAssignmentExists")
			case a.PrincipalID == principal && a.Role == next.Role && strings.EqualFold(a.Scope, scope):
				return nil, conflict("This role is assigned to this principal at this scope already.", "RoleAssignmentExists")
			}
		}
		if len(all) >= maxAssignments {
			return nil, conflict(fmt.Sprintf("A vault has at most %d role assignments.", maxAssignments), "RoleAssignmentLimitExceeded")
		}
		return append(all, next), nil
	})
	return c.wireAssignment(next), err
}

func (c *call) deleteAssignment(name string) (any, error) {
	if err := c.mayAssign("delete"); err != nil {
		return nil, err
	}
	var gone assignment
	err := c.changeAssignments("unassign-role", assignment{Name: name}, func(all []assignment) ([]assignment, error) {
		i := slices.IndexFunc(all, func(a assignment) bool { return a.Name == name })
		if i < 0 {
			return nil, noAssignment(name)
		}
		gone = all[i]
		return slices.Delete(slices.Clone(all), i, i+1), nil
	})
	return c.wireAssignment(gone), err
}

// changeAssignments writes the record, with its entry in the log first.
func (c *call) changeAssignments(event string, what assignment, change func([]assignment) ([]assignment, error)) error {
	id := assignmentsID(c.vault.ID())
	e := c.entry(event, strings.TrimPrefix(what.Scope, "/"))
	e.Assignment, e.Principal, e.Role = what.Name, what.PrincipalID, what.Role
	err := c.Backend.Update(c.req.Context(), id, func(k *keystore.Key) (*keystore.Key, error) {
		all, err := readAssignments(k)
		if err != nil {
			return nil, err
		}
		if all, err = change(all); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(all)
		if err != nil {
			return nil, err
		}
		if err := c.granted(e); err != nil {
			return nil, err
		}
		return &keystore.Key{ID: id, Extra: map[string][]byte{assignmentsMember: raw}}, nil
	})
	if err != nil {
		return c.refused(e, err)
	}
	afterAssignment.Hit()
	return nil
}
