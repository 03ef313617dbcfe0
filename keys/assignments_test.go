package keys_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

const (
	roleAssignments = "/providers/Microsoft.Authorization/roleAssignments"
	firstName       = "aaaaaaaa-0000-4000-8000-000000000001"
	encryptionUser  = "e147488a-f6f5-4113-8e2d-b22465e65bf6"
)

func withAssigner(c *keys.Config) {
	c.Roles = append(c.Roles, roles.Assignment{PrincipalID: identitytest.AdminID, Role: "Key Vault Data Access Administrator", Scope: "/vaults/main"})
}

func assignmentOf(role, principal string) string {
	return fmt.Sprintf(`{"properties":{"roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/%s","principalId":"%s"}}`, role, principal)
}

// An encryption set's identity gets its role by an assignment; taking it away stops the VM's next start.
func TestRoleAssignments(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, withAssigner)
	admin := w.signIn(identitytest.AdminID, nil)
	key := rsaKey(t)
	if _, err := w.azkeys("main").CreateKey(t.Context(), "customer", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM)}, nil); err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{client.CustomerKeyTag: w.url("main") + "/keys/customer", client.CustomerKeyIdentityTag: setIdentity}
	body := map[string]any{"kty": "oct-HSM", "key_size": 256, "attributes": map[string]any{"exportable": true}, "tags": tags, "release_policy": map[string]any{"data": encode64(w.policy())}}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	create := func() reply {
		return w.call("POST", "main", "/keys/gs-"+vmID+"/create?api-version=7.4", admin, string(raw))
	}
	if r := create(); r.status != 403 || !strings.Contains(r.body, "no role") {
		t.Fatalf("without an assignment: %d %s", r.status, r.body)
	}
	const at = "/keys/customer" + roleAssignments + "/" + firstName + "?api-version=7.4"
	for range 2 { // a repeat changes nothing
		r := w.call("PUT", "main", at, admin, assignmentOf(encryptionUser, setIdentity))
		if r.status != 201 || !strings.Contains(r.body, `"scope":"/keys/customer"`) || !strings.Contains(r.body, setIdentity) {
			t.Fatalf("assigning: %d %s", r.status, r.body)
		}
	}
	if r := w.call("GET", "main", "/"+roleAssignments+"?api-version=7.4", admin, ""); r.status != 200 || strings.Count(r.body, firstName) != 2 {
		t.Errorf("list: %d %s", r.status, r.body)
	}
	if r := create(); r.status != 200 {
		t.Fatalf("with an assignment: %d %s", r.status, r.body)
	}
	w.restart()
	if _, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if r := w.call("DELETE", "main", at, admin, ""); r.status != 200 {
		t.Fatalf("taking it away: %d %s", r.status, r.body)
	}
	if _, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, 2)); evidence.CodeOf(err) != evidence.CodePolicy || !strings.Contains(err.Error(), "no role") {
		t.Errorf("CP-04 opened without a role: %v", err)
	}
	if r := w.call("GET", "main", at, admin, ""); r.status != 404 {
		t.Errorf("after deletion: %d %s", r.status, r.body)
	}
}

func TestRoleAssignmentsRefuse(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, withAssigner)
	admin := w.signIn(identitytest.AdminID, nil)
	if r := w.call("PUT", "main", roleAssignments+"/"+firstName+"?api-version=7.4", admin, assignmentOf(encryptionUser, setIdentity)); r.status != 201 {
		t.Fatalf("the positive twin: %d %s", r.status, r.body)
	}
	const second = "aaaaaaaa-0000-4000-8000-000000000002"
	for _, r := range []struct {
		name, method, vault, path, bearer, body string
		status                                  int
	}{
		{"an officer assigns", "PUT", "main", roleAssignments + "/" + second, w.signIn(operator, nil), assignmentOf(encryptionUser, stranger), 403},
		{"SVC-13 in another tenant's vault", "PUT", "other", roleAssignments + "/" + second, admin, assignmentOf(encryptionUser, stranger), 403},
		{"a VM assigns itself a role", "PUT", "main", roleAssignments + "/" + second, w.vm(vmID), assignmentOf(encryptionUser, vmID), 403},
		{"who got a role assigns further", "PUT", "main", roleAssignments + "/" + second, w.signIn(setIdentity, nil), assignmentOf(encryptionUser, stranger), 403},
		{"a role beyond keys", "PUT", "main", roleAssignments + "/" + second, admin, assignmentOf("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", stranger), 400},
		{"the right to assign", "PUT", "main", roleAssignments + "/" + second, admin, assignmentOf("8b54135c-b56d-4d72-a534-26097cfdc8d8", stranger), 400},
		{"an unknown role", "PUT", "main", roleAssignments + "/" + second, admin, assignmentOf(second, stranger), 400},
		{"no principal", "PUT", "main", roleAssignments + "/" + second, admin, assignmentOf(encryptionUser, ""), 400},
		{"a name that is no GUID", "PUT", "main", roleAssignments + "/me", admin, assignmentOf(encryptionUser, stranger), 400},
		{"SVC-12 a scope that climbs", "PUT", "main", "/keys/..%2fx" + roleAssignments + "/" + second, admin, assignmentOf(encryptionUser, stranger), 400},
		{"an unknown scope", "PUT", "main", "/secrets/x" + roleAssignments + "/" + second, admin, assignmentOf(encryptionUser, stranger), 400},
		{"the name again for something else", "PUT", "main", roleAssignments + "/" + firstName, admin, assignmentOf(encryptionUser, stranger), 409},
		{"the same under another name", "PUT", "main", roleAssignments + "/" + second, admin, assignmentOf(encryptionUser, setIdentity), 409},
		{"SVC-20 a member twice", "PUT", "main", roleAssignments + "/" + second, admin, `{"properties":{},"properties":{}}`, 400},
		{"one that is not there", "DELETE", "main", roleAssignments + "/" + second, admin, "", 404},
		{"an officer reads", "GET", "main", roleAssignments, w.signIn(operator, nil), "", 403},
		{"a method that is not there", "POST", "main", roleAssignments, admin, "{}", 404},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got := w.call(r.method, r.vault, r.path+"?api-version=7.4", r.bearer, r.body); got.status != r.status {
				t.Errorf("%d %s, want %d", got.status, got.body, r.status)
			}
		})
	}
	if r := w.call("GET", "main", roleAssignments+"?api-version=7.4", admin, ""); strings.Count(r.body, `"principalId"`) != 1 {
		t.Errorf("refusals left a trace: %s", r.body)
	}
}
