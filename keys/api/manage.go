package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/vaults"
)

// Vaults and pools are made and deleted by a control plane that the configuration gives a role for it. What gives access to
// keys, or destroys them, also takes a token of the tenant's own caller, which the control plane passes on: by itself it
// can delete a vault, which can be recovered, and nothing else.

const (
	manageVaults = "Microsoft.KeyVault/vaults/"
	vaultsScope  = "/vaults"
)

// manage answers a call on the bare suffix.
func (c *call) manage(w http.ResponseWriter, r *http.Request) (int, any, error) {
	if err := c.authenticate(w, r); err != nil {
		return 0, nil, err
	}
	if err := c.readBody(w, r); err != nil {
		return 0, nil, err
	}
	p, err := segments(strings.TrimPrefix(r.URL.EscapedPath(), client.VaultsPath))
	if err != nil {
		return 0, nil, err
	}
	if !strings.HasPrefix(r.URL.EscapedPath(), client.VaultsPath) || c.Tenants == nil {
		return 0, nil, &failure{status: http.StatusNotFound, code: "NotFound", message: "There is nothing at this path for this method."}
	}
	name := p[0]
	switch m := r.Method; {
	case len(p) == 1 && name == "" && m == http.MethodGet:
		return c.do("vaults.list", c.listVaults)
	case len(p) == 1 && m == http.MethodGet:
		return c.do("vaults.get", func() (any, error) { return c.getVault(name) })
	case len(p) == 1 && m == http.MethodPut:
		c.operation = "vaults.put"
		return c.putVault(name)
	case len(p) == 1 && m == http.MethodDelete:
		return c.do("vaults.delete", func() (any, error) { return c.deleteVault(name) })
	case len(p) == 2 && p[1] == "recover" && m == http.MethodPost:
		return c.do("vaults.recover", func() (any, error) { return c.recoverVault(name) })
	case len(p) == 2 && p[1] == "purge" && m == http.MethodPost:
		c.operation = "vaults.purge"
		return http.StatusNoContent, nil, c.purgeVaultFor(name)
	}
	return 0, nil, &failure{status: http.StatusNotFound, code: "NotFound", message: "There is nothing at this path for this method."}
}

// mayManage tells whether the control plane has the role: by the configuration alone.
func (c *call) mayManage(action string) error {
	action = manageVaults + action
	if c.caller.Kind == identity.KindVM || c.caller.VMID != "" {
		return forbidden(action, nil)
	}
	if err := c.Roles.Allowed(c.caller, action, vaultsScope); err != nil {
		return forbidden(action, err)
	}
	return nil
}

// tenantCaller verifies the token that the control plane passes on.
func (c *call) tenantCaller() (*identity.Principal, error) {
	scheme, bearer, ok := strings.Cut(c.req.Header.Get(client.OnBehalf), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return nil, evidence.Refuse(evidence.CodeAuthz, client.OnBehalf, "no bearer token", "the token of the tenant's caller").By("the control plane gives no access to keys by itself")
	}
	p, err := c.Tenants.Verify(strings.TrimSpace(bearer), c.Now())
	if err != nil {
		return nil, err
	}
	if p.Kind == identity.KindVM || p.VMID != "" {
		return nil, evidence.Refuse(evidence.CodeAuthz, client.OnBehalf, "the identity of a VM", "a person or an application of the tenant")
	}
	return p, nil
}

func (c *call) wireVault(v vaults.Vault) client.Vault {
	out := client.Vault{Name: v.Name, Kind: string(v.Kind), TenantID: v.Tenant, SKU: v.SKU, Roles: v.Roles, Administrators: v.Administrators, RetentionDays: v.RetentionDays,
		PurgeProtection: v.PurgeProtection, Resource: v.Resource, Location: v.Location, Tags: v.Tags, URL: c.baseOf(v.Name) + "/", Owner: v.Owner, Created: &v.Created, Deleted: v.Deleted, PurgeAt: v.PurgeAt}
	for _, p := range v.AccessPolicies {
		out.AccessPolicies = append(out.AccessPolicies, client.AccessPolicy{TenantID: p.Tenant, ObjectID: p.ObjectID, ApplicationID: p.ApplicationID, Permissions: client.Permissions(p.Permissions)})
	}
	return out
}

func (c *call) askedVault(name string) (vaults.Vault, error) {
	var in client.Vault
	if err := decodeBody(c.body, &in); err != nil {
		return vaults.Vault{}, err
	}
	if in.Name != name {
		return vaults.Vault{}, badParameter("the body is about another vault than the path")
	}
	out := vaults.Vault{Name: name, Kind: vaults.Kind(in.Kind), Tenant: in.TenantID, SKU: in.SKU, Roles: in.Roles, Administrators: in.Administrators, RetentionDays: in.RetentionDays,
		PurgeProtection: in.PurgeProtection, Resource: in.Resource, Location: in.Location, Tags: in.Tags}
	for _, p := range in.AccessPolicies {
		out.AccessPolicies = append(out.AccessPolicies, vaults.AccessPolicy{Tenant: p.TenantID, ObjectID: p.ObjectID, ApplicationID: p.ApplicationID, Permissions: vaults.Permissions(p.Permissions)})
	}
	return out, nil
}

func (c *call) listVaults() (any, error) {
	if err := c.mayManage("read"); err != nil {
		return nil, err
	}
	made, err := c.madeVaults(c.req.Context())
	if err != nil {
		return nil, err
	}
	out := []client.Vault{}
	for _, v := range made {
		out = append(out, c.wireVault(v))
	}
	return map[string]any{"value": out}, nil
}

