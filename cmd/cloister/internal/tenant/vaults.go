package tenant

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/google/uuid"

	"cloister.dev/cloister/identity/roles"
)

// Vaults is the client for vaults, Pools that for HSM pools.
func (t *Tenant) Vaults() (*armkeyvault.VaultsClient, error) {
	return armkeyvault.NewVaultsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// Pools is the client for HSM pools.
func (t *Tenant) Pools() (*armkeyvault.ManagedHsmsClient, error) {
	return armkeyvault.NewManagedHsmsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// VaultRow is a vault or a pool as programs show it.
type VaultRow struct {
	Name          string `json:"name"`
	Kind          string `json:"kind"` // vault or pool
	URL           string `json:"url"`
	RetentionDays int32  `json:"retentionDays"`
	Protected     bool   `json:"purgeProtection"`
}

// MakeVault makes a vault or a pool with access by roles, or changes one.
func (t *Tenant) MakeVault(ctx context.Context, name string, pool bool, days int32, protect bool) (VaultRow, error) {
	if err := t.MakeGroup(ctx); err != nil {
		return VaultRow{}, err
	}
	var protection *bool
	if protect {
		protection = &protect
	}
	if pool {
		me, err := t.me(ctx)
		if err != nil {
			return VaultRow{}, err
		}
		c, err := t.Pools()
		if err != nil {
			return VaultRow{}, err
		}
		p, err := c.BeginCreateOrUpdate(ctx, t.Group, name, armkeyvault.ManagedHsm{Location: &t.Conn.Location, SKU: &armkeyvault.ManagedHsmSKU{Family: to.Ptr(armkeyvault.ManagedHsmSKUFamilyB), Name: to.Ptr(armkeyvault.ManagedHsmSKUNameStandardB1)},
			Properties: &armkeyvault.ManagedHsmProperties{TenantID: &t.Conn.TenantID, InitialAdminObjectIDs: []*string{&me}, SoftDeleteRetentionInDays: &days, EnablePurgeProtection: protection}}, nil)
		if err != nil {
			return VaultRow{}, err
		}
		made, err := p.PollUntilDone(ctx, nil)
		if err != nil {
			return VaultRow{}, err
		}
		return poolRow(made.ManagedHsm)
	}
	c, err := t.Vaults()
	if err != nil {
		return VaultRow{}, err
	}
	p, err := c.BeginCreateOrUpdate(ctx, t.Group, name, armkeyvault.VaultCreateOrUpdateParameters{Location: &t.Conn.Location, Properties: &armkeyvault.VaultProperties{TenantID: &t.Conn.TenantID,
		SKU: &armkeyvault.SKU{Family: to.Ptr(armkeyvault.SKUFamilyA), Name: to.Ptr(armkeyvault.SKUNamePremium)}, EnableRbacAuthorization: to.Ptr(true), SoftDeleteRetentionInDays: &days, EnablePurgeProtection: protection}}, nil)
	if err != nil {
		return VaultRow{}, err
	}
	made, err := p.PollUntilDone(ctx, nil)
	if err != nil {
		return VaultRow{}, err
	}
	return vaultRow(made.Vault)
}

var errVault = errors.New("the control plane's answer tells too little of the vault")

func vaultRow(v armkeyvault.Vault) (VaultRow, error) {
	if v.Name == nil || v.Properties == nil || v.Properties.VaultURI == nil || v.Properties.SoftDeleteRetentionInDays == nil {
		return VaultRow{}, errVault
	}
	p := v.Properties
	return VaultRow{*v.Name, "vault", strings.TrimSuffix(*p.VaultURI, "/"), *p.SoftDeleteRetentionInDays, p.EnablePurgeProtection != nil && *p.EnablePurgeProtection}, nil
}

func poolRow(v armkeyvault.ManagedHsm) (VaultRow, error) {
	if v.Name == nil || v.Properties == nil || v.Properties.HsmURI == nil || v.Properties.SoftDeleteRetentionInDays == nil {
		return VaultRow{}, errVault
	}
	p := v.Properties
	return VaultRow{*v.Name, "pool", strings.TrimSuffix(*p.HsmURI, "/"), *p.SoftDeleteRetentionInDays, p.EnablePurgeProtection != nil && *p.EnablePurgeProtection}, nil
}

// ListVaults lists the vaults and pools of the subscription.
func (t *Tenant) ListVaults(ctx context.Context) ([]VaultRow, error) {
	rows := []VaultRow{}
	vaults, err := t.Vaults()
	if err != nil {
		return nil, err
	}
	for pager := vaults.NewListBySubscriptionPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range page.Value {
			row, err := vaultRow(*v)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	pools, err := t.Pools()
	if err != nil {
		return nil, err
	}
	for pager := pools.NewListBySubscriptionPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range page.Value {
			row, err := poolRow(*v)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// ended waits for the end of a call.
func ended[T any](ctx context.Context, p *runtime.Poller[T], err error) error {
	if err != nil {
		return err
	}
	_, err = p.PollUntilDone(ctx, nil)
	return err
}

// DeleteVault deletes a vault or a pool, so that it can be recovered.
func (t *Tenant) DeleteVault(ctx context.Context, name string, pool bool) error {
	if pool {
		c, err := t.Pools()
		if err != nil {
			return err
		}
		p, err := c.BeginDelete(ctx, t.Group, name, nil)
		return ended(ctx, p, err)
	}
	c, err := t.Vaults()
	if err != nil {
		return err
	}
	_, err = c.Delete(ctx, t.Group, name, nil)
	return err
}

// RecoverVault takes a deletion back.
func (t *Tenant) RecoverVault(ctx context.Context, name string, pool bool) error {
	if pool {
		c, err := t.Pools()
		if err != nil {
			return err
		}
		p, err := c.BeginCreateOrUpdate(ctx, t.Group, name, armkeyvault.ManagedHsm{Location: &t.Conn.Location,
			Properties: &armkeyvault.ManagedHsmProperties{TenantID: &t.Conn.TenantID, CreateMode: to.Ptr(armkeyvault.CreateModeRecover)}}, nil)
		return ended(ctx, p, err)
	}
	c, err := t.Vaults()
	if err != nil {
		return err
	}
	p, err := c.BeginCreateOrUpdate(ctx, t.Group, name, armkeyvault.VaultCreateOrUpdateParameters{Location: &t.Conn.Location,
		Properties: &armkeyvault.VaultProperties{TenantID: &t.Conn.TenantID, CreateMode: to.Ptr(armkeyvault.CreateModeRecover)}}, nil)
	return ended(ctx, p, err)
}

// PurgeVault destroys a deleted vault or pool and all its keys.
func (t *Tenant) PurgeVault(ctx context.Context, name string, pool bool) error {
	if pool {
		c, err := t.Pools()
		if err != nil {
			return err
		}
		p, err := c.BeginPurgeDeleted(ctx, name, t.Conn.Location, nil)
		return ended(ctx, p, err)
	}
	c, err := t.Vaults()
	if err != nil {
		return err
	}
	p, err := c.BeginPurgeDeleted(ctx, name, t.Conn.Location, nil)
	return ended(ctx, p, err)
}

// VaultNamed finds a vault or a pool of the subscription.
func (t *Tenant) VaultNamed(ctx context.Context, name string) (VaultRow, error) {
	rows, err := t.ListVaults(ctx)
	if err != nil {
		return VaultRow{}, err
	}
	for _, r := range rows {
		if strings.EqualFold(r.Name, name) {
			return r, nil
		}
	}
	return VaultRow{}, fmt.Errorf("vault %s: not found; see: cloister vault list", name)
}

// KeysIn opens a vault by name; "" is the platform's.
func (t *Tenant) KeysIn(ctx context.Context, name string) (*azkeys.Client, error) {
	k, err := t.keeper("")
	if err != nil {
		return nil, err
	}
	if name != "" {
		row, err := t.VaultNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		k.service.URL = row.URL
	}
	return k.vault()
}

// Assign gives a principal a built-in role on all keys of a vault; "me" is the caller.
func (t *Tenant) Assign(ctx context.Context, vault, role, principal string) error {
	r, ok := roles.ByName(role)
	if !ok {
		return fmt.Errorf("no built-in role %q", role)
	}
	row, err := t.VaultNamed(ctx, vault)
	if err != nil {
		return err
	}
	if principal == "me" {
		if principal, err = t.me(ctx); err != nil {
			return err
		}
	}
	return t.assign(ctx, row.URL, "/", r.ID, principal)
}

// assign gives a principal a role at a scope of a vault. The name is the same each time, so that a repeat changes nothing.
func (t *Tenant) assign(ctx context.Context, vault, scope, role, principal string) error {
	k, err := t.keeper("")
	if err != nil {
		return err
	}
	k.service.URL = vault
	name := uuid.NewSHA1(assignments, []byte(vault+scope+"\x00"+principal+"\x00"+role))
	body := map[string]any{"properties": map[string]string{"roleDefinitionId": "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + role, "principalId": principal}}
	_, err = k.call(ctx, http.MethodPut, strings.TrimSuffix(scope, "/")+"/providers/Microsoft.Authorization/roleAssignments/"+name.String()+"?api-version=7.4", body)
	return err
}

// me is the caller's object id, by its own token.
func (t *Tenant) me(ctx context.Context) (string, error) {
	token, err := t.Conn.Bearer(ctx, "https://vault.azure.net")
	if err != nil {
		return "", err
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("the sign-in token is no JWT")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		OID string `json:"oid"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil || claims.OID == "" {
		return "", fmt.Errorf("the sign-in token names no object id: %w", err)
	}
	return claims.OID, nil
}

// vaultOfKey is the URL of the vault that a key's id is in.
func vaultOfKey(kid string) (string, error) {
	u, err := url.Parse(kid)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is no key's id", kid)
	}
	return u.Scheme + "://" + u.Host, nil
}
