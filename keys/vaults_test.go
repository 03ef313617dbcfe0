package keys_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

const (
	controlPlane = "cccccccc-0000-0000-0000-000000000001"
	armAudience  = "https://management.azure.com"
	otherTenant  = "99999999-2222-3333-4444-555555555555"
	otherIssuer  = "https://login.other.test/" + otherTenant + "/v2.0"
	resource     = "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/"
)

// managed is a world with a control plane, and with callers of two tenants.
type managed struct {
	*world
	otherKey *rsa.PrivateKey
}

func newManaged(t *testing.T) *managed {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	m := &managed{otherKey: key}
	m.world = newWorldWith(t, func(c *keys.Config) {
		c.TenantID = identitytest.TenantID
		c.Management = &keys.Management{Audiences: []string{armAudience}}
		c.Roles = append(c.Roles, roles.Assignment{PrincipalID: controlPlane, Role: "Key Vault Contributor", Scope: "/vaults"})
		c.Identity.Issuers = append(c.Identity.Issuers, keys.Issuer{URL: otherIssuer, TenantID: otherTenant, Keys: []keys.Key{{KID: "other", PEM: pemOf(t, &key.PublicKey)}}})
	})
	return m
}

// caller is a token of a tenant's caller for the control plane, which passes it on.
func (m *managed) caller(oid string) string { return m.signIn(oid, map[string]any{"aud": armAudience}) }

// foreign is the same in the other tenant.
func (m *managed) foreign(oid, audience string) string {
	now := m.now().Unix()
	return sign(m.t, m.otherKey, "other", map[string]any{"iss": otherIssuer, "tid": otherTenant, "aud": audience, "oid": oid, "iat": now, "nbf": now, "exp": now + 3600})
}

func (m *managed) manage(method, path, own, onBehalf, body string) reply {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, "https://"+suffix+":"+m.port+client.VaultsPath+path+"?api-version="+client.APIVersion, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	if own != "" {
		req.Header.Set("Authorization", "Bearer "+own)
	}
	if onBehalf != "" {
		req.Header.Set(client.OnBehalf, "Bearer "+onBehalf)
	}
	return m.do(req)
}

func vaultBody(t *testing.T, v client.Vault) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func asked(name string, change func(*client.Vault)) client.Vault {
	v := client.Vault{Name: name, Kind: "vault", TenantID: identitytest.TenantID, SKU: "standard", Roles: true, RetentionDays: 7, Resource: resource + name, Location: "local"}
	if change != nil {
		change(&v)
	}
	return v
}

func (m *managed) put(v client.Vault, onBehalf string) reply {
	m.t.Helper()
	return m.manage("PUT", "/"+v.Name, m.signIn(controlPlane, nil), onBehalf, vaultBody(m.t, v))
}

func (m *managed) must(r reply, status int) reply {
	m.t.Helper()
	if r.status != status {
		m.t.Fatalf("%d %s, want %d", r.status, r.body, status)
	}
	return r
}

