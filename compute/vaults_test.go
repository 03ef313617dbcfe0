package compute_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

const (
	vaults   = group + "/providers/Microsoft.KeyVault/vaults/"
	pools    = group + "/providers/Microsoft.KeyVault/managedHSMs/"
	provider = "/subscriptions/" + sub + "/providers/Microsoft.KeyVault/"
)

// keeper is a real key keeper beside the control plane of a test.
type keeper struct {
	*env
	service *keys.Service
	server  *httptest.Server
	http    *http.Client
	suffix  string // with the port
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	k := newKeeperAt(t, t.TempDir(), func(o option) *env { return newEnv(t, o) })
	k.want(201, "PUT", group, `{"location":"local"}`)
	return k
}

// newKeeperAt is newKeeper on state that may be there already, with a control plane that the caller starts.
func newKeeperAt(t *testing.T, state string, start func(option) *env) *keeper {
	t.Helper()
	k := &keeper{}
	var front later
	k.server = httptest.NewUnstartedServer(&front)
	k.server.StartTLS()
	t.Cleanup(k.server.Close)
	_, port, err := net.SplitHostPort(k.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	k.suffix = "vault.test:" + port
	transport := k.server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com"
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, k.server.Listener.Addr().String())
	}
	k.http = &http.Client{Transport: transport}
	own := &client.Vaults{URL: "https://" + k.suffix, HTTP: k.http, Bearer: func(context.Context) (string, error) {
		return k.issuer.MintClient(identitytest.ControlPlaneID, "https://vault.azure.net")
	}}
	k.env = start(func(c *compute.Config, d *compute.Deps) { c.VaultSuffix, d.Vaults = k.suffix, own })
	id := k.cfg.Identity.Issuers[0]
	pass := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(pass, []byte("a passphrase for tests only"), 0o600); err != nil {
		t.Fatal(err)
	}
	pin := []keys.Key{{KID: id.Keys[0].KID, PEM: id.Keys[0].PEM}}
	k.service, err = keys.New(t.Context(), keys.Config{
		Listen: k.server.Listener.Addr().String(), TLS: keys.TLS{Certificate: "unused", Key: "unused"}, Suffix: "vault.test", StateDir: state,
		Keystore: keys.Keystore{PassphraseFile: pass}, Authorities: []keys.Authority{{Issuer: "https://attest.test", Keys: []keys.Key{{KID: "attest", PEM: id.Keys[0].PEM}}}},
		Identity:   keys.Identity{SignIn: identitytest.Authority + "/" + identitytest.TenantID, Issuers: []keys.Issuer{{URL: id.URL, TenantID: id.TenantID, Keys: pin}}},
		Management: &keys.Management{Audiences: k.cfg.Identity.Audiences},
		Roles:      roles.List{{PrincipalID: identitytest.ControlPlaneID, Role: "Key Vault Contributor", Scope: "/vaults"}},
	}, keys.Environment{Now: time.Now, Getenv: os.Getenv, Cost: keystore.Cost{Time: 1, MemoryKiB: 64, Threads: 1}}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.service.Close(); err != nil {
			t.Error(err)
		}
	})
	front.h = k.service.Handler()
	return k
}

func statusOf(err error) (int, string) {
	var e *azcore.ResponseError
	if errors.As(err, &e) {
		return e.StatusCode, e.ErrorCode
	}
	return 0, ""
}