// getVault says of vaults of the configuration only that the name is taken.
func (c *call) getVault(name string) (any, error) {
	if err := c.mayManage("read"); err != nil {
		return nil, err
	}
	v, err := c.vaultNamed(c.req.Context(), name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, vaultFailure(&vaults.Conflict{Reason: vaults.NotThere, Message: "There is no vault with this name."})
	}
	return c.wireVault(*v), nil
}

// vaultEntry is the beginning of an entry in the log about a vault.
func (c *call) vaultEntry(event, name string) audit.Entry {
	return audit.Entry{Event: event, RequestID: c.requestID, Vault: name, Caller: c.caller.ObjectID}
}

// onBehalf tells for whom the control plane, which needs the role for the action, makes a call. The log names who that is.
func (c *call) onBehalf(e *audit.Entry, action string) (*identity.Principal, error) {
	if err := c.mayManage(action); err != nil {
		return nil, err
	}
	by, err := c.tenantCaller()
	if err == nil {
		e.Principal = by.ObjectID
	}
	return by, err
}

// decide changes a vault's record, with the entry in the log first.
func (c *call) decide(e audit.Entry, change func(*vaults.Vault) (vaults.Vault, error)) (vaults.Vault, error) {
	var out vaults.Vault
	err := c.changeVault(c.req.Context(), e.Vault, func(old *vaults.Vault) (vaults.Vault, error) {
		next, err := change(old)
		if err != nil {
			return next, err
		}
		out = next
		return next, c.granted(e)
	})
	return out, err
}

// refusedVault is refused, with the conflicts of vaults in Key Vault's words.
func (c *call) refusedVault(e audit.Entry, err error) error { return c.refused(e, vaultFailure(err)) }

func (c *call) putVault(name string) (int, any, error) {
	e := c.vaultEntry("put-vault", name)
	v, made, err := c.put(&e)
	if err != nil {
		return 0, nil, c.refusedVault(e, err)
	}
	if made {
		return http.StatusCreated, c.wireVault(v), nil
	}
	return http.StatusOK, c.wireVault(v), nil
}

func (c *call) put(e *audit.Entry) (v vaults.Vault, made bool, err error) {
	by, err := c.onBehalf(e, "write")
	if err != nil {
		return v, false, err
	}
	ask, err := c.askedVault(e.Vault)
	if err != nil {
		return v, false, err
	}
	if ask.Tenant != by.TenantID {
		return v, false, evidence.Refuse(evidence.CodeAuthz, "tenantId", ask.Tenant, by.TenantID+", the tenant of the caller")
	}
	if c.declared(ask.Name) != nil {
		return v, false, &vaults.Conflict{Reason: vaults.Taken, Message: "The name " + ask.Name + " is in use: names of vaults and pools are unique."}
	}
	v, err = c.decide(*e, func(old *vaults.Vault) (vaults.Vault, error) {
		made = old == nil
		return vaults.Put(old, ask, by.ObjectID, made || c.mayGive(by, *old), c.Now().UTC().Truncate(time.Second))
	})
	return v, made, err
}

// mayGive tells whether a caller may give access to the keys of a vault.
func (c *call) mayGive(p *identity.Principal, v vaults.Vault) bool {
	return p.TenantID == v.Tenant && (v.Administers(p.ObjectID) || c.Roles.Allowed(p, manageAssignments+"write", "/vaults/"+v.Name) == nil)
}

func (c *call) deleteVault(name string) (any, error) {
	e := c.vaultEntry("delete-vault", name)
	if err := c.mayManage("delete"); err != nil {
		return nil, c.refusedVault(e, err)
	}
	v, err := c.decide(e, func(old *vaults.Vault) (vaults.Vault, error) { return vaults.Delete(old, c.Now()) })
	if err != nil {
		return nil, c.refusedVault(e, err)
	}
	return c.wireVault(v), nil
}

func (c *call) recoverVault(name string) (any, error) {
	e := c.vaultEntry("recover-vault", name)
	by, err := c.onBehalf(&e, "write")
	if err != nil {
		return nil, c.refusedVault(e, err)
	}
	v, err := c.decide(e, func(old *vaults.Vault) (vaults.Vault, error) { return vaults.Recover(old, by.TenantID) })
	if err != nil {
		return nil, c.refusedVault(e, err)
	}
	return c.wireVault(v), nil
}

// purgeVaultFor purges a deleted vault because its tenant asks: someone who may give access to its keys may destroy them.
func (c *call) purgeVaultFor(name string) error {
	e := c.vaultEntry("purge-vault", name)
	by, err := c.onBehalf(&e, "purge/action")
	if err != nil {
		return c.refusedVault(e, err)
	}
	v, err := c.vaultNamed(c.req.Context(), name)
	if err != nil {
		return c.refusedVault(e, err)
	}
	if v != nil && v.Tenant == by.TenantID && !c.mayGive(by, *v) {
		return c.refusedVault(e, forbidden(manageVaults+"purge/action", evidence.Refuse(evidence.CodeAuthz, "caller "+by.ObjectID, "no right to destroy the keys of "+name, "the vault's owner, or who may assign roles there")))
	}
	return c.purgeVault(e, by.TenantID)
}

func (c *call) purgeVault(e audit.Entry, tenant string) error {
	v, err := c.decide(e, func(old *vaults.Vault) (vaults.Vault, error) { return vaults.Purge(old, tenant, c.Now()) })
	if err != nil {
		return c.refusedVault(e, err)
	}
	return c.destroyVault(c.req.Context(), v)
}

// purgeDue purges a vault whose time is over: nobody asked.
func (s *Server) purgeDue(ctx context.Context, v vaults.Vault) error {
	c := s.background(ctx, v)
	c.caller = &identity.Principal{}
	return c.purgeVault(c.vaultEntry("purge-vault", v.Name), v.Tenant)
}