// A vault from its making to its purge, with Azure's client for the keys in it.
func TestVaultLife(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	own, owner := m.signIn(controlPlane, nil), m.caller(identitytest.AdminID)
	m.must(m.put(asked("paris", nil), owner), 201)
	if r := m.must(m.put(asked("paris", func(v *client.Vault) { v.Tags = map[string]string{"a": "b"} }), owner), 200); !strings.Contains(r.body, `"tags":{"a":"b"}`) || !strings.Contains(r.body, `"url":"https://paris.`+suffix+":"+m.port+`/"`) {
		t.Error(r.body)
	}
	get := func() reply {
		return m.call("GET", "paris", "/keys/k?api-version=7.4", m.signIn(identitytest.AdminID, nil), "")
	}
	if r := get(); r.status != 403 {
		t.Errorf("the owner without a role reads keys: %d", r.status)
	}
	assignment := "/providers/Microsoft.Authorization/roleAssignments/0c0c0c0c-0000-0000-0000-000000000001?api-version=7.4"
	body := fmt.Sprintf(`{"properties":{"roleDefinitionId":"14b46e9e-c2b7-41b4-b07b-48a6ebf60603","principalId":%q}}`, identitytest.AdminID)
	if r := m.call("PUT", "paris", assignment, m.signIn(tenantB, nil), body); r.status != 403 {
		t.Errorf("someone else assigns a role: %d", r.status)
	}
	m.must(m.call("PUT", "paris", assignment, m.signIn(identitytest.AdminID, nil), body), 201)
	paris := m.azkeys("paris")
	if _, err := paris.CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := paris.CreateKey(t.Context(), "aes", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](256)}, nil)
	azureError(t, err, 400, "BadParameter")
	if got := m.call("GET", "main", "/keys/k?api-version=7.4", m.signIn(identitytest.AdminID, nil), ""); got.status != 404 {
		t.Errorf("the key is in another vault too: %d", got.status)
	}

	m.must(m.manage("DELETE", "/paris", own, "", ""), 200)
	m.must(m.manage("DELETE", "/paris", own, "", ""), 200) // again
	if r := get(); r.status != 404 || !strings.Contains(r.body, "VaultNotFound") {
		t.Errorf("a deleted vault answers %d %s", r.status, r.body)
	}
	if r := m.put(asked("paris", nil), owner); r.status != 409 || !strings.Contains(r.body, "ConflictError") {
		t.Errorf("a deleted vault is made again: %d %s", r.status, r.body)
	}
	m.must(m.manage("POST", "/paris/recover", own, owner, ""), 200)
	m.must(get(), 200)

	m.restart()
	m.must(get(), 200)
	m.must(m.manage("DELETE", "/paris", own, "", ""), 200)
	m.must(m.manage("POST", "/paris/purge", own, owner, ""), 204)
	m.must(m.manage("GET", "/paris", own, "", ""), 404)
	m.must(m.manage("POST", "/paris/purge", own, owner, ""), 404)

	// The name is free: another tenant gets it, and nothing of what was in it.
	foreign := func(v *client.Vault) { v.TenantID = otherTenant }
	m.must(m.put(asked("paris", foreign), m.foreign(identitytest.AdminID, armAudience)), 201)
	if r := get(); r.status != 401 || !strings.Contains(r.body, "AKV10032") {
		t.Errorf("the tenant of before: %d %s", r.status, r.body)
	}
	list := m.call("GET", "paris", assignment, m.foreign(identitytest.AdminID, "https://"+suffix), "")
	if list.status != 404 {
		t.Errorf("the role assignment outlived the purge: %d %s", list.status, list.body)
	}
}

// When its time is over, a deleted vault is purged with its keys, also one that is protected.
func TestVaultIsPurgedInTime(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	own, owner := m.signIn(controlPlane, nil), m.caller(identitytest.AdminID)
	m.must(m.put(asked("safe", func(v *client.Vault) { v.PurgeProtection = true }), owner), 201)
	m.must(m.manage("DELETE", "/safe", own, "", ""), 200)
	if r := m.manage("POST", "/safe/purge", own, owner, ""); r.status != 405 || !strings.Contains(r.body, "MethodNotAllowed") {
		t.Errorf("a protected vault: %d %s", r.status, r.body)
	}
	m.seconds.Add(7*24*3600 - 1)
	if err := m.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.must(m.manage("GET", "/safe", m.signIn(controlPlane, nil), "", ""), 200)
	m.seconds.Add(2)
	if err := m.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.must(m.manage("GET", "/safe", m.signIn(controlPlane, nil), "", ""), 404)
}