// A vault by Azure's client for the ARM side, and its keys by the client for keys: made, read, changed, listed by each list
// that clients use, deleted, found among the deleted, recovered, purged.
func TestVaultByAzureSDK(t *testing.T) {
	k := newKeeper(t)
	ctx := t.Context()
	c := must[*armkeyvault.VaultsClient](t)(armkeyvault.NewVaultsClient(sub, k.env, k.options()))
	free, err := c.CheckNameAvailability(ctx, armkeyvault.VaultCheckNameAvailabilityParameters{Name: to.Ptr("Paris"), Type: to.Ptr("Microsoft.KeyVault/vaults")}, nil)
	if err != nil || !*free.NameAvailable {
		t.Fatalf("%v %+v", err, free)
	}
	if _, err := c.Get(ctx, "g", "Paris", nil); err == nil {
		t.Fatal("there before it was made")
	}
	perm := func(p ...armkeyvault.KeyPermissions) *armkeyvault.Permissions {
		out := &armkeyvault.Permissions{Secrets: []*armkeyvault.SecretPermissions{to.Ptr(armkeyvault.SecretPermissionsGet)}}
		for _, one := range p {
			out.Keys = append(out.Keys, to.Ptr(one))
		}
		return out
	}
	policyOf := func(oid string, p ...armkeyvault.KeyPermissions) *armkeyvault.AccessPolicyEntry {
		return &armkeyvault.AccessPolicyEntry{TenantID: to.Ptr(k.cfg.TenantID), ObjectID: to.Ptr(oid), Permissions: perm(p...)}
	}
	ask := armkeyvault.VaultCreateOrUpdateParameters{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")}, Properties: &armkeyvault.VaultProperties{
		TenantID: to.Ptr(k.cfg.TenantID), SKU: &armkeyvault.SKU{Family: to.Ptr(armkeyvault.SKUFamilyA), Name: to.Ptr(armkeyvault.SKUNamePremium)}, SoftDeleteRetentionInDays: to.Ptr[int32](7),
		EnabledForDiskEncryption: to.Ptr(true), AccessPolicies: []*armkeyvault.AccessPolicyEntry{policyOf(identitytest.AdminID, armkeyvault.KeyPermissionsCreate, armkeyvault.KeyPermissionsGet)}}}
	p, err := c.BeginCreateOrUpdate(ctx, "g", "Paris", ask, nil)
	made := done(t, p, err)
	if *made.Name != "Paris" || *made.Properties.VaultURI != "https://paris."+k.suffix+"/" || !*made.Properties.EnabledForDiskEncryption || *made.Properties.EnableRbacAuthorization || len(made.Properties.AccessPolicies) != 1 ||
		*made.Properties.AccessPolicies[0].Permissions.Secrets[0] != armkeyvault.SecretPermissionsGet || *made.Tags["a"] != "b" || *made.Properties.ProvisioningState != armkeyvault.VaultProvisioningStateSucceeded {
		t.Fatalf("%+v", made.Properties)
	}
	data, err := azkeys.NewClient(strings.TrimSuffix(*made.Properties.VaultURI, "/"), k.env, &azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: k.http, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.CreateKey(ctx, "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
		t.Fatal(err)
	}
	sign := func() error {
		_, err := data.Sign(ctx, "k", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmRS256), Value: make([]byte, 32)}, nil)
		return err
	}
	if status, _ := statusOf(sign()); status != 403 {
		t.Errorf("signed without the permission: %v", sign())
	}
	change := func(op armkeyvault.AccessPolicyUpdateKind, entries ...*armkeyvault.AccessPolicyEntry) {
		t.Helper()
		if _, err := c.UpdateAccessPolicy(ctx, "g", "paris", op, armkeyvault.VaultAccessPolicyParameters{Properties: &armkeyvault.VaultAccessPolicyProperties{AccessPolicies: entries}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	change(armkeyvault.AccessPolicyUpdateKindAdd, policyOf(identitytest.AdminID, armkeyvault.KeyPermissionsSign))
	if err := sign(); err != nil {
		t.Error(err)
	}
	change(armkeyvault.AccessPolicyUpdateKindRemove, policyOf(identitytest.AdminID, armkeyvault.KeyPermissionsSign))
	if err := sign(); err == nil {
		t.Error("signed with a permission that was taken away")
	}
	change(armkeyvault.AccessPolicyUpdateKindReplace, policyOf(identitytest.AdminID, armkeyvault.KeyPermissionsGet, armkeyvault.KeyPermissionsSign))
	if err := sign(); err != nil {
		t.Error(err)
	}

	u, err := c.Update(ctx, "g", "paris", armkeyvault.VaultPatchParameters{Properties: &armkeyvault.VaultPatchProperties{EnabledForDiskEncryption: to.Ptr(false)}}, nil)
	if err != nil || *u.Properties.EnabledForDiskEncryption || len(u.Properties.AccessPolicies) != 1 || *u.Tags["a"] != "b" || *u.Properties.SoftDeleteRetentionInDays != 7 {
		t.Errorf("%v %+v", err, u.Properties)
	}
	lists := 0
	for pager := c.NewListBySubscriptionPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Value {
			if *v.Properties.VaultURI == *made.Properties.VaultURI {
				lists++
			}
		}
	}
	for pager := c.NewListByResourceGroupPager("g", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		lists += len(page.Value)
	}
	for pager := c.NewListPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		lists += len(page.Value)
	}
	if lists != 3 {
		t.Errorf("in %d lists of 3", lists)
	}

	if _, err := c.GetDeleted(ctx, "paris", "local", nil); err == nil {
		t.Error("among the deleted before it was deleted")
	}
	if _, err := c.Delete(ctx, "g", "paris", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(ctx, "g", "paris", nil); err != nil {
		t.Errorf("deleting again: %v", err)
	}
	if status, _ := statusOf(sign()); status != 404 {
		t.Errorf("a deleted vault answers %d", status)
	}
	if taken, err := c.CheckNameAvailability(ctx, armkeyvault.VaultCheckNameAvailabilityParameters{Name: to.Ptr("paris"), Type: to.Ptr("Microsoft.KeyVault/vaults")}, nil); err != nil || *taken.NameAvailable {
		t.Errorf("the name of a deleted vault: %v", err)
	}
	p, err = c.BeginCreateOrUpdate(ctx, "g", "paris", ask, nil)
	if status, code := statusOf(err); status != 409 || code != "ConflictError" {
		t.Errorf("made while it can be recovered: %v %v", p, err)
	}
	gone, err := c.GetDeleted(ctx, "paris", "local", nil)
	if err != nil || *gone.Properties.VaultID != vaults+"Paris" || gone.Properties.ScheduledPurgeDate.Sub(*gone.Properties.DeletionDate) != 7*24*time.Hour {
		t.Errorf("%v %+v", err, gone.Properties)
	}
	ask.Properties.CreateMode = to.Ptr(armkeyvault.CreateModeRecover)
	p, err = c.BeginCreateOrUpdate(ctx, "g", "paris", ask, nil)
	if back := done(t, p, err); *back.Tags["a"] != "b" {
		t.Errorf("%+v", back)
	}
	if err := sign(); err != nil {
		t.Errorf("the recovered vault: %v", err)
	}
	if _, err := c.Delete(ctx, "g", "paris", nil); err != nil {
		t.Fatal(err)
	}
	pp, err := c.BeginPurgeDeleted(ctx, "paris", "local", nil)
	done(t, pp, err)
	for pager := c.NewListDeletedPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil || len(page.Value) != 0 {
			t.Errorf("%v, %d deleted after the purge", err, len(page.Value))
		}
	}
}