func TestVaultRefusals(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	own, owner := m.signIn(controlPlane, nil), m.caller(identitytest.AdminID)
	m.must(m.put(asked("mine", nil), owner), 201)
	m.must(m.put(asked("gone", nil), owner), 201)
	m.must(m.manage("DELETE", "/gone", own, "", ""), 200)
	policy := []client.AccessPolicy{{TenantID: identitytest.TenantID, ObjectID: stranger, Permissions: client.Permissions{Keys: []string{"get"}}}}
	for _, r := range []struct {
		name          string
		method, path  string
		own, onBehalf string
		change        func(*client.Vault)
		status        int
		says          string
	}{
		{"no token", "PUT", "/new", "", owner, nil, 401, "Unauthorized"},
		{"SVC-02 the tenant's token as the control plane's", "PUT", "/new", owner, owner, nil, 401, "Unauthorized"},
		{"a tenant without the control plane", "PUT", "/new", m.signIn(identitytest.AdminID, nil), owner, nil, 403, "Forbidden"},
		{"the control plane alone", "PUT", "/new", own, "", nil, 403, "no bearer token"},
		{"the control plane for itself", "PUT", "/new", own, own, nil, 403, "token aud"},
		{"a VM of the tenant", "PUT", "/new", own, m.signIn(vmID, map[string]any{"aud": armAudience, "xms_vmid": vmID}), nil, 403, "identity of a VM"},
		{"SVC-13 for another tenant", "PUT", "/new", own, m.foreign(tenantB, armAudience), nil, 403, "tenant"},
		{"SVC-13 another tenant's vault", "PUT", "/mine", own, m.foreign(tenantB, armAudience), func(v *client.Vault) { v.TenantID = otherTenant }, 409, "VaultAlreadyExists"},
		{"another resource of the same name", "PUT", "/mine", own, owner, func(v *client.Vault) { v.Resource = "/other" }, 409, "VaultAlreadyExists"},
		{"a name of the configuration", "PUT", "/main", own, owner, nil, 409, "VaultAlreadyExists"},
		{"a name of the configuration in capitals", "PUT", "/MAIN", own, owner, nil, 409, "VaultAlreadyExists"},
		{"SVC-12 a name that climbs", "PUT", "/..%2fmain", own, owner, nil, 400, "BadParameter"},
		{"a name in capitals", "PUT", "/New", own, owner, nil, 400, "vault name"},
		{"a name with two hyphens in a row", "PUT", "/a--b", own, owner, nil, 400, "vault name"},
		{"a name that is too long", "PUT", "/" + strings.Repeat("a", 25), own, owner, nil, 400, "vault name"},
		{"another name in the body", "PUT", "/new", own, owner, func(v *client.Vault) { v.Name = "old" }, 400, "another vault"},
		{"a third kind", "PUT", "/new", own, owner, func(v *client.Vault) { v.Kind = "safe" }, 400, "kind"},
		{"six days", "PUT", "/new", own, owner, func(v *client.Vault) { v.RetentionDays = 6 }, 400, "retentionDays"},
		{"ninety-one days", "PUT", "/new", own, owner, func(v *client.Vault) { v.RetentionDays = 91 }, 400, "retentionDays"},
		{"access policies in a pool", "PUT", "/new", own, owner, func(v *client.Vault) { v.Kind, v.AccessPolicies = "pool", policy }, 400, "accessPolicies"},
		{"administrators of a vault", "PUT", "/new", own, owner, func(v *client.Vault) { v.Administrators = []string{stranger} }, 400, "administrators"},
		{"an administrator that is none", "PUT", "/new", own, owner, func(v *client.Vault) { v.Kind, v.Administrators = "pool", []string{"me"} }, 400, "administrators[0]"},
		{"an identity of another tenant", "PUT", "/new", own, owner, func(v *client.Vault) {
			v.AccessPolicies = []client.AccessPolicy{{TenantID: otherTenant, ObjectID: stranger}}
		}, 400, "tenantId"},
		{"an identity twice", "PUT", "/new", own, owner, func(v *client.Vault) { v.AccessPolicies = append(policy, policy...) }, 400, "each identity once"},
		{"an unknown permission", "PUT", "/new", own, owner, func(v *client.Vault) {
			v.AccessPolicies = []client.AccessPolicy{{TenantID: identitytest.TenantID, ObjectID: stranger, Permissions: client.Permissions{Keys: []string{"own"}}}}
		}, 400, "permissions.keys"},
		{"other days than before", "PUT", "/mine", own, owner, func(v *client.Vault) { v.RetentionDays = 8 }, 400, "can't be modified"},
		{"access by someone who may not give it", "PUT", "/mine", own, m.caller(stranger), func(v *client.Vault) { v.Roles, v.AccessPolicies = false, policy }, 403, "no right to give access"},
		{"other access rules by someone who may not", "PUT", "/mine", own, m.caller(stranger), func(v *client.Vault) { v.Roles = false }, 403, "no right to give access"},
		{"recovering what is there", "POST", "/mine/recover", own, owner, nil, 404, "VaultNotFound"},
		{"recovering without the tenant", "POST", "/gone/recover", own, "", nil, 403, "no bearer token"},
		{"SVC-13 recovering another tenant's", "POST", "/gone/recover", own, m.foreign(tenantB, armAudience), nil, 404, "VaultNotFound"},
		{"purging without the tenant", "POST", "/gone/purge", own, "", nil, 403, "no bearer token"},
		{"SVC-13 purging another tenant's", "POST", "/gone/purge", own, m.foreign(tenantB, armAudience), nil, 404, "VaultNotFound"},
		{"purging by someone of the tenant", "POST", "/gone/purge", own, m.caller(stranger), nil, 403, "Forbidden"},
		{"purging what is there", "POST", "/mine/purge", own, owner, nil, 404, "VaultNotFound"},
		{"deleting a vault of the configuration", "DELETE", "/main", own, "", nil, 404, "VaultNotFound"},
		{"deleting what was never there", "DELETE", "/never", own, "", nil, 404, "VaultNotFound"},
		{"reading without the role", "GET", "/mine", m.signIn(identitytest.AdminID, nil), "", nil, 403, "Forbidden"},
		{"listing without the role", "GET", "", m.signIn(identitytest.AdminID, nil), "", nil, 403, "Forbidden"},
		{"another method", "PATCH", "/mine", own, owner, nil, 404, "NotFound"},
		{"another path", "POST", "/mine/empty", own, owner, nil, 404, "NotFound"},
	} {
		t.Run(r.name, func(t *testing.T) {
			body := ""
			if r.method == "PUT" {
				body = vaultBody(t, asked(strings.TrimPrefix(r.path, "/"), r.change))
			}
			if got := m.manage(r.method, r.path, r.own, r.onBehalf, body); got.status != r.status || !strings.Contains(got.body, r.says) {
				t.Errorf("%d %s, want %d and %q", got.status, got.body, r.status, r.says)
			}
		})
	}
	t.Run("their positive twins", func(t *testing.T) {
		m.must(m.put(asked("new", nil), owner), 201)
		m.must(m.put(asked("mine", func(v *client.Vault) { v.Roles, v.AccessPolicies = false, policy }), owner), 200)
		m.must(m.put(asked("mine", func(v *client.Vault) {
			v.Roles, v.AccessPolicies, v.Tags = false, policy, map[string]string{"by": "a colleague"}
		}), m.caller(stranger)), 200)
		m.must(m.manage("POST", "/gone/purge", own, owner, ""), 204)
		if r := m.must(m.manage("GET", "", own, "", ""), 200); strings.Contains(r.body, `"gone"`) || !strings.Contains(r.body, `"mine"`) {
			t.Error(r.body)
		}
	})
	t.Run("purge protection is never taken away", func(t *testing.T) {
		on := func(v *client.Vault) { v.PurgeProtection = true }
		m.must(m.put(asked("kept", on), owner), 201)
		if r := m.put(asked("kept", nil), owner); r.status != 400 || !strings.Contains(r.body, "irreversible") {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
}

// SVC-13: an object id means nothing without its tenant, and no role helps against that.
func TestOtherTenantInAVault(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	audience := "https://" + suffix
	if r := m.call("GET", "main", "/keys?api-version=7.4", m.foreign(identitytest.AdminID, audience), ""); r.status != 401 || !strings.Contains(r.body, "AKV10032") {
		t.Errorf("SVC-13 the administrator's id in another tenant: %d %s", r.status, r.body)
	}
	m.must(m.call("GET", "main", "/keys?api-version=7.4", m.signIn(identitytest.AdminID, nil), ""), 200)
}

// What access policies give: each permission opens its own calls and no other.
func TestAccessPolicies(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	owner := m.caller(identitytest.AdminID)
	give := func(permissions ...string) {
		t.Helper()
		m.put(asked("pol", func(v *client.Vault) {
			v.Roles = false
			v.AccessPolicies = []client.AccessPolicy{{TenantID: identitytest.TenantID, ObjectID: stranger, Permissions: client.Permissions{Keys: permissions}}}
		}), owner)
	}
	calls := map[string]func() reply{}
	call := func(permission, method, path, body string) {
		calls[permission] = func() reply { return m.call(method, "pol", path, m.signIn(stranger, nil), body) }
	}
	call("create", "POST", "/keys/k/create?api-version=7.4", `{"kty":"RSA"}`)
	call("get", "GET", "/keys/k?api-version=7.4", "")
	call("list", "GET", "/keys?api-version=7.4", "")
	call("update", "PATCH", "/keys/k?api-version=7.4", `{"tags":{"a":"b"}}`)
	call("sign", "POST", "/keys/k/sign?api-version=7.4", `{"alg":"RS256","value":"`+strings.Repeat("A", 43)+`"}`)
	call("rotate", "POST", "/keys/k/rotate?api-version=7.4", "{}")
	call("getrotationpolicy", "GET", "/keys/k/rotationpolicy?api-version=7.4", "")
	call("backup", "POST", "/keys/k/backup?api-version=7.4", "{}")
	call("delete", "DELETE", "/keys/k?api-version=7.4", "")
	call("recover", "POST", "/deletedkeys/k/recover?api-version=7.4", "{}")
	call("purge", "DELETE", "/deletedkeys/k?api-version=7.4", "")
	order := []string{"create", "get", "list", "update", "sign", "rotate", "getrotationpolicy", "backup", "delete", "recover", "purge"}
	for i, p := range order {
		give(p)
		for _, q := range order {
			if q != p {
				if r := calls[q](); r.status != 403 || !strings.Contains(r.body, "AccessDenied") {
					t.Errorf("with %s: %s answers %d %s", p, q, r.status, r.body)
				}
			}
		}
		if p == "purge" {
			give("delete")
			m.must(calls["delete"](), 200)
			give("all")
			if r := calls["purge"](); r.status != 403 {
				t.Errorf("all allows purge: %d", r.status)
			}
			give(p)
		}
		if r := calls[p](); r.status >= 300 {
			t.Errorf("%d: with %s: %d %s", i, p, r.status, r.body)
		}
	}
	// Roles don't count here, not even those of the configuration.
	if r := m.call("GET", "pol", "/keys?api-version=7.4", m.signIn(identitytest.AdminID, nil), ""); r.status != 403 {
		t.Errorf("a role counts beside access policies: %d", r.status)
	}
}

// A guest-state key in one vault lies under a key in another of the same tenant: a vault with roles, one with access
// policies, and a pool. What the owner does there stops the VM's next start.
func TestCustomerKeyInAnotherVault(t *testing.T) {
	t.Parallel()
	const encryptionUser = "e147488a-f6f5-4113-8e2d-b22465e65bf6"
	const otherAssignment = "/providers/Microsoft.Authorization/roleAssignments/0d0d0d0d-0000-0000-0000-00000000000"
	m := newManaged(t)
	own, owner := m.signIn(controlPlane, nil), m.caller(identitytest.AdminID)
	admin := func() string { return m.signIn(identitytest.AdminID, nil) }
	assign := func(vault, n, role, principal string) {
		t.Helper()
		m.must(m.call("PUT", vault, otherAssignment+n+"?api-version=7.4", admin(), fmt.Sprintf(`{"properties":{"roleDefinitionId":%q,"principalId":%q}}`, role, principal)), 201)
	}
	m.must(m.put(asked("byroles", nil), owner), 201)
	assign("byroles", "1", "14b46e9e-c2b7-41b4-b07b-48a6ebf60603", identitytest.AdminID)
	m.must(m.put(asked("bypolicy", func(v *client.Vault) {
		v.Roles = false
		v.AccessPolicies = []client.AccessPolicy{
			{TenantID: identitytest.TenantID, ObjectID: identitytest.AdminID, Permissions: client.Permissions{Keys: []string{"all"}}},
			{TenantID: identitytest.TenantID, ObjectID: setIdentity, Permissions: client.Permissions{Keys: []string{"get", "wrapKey", "unwrapKey"}}}}
	}), owner), 201)
	m.must(m.put(asked("thepool", func(v *client.Vault) { v.Kind, v.Administrators = "pool", []string{identitytest.AdminID} }), owner), 201)
	assign("thepool", "1", "515eb02d-2335-4d2d-92f2-b1cbdf9c3778", identitytest.AdminID)
	key := rsaKey(t)
	for i, vault := range []string{"byroles", "bypolicy", "thepool"} {
		t.Run(vault, func(t *testing.T) {
			id := fmt.Sprintf("0000000%d-1111-4222-8333-444444444444", i)
			kty := `{"kty":"RSA-HSM"}`
			if vault == "thepool" {
				kty = `{"kty":"oct-HSM","key_size":256}`
			}
			m.must(m.call("POST", vault, "/keys/customer/create?api-version=7.4", admin(), kty), 200)
			create := func() reply {
				return m.call("POST", "main", "/keys/gs-"+id+"/create?api-version=7.4", admin(), fmt.Sprintf(`{"kty":"oct-HSM","key_size":256,"attributes":{"exportable":true},"tags":{%q:%q,%q:%q},"release_policy":{"data":%q}}`,
					client.CustomerKeyTag, m.url(vault)+"/keys/customer", client.CustomerKeyIdentityTag, setIdentity, encode64(m.policy())))
			}
			if vault != "bypolicy" {
				if r := create(); r.status != 403 || !strings.Contains(r.body, "no role") {
					t.Fatalf("without a role: %d %s", r.status, r.body)
				}
				assign(vault, "2", "12338af0-0e69-4776-bea7-57ae8d297424", setIdentity)
				if r := create(); r.status != 403 || !strings.Contains(r.body, "another role") {
					t.Fatalf("with a role that is not for services: %d %s", r.status, r.body)
				}
				assign(vault, "3", encryptionUser, setIdentity)
			}
			m.must(create(), 200)
			open := func(generation uint64, n int) client.OpenRequest {
				r := openRequest(m.world, &key.PublicKey, generation, n)
				r.VMID = id
				return r
			}
			confirm := func(generation uint64, n int) client.ConfirmRequest {
				r := confirmRequest(m.world, &key.PublicKey, generation, n)
				r.VMID = id
				return r
			}
			next, n := uint64(0), 0
			opens := func() error {
				n++
				o, err := m.client(m.vm(id)).Open(t.Context(), open(next, 10*i+n))
				if err != nil {
					return err
				}
				next = o.Next
				return m.client(m.vm(id)).Confirm(t.Context(), confirm(next, 10*i+n))
			}
			if err := opens(); err != nil {
				t.Fatal(err)
			}
			if r := m.call("POST", vault, "/keys/customer/unwrapkey?api-version=7.4", admin(), `{"alg":"RSA-OAEP-256","value":"AAAA"}`); r.status != 400 && r.status != 403 {
				t.Errorf("the key still unwraps for callers: %d %s", r.status, r.body)
			}
			m.must(m.manage("DELETE", "/"+vault, own, "", ""), 200)
			if err := opens(); err == nil || !strings.Contains(err.Error(), "vault that was deleted") {
				t.Errorf("with its vault deleted: %v", err)
			}
			m.must(m.manage("POST", "/"+vault+"/recover", own, owner, ""), 200)
			if err := opens(); err != nil {
				t.Errorf("with its vault recovered: %v", err)
			}
		})
	}
	t.Run("SVC-13 a key in a vault of another tenant", func(t *testing.T) {
		m.must(m.put(asked("theirs", func(v *client.Vault) { v.TenantID = otherTenant }), m.foreign(tenantB, armAudience)), 201)
		r := m.call("POST", "main", "/keys/gs-"+otherVM+"/create?api-version=7.4", admin(), fmt.Sprintf(`{"kty":"oct-HSM","key_size":256,"attributes":{"exportable":true},"tags":{%q:%q},"release_policy":{"data":%q}}`,
			client.CustomerKeyTag, m.url("theirs")+"/keys/customer", encode64(m.policy())))
		if r.status != 400 || !strings.Contains(r.body, "must be named") {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
}