// A pool with an AES key; what azurerm asks of vaults besides; and a group that takes its vaults along.
func TestPoolAndGroup(t *testing.T) {
	k := newKeeper(t)
	ctx := t.Context()
	c := must[*armkeyvault.ManagedHsmsClient](t)(armkeyvault.NewManagedHsmsClient(sub, k.env, k.options()))
	p, err := c.BeginCreateOrUpdate(ctx, "g", "hsm1", armkeyvault.ManagedHsm{Location: to.Ptr("local"), SKU: &armkeyvault.ManagedHsmSKU{Family: to.Ptr(armkeyvault.ManagedHsmSKUFamilyB), Name: to.Ptr(armkeyvault.ManagedHsmSKUNameStandardB1)},
		Properties: &armkeyvault.ManagedHsmProperties{TenantID: to.Ptr(k.cfg.TenantID), InitialAdminObjectIDs: []*string{to.Ptr(identitytest.AdminID)}, SoftDeleteRetentionInDays: to.Ptr[int32](7), EnablePurgeProtection: to.Ptr(true)}}, nil)
	made := done(t, p, err)
	if *made.Properties.HsmURI != "https://hsm1."+k.suffix+"/" || *made.Properties.InitialAdminObjectIDs[0] != identitytest.AdminID {
		t.Fatalf("%+v", made.Properties)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", *made.Properties.HsmURI, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := k.http.Do(req) // azurerm waits until the bare URL answers anything
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	k.want(201, "PUT", vaults+"second", vaultText(k.env, `"enableRbacAuthorization":true`))
	for _, path := range []string{provider + "locations/local/deletedVaults/never?api-version=2026-02-01", provider + "locations/local/deletedVaults/hsm1?api-version=2026-02-01"} {
		k.want(404, "GET", path, "")
	}
	if out := k.want(200, "GET", "/subscriptions/"+sub+"/resources?$filter=resourceType%20eq%20'Microsoft.KeyVault/vaults'&api-version=2015-11-01", ""); !strings.Contains(jsonText(out), "/vaults/second") || strings.Contains(jsonText(out), "hsm1") {
		t.Error(out)
	}
	if status, out, _ := k.call("PUT", vaults+"hsm1", vaultText(k.env, `"accessPolicies":[]`)); status != 409 {
		t.Errorf("a vault of a pool's name: %d %v", status, out)
	}
	k.want(404, "GET", vaults+"hsm1", "")

	_, _, h := k.call("DELETE", group, "")
	if h.Get("Location") == "" {
		t.Fatal("no operation")
	}
	k.until(group, "ResourceGroupNotFound")
	for _, path := range []string{"locations/local/deletedVaults/second", "locations/local/deletedManagedHSMs/hsm1"} {
		k.want(200, "GET", provider+path, "")
	}
	if status, out, _ := k.call("POST", provider+"locations/local/deletedManagedHSMs/hsm1/purge", ""); status != 405 {
		t.Errorf("a protected pool is purged: %d %v", status, out)
	}
	if status, out, _ := k.call("PUT", vaults+"second", vaultText(k.env, `"createMode":"recover"`)); status != 404 {
		t.Errorf("recovered into a group that is gone: %d %v", status, out)
	}
	k.want(201, "PUT", group, `{"location":"local"}`)
	k.want(201, "PUT", vaults+"second", vaultText(k.env, `"createMode":"recover"`))
}

// A pool that nothing protects, from its making to its purge.
func TestPoolLife(t *testing.T) {
	k := newKeeper(t)
	ctx := t.Context()
	c := must[*armkeyvault.ManagedHsmsClient](t)(armkeyvault.NewManagedHsmsClient(sub, k.env, k.options()))
	ask := armkeyvault.ManagedHsm{Location: to.Ptr("local"), SKU: &armkeyvault.ManagedHsmSKU{Family: to.Ptr(armkeyvault.ManagedHsmSKUFamilyB), Name: to.Ptr(armkeyvault.ManagedHsmSKUNameStandardB1)},
		Properties: &armkeyvault.ManagedHsmProperties{TenantID: to.Ptr(k.cfg.TenantID), InitialAdminObjectIDs: []*string{to.Ptr(identitytest.AdminID)}, SoftDeleteRetentionInDays: to.Ptr[int32](7)}}
	p, err := c.BeginCreateOrUpdate(ctx, "g", "hsm2", ask, nil)
	done(t, p, err)
	u, err := c.BeginUpdate(ctx, "g", "hsm2", armkeyvault.ManagedHsm{Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	if changed := done(t, u, err); *changed.Tags["a"] != "b" || *changed.Properties.InitialAdminObjectIDs[0] != identitytest.AdminID {
		t.Errorf("%+v", changed.Properties)
	}
	d, err := c.BeginDelete(ctx, "g", "hsm2", nil)
	done(t, d, err)
	gone, err := c.GetDeleted(ctx, "hsm2", "local", nil)
	if err != nil || *gone.Properties.MhsmID != pools+"hsm2" {
		t.Fatalf("%v %+v", err, gone.Properties)
	}
	ask.Properties.CreateMode = to.Ptr(armkeyvault.CreateModeRecover)
	p, err = c.BeginCreateOrUpdate(ctx, "g", "hsm2", ask, nil)
	done(t, p, err)
	d, err = c.BeginDelete(ctx, "g", "hsm2", nil)
	done(t, d, err)
	g, err := c.BeginPurgeDeleted(ctx, "hsm2", "local", nil)
	done(t, g, err)
	if free, err := c.CheckMhsmNameAvailability(ctx, armkeyvault.CheckMhsmNameAvailabilityParameters{Name: to.Ptr("hsm2")}, nil); err != nil || !*free.NameAvailable {
		t.Errorf("after the purge: %v %+v", err, free)
	}
}

func vaultText(e *env, more string) string {
	return `{"location":"local","properties":{"tenantId":"` + e.cfg.TenantID + `","sku":{"family":"A","name":"standard"},` + more + `}}`
}

func TestVaultRefused(t *testing.T) {
	k := newKeeper(t)
	good := `"accessPolicies":[]`
	k.want(201, "PUT", vaults+"mine", vaultText(k.env, good+`,"enablePurgeProtection":true,"softDeleteRetentionInDays":30`))
	k.want(201, "PUT", vaults+"roles", vaultText(k.env, `"enableRbacAuthorization":true`))
	k.want(201, "PUT", vaults+"gone", vaultText(k.env, good))
	k.want(200, "DELETE", vaults+"gone", "")
	swap := func(old, new string) string { return strings.Replace(vaultText(k.env, good), old, new, 1) }
	oid := identitytest.AdminID
	for _, r := range []struct {
		name, method, path, body string
		status                   int
		code, target             string
	}{
		{"no tenant", "PUT", vaults + "new", swap(k.cfg.TenantID, ""), 400, "InvalidParameter", "properties.tenantId"},
		{"SVC-13 another tenant", "PUT", vaults + "new", swap(k.cfg.TenantID, "99999999-2222-3333-4444-555555555555"), 400, "InvalidParameter", "properties.tenantId"},
		{"elsewhere", "PUT", vaults + "new", swap(`"local"`, `"moon"`), 400, "LocationNotAvailableForResourceType", "location"},
		{"no SKU", "PUT", vaults + "new", swap(`"sku":{"family":"A","name":"standard"},`, ""), 400, "InvalidParameter", "sku.name"},
		{"an unknown SKU", "PUT", vaults + "new", swap("standard", "gold"), 400, "InvalidParameter", "properties.sku.name"},
		{"neither roles nor policies", "PUT", vaults + "new", vaultText(k.env, `"enableRbacAuthorization":false`), 400, "InvalidParameter", "properties.accessPolicies"},
		{"no soft deletion", "PUT", vaults + "new", vaultText(k.env, good+`,"enableSoftDelete":false`), 400, "BadRequest", "properties.enableSoftDelete"},
		{"six days", "PUT", vaults + "new", vaultText(k.env, good+`,"softDeleteRetentionInDays":6`), 400, "InvalidParameter", ""},
		{"a closed network", "PUT", vaults + "new", vaultText(k.env, good+`,"networkAcls":{"defaultAction":"Deny"}`), 400, "InvalidParameter", "properties.networkAcls.defaultAction"},
		{"network rules", "PUT", vaults + "new", vaultText(k.env, good+`,"networkAcls":{"defaultAction":"Allow","ipRules":[{"value":"1.2.3.4"}]}`), 400, "InvalidParameter", "properties.networkAcls.ipRules[0].value"},
		{"no public network", "PUT", vaults + "new", vaultText(k.env, good+`,"publicNetworkAccess":"Disabled"`), 400, "InvalidParameter", "properties.publicNetworkAccess"},
		{"CP-02 an unknown property", "PUT", vaults + "new", vaultText(k.env, good+`,"enableEscrow":true`), 400, "InvalidParameter", "properties.enableEscrow"},
		{"an unknown permission", "PUT", vaults + "new", vaultText(k.env, `"accessPolicies":[{"tenantId":"`+k.cfg.TenantID+`","objectId":"`+oid+`","permissions":{"keys":["own"]}}]`), 400, "InvalidParameter", ""},
		{"a policy for another tenant", "PUT", vaults + "new", vaultText(k.env, `"accessPolicies":[{"tenantId":"`+sub+`","objectId":"`+oid+`","permissions":{}}]`), 400, "InvalidParameter", ""},
		{"a name with an underscore", "PUT", vaults + "a_b", vaultText(k.env, good), 400, "InvalidParameter", ""},
		{"no group", "PUT", strings.Replace(vaults, "resourceGroups/g/", "resourceGroups/none/", 1) + "new", vaultText(k.env, good), 404, "ResourceGroupNotFound", ""},
		{"a deleted vault's name", "PUT", vaults + "gone", vaultText(k.env, good), 409, "ConflictError", ""},
		{"recovering what was never deleted", "PUT", vaults + "never", vaultText(k.env, `"createMode":"recover"`), 404, "DeletedVaultNotFound", ""},
		{"recovering a vault as a pool", "PUT", pools + "gone", `{"location":"local","sku":{"family":"B","name":"Standard_B1"},"properties":{"tenantId":"` + k.cfg.TenantID + `","createMode":"recover"}}`, 404, "DeletedVaultNotFound", ""},
		{"purge protection taken away", "PUT", vaults + "mine", vaultText(k.env, good+`,"enablePurgeProtection":false,"softDeleteRetentionInDays":30`), 400, "BadRequest", "properties.enablePurgeProtection"},
		{"purge protection patched away", "PATCH", vaults + "mine", `{"properties":{"enablePurgeProtection":false}}`, 400, "BadRequest", "properties.enablePurgeProtection"},
		{"other days", "PATCH", vaults + "mine", `{"properties":{"softDeleteRetentionInDays":31}}`, 400, "BadRequest", "properties.softDeleteRetentionInDays"},
		{"policies where roles count", "PUT", vaults + "roles/accessPolicies/add", `{"properties":{"accessPolicies":[]}}`, 400, "BadRequest", ""},
		{"an unknown change of policies", "PUT", vaults + "mine/accessPolicies/swap", `{"properties":{"accessPolicies":[{"tenantId":"` + k.cfg.TenantID + `","objectId":"` + oid + `","permissions":{}}]}}`, 400, "InvalidParameter", "operationKind"},
		{"policies of nothing", "PUT", vaults + "never/accessPolicies/add", `{"properties":{"accessPolicies":[]}}`, 404, "ResourceNotFound", ""},
		{"a pool without administrators", "PUT", pools + "new", `{"location":"local","sku":{"family":"B","name":"Standard_B1"},"properties":{"tenantId":"` + k.cfg.TenantID + `"}}`, 400, "InvalidParameter", "properties.initialAdminObjectIds"},
		{"purging in another region", "POST", provider + "locations/moon/deletedVaults/gone/purge", "", 404, "DeletedVaultNotFound", ""},
		{"purging what is there", "POST", provider + "locations/local/deletedVaults/mine/purge", "", 404, "DeletedVaultNotFound", ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			status, out, _ := k.call(r.method, r.path, r.body)
			code, _, target := errorOf(out)
			if status != r.status || code != r.code || r.target != "" && target != r.target {
				t.Errorf("%d %s at %s, want %d %s at %s: %v", status, code, target, r.status, r.code, r.target, out)
			}
			if strings.HasSuffix(r.path, "/new") {
				k.want(404, "GET", r.path, "") // nothing is left of it
			}
		})
	}
	t.Run("their positive twins", func(t *testing.T) {
		k.want(201, "PUT", vaults+"new", vaultText(k.env, good+`,"networkAcls":{"bypass":"None","defaultAction":"Allow","ipRules":[]},"publicNetworkAccess":"enabled","enableSoftDelete":true`))
		k.want(200, "PATCH", vaults+"mine", `{"tags":{"x":"y"},"properties":{"softDeleteRetentionInDays":30}}`)
		k.want(200, "POST", provider+"locations/local/deletedVaults/gone/purge", "")
	})
	t.Run("If-Match", func(t *testing.T) {
		stale := func(r *http.Request) { r.Header.Set("If-Match", `"old"`) }
		for _, method := range []string{"PUT", "DELETE"} {
			if status, out, _ := k.call(method, vaults+"mine", vaultText(k.env, good+`,"softDeleteRetentionInDays":30`), stale); status != 412 {
				t.Errorf("%s: %d %v", method, status, out)
			}
		}
	})
}

// A control plane without a key keeper that makes vaults says so.
func TestNoVaults(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	if status, out, _ := e.call("PUT", vaults+"new", vaultText(e, `"accessPolicies":[]`)); status != 409 {
		t.Errorf("%d %v", status, out)
	}
	e.want(200, "GET", provider+"vaults", "")
}
