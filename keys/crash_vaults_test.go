//go:build failpoints

package keys_test

import (
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

// The key keeper is killed after each durable write while a vault is made, deleted, recovered and purged. What was asked for
// can be asked for again, no key is lost but by the purge, and a purge that began goes to its end.
func TestKilledAroundAVault(t *testing.T) {
	p := newProcessWith(t, func(c *keys.Config) {
		c.Management = &keys.Management{Audiences: []string{armAudience}}
		c.Roles = append(c.Roles, roles.Assignment{PrincipalID: controlPlane, Role: "Key Vault Contributor", Scope: "/vaults"},
			roles.Assignment{PrincipalID: identitytest.AdminID, Role: "Key Vault Crypto Officer", Scope: "/vaults/paris"})
	})
	call := func(method, path, body string) (int, error) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+suffix+":"+p.port+client.VaultsPath+"/paris"+path+"?api-version="+client.APIVersion, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.signIn(controlPlane, nil))
		req.Header.Set(client.OnBehalf, "Bearer "+p.signIn(identitytest.AdminID, map[string]any{"aud": armAudience}))
		resp, err := p.http.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	must := func(method, path, body string, want int) {
		t.Helper()
		if status, err := call(method, path, body); err != nil || status != want {
			t.Fatalf("%s %s: %d %v, want %d", method, path, status, err, want)
		}
	}
	key := func(name string) error {
		_, err := p.azkeys("paris").GetKey(t.Context(), name, "", nil)
		return err
	}
	vault := vaultBody(t, asked("paris", nil))
	for _, r := range []struct {
		name, method, path, body, point string
		again                           int // the answer to asking again
	}{
		{"made", "PUT", "", vault, "keys/audit-entry", 201},
		{"deleted", "DELETE", "", "", "keys/vault-written", 200},
		{"recovered", "POST", "/recover", "", "keys/vault-written", 404},
		{"made as it is", "PUT", "", vault, "keys/vault-written", 200},
		{"deleted, unwritten", "DELETE", "", "", "keys/audit-entry", 200},
		{"recovered, unwritten", "POST", "/recover", "", "keys/audit-entry", 200},
	} {
		p.start(r.point)
		_, err := call(r.method, r.path, r.body)
		p.dies(err)
		p.start("")
		must(r.method, r.path, r.body, r.again)
		if r.name == "made" {
			for _, name := range []string{"one", "two"} {
				if _, err := p.azkeys("paris").CreateKey(t.Context(), name, azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r.method != "DELETE" {
			if err := key("one"); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		}
		p.stop()
	}
	for _, point := range []string{"keys/vault-written", "keys/vault-key-destroyed", "keys/vault-purged"} {
		t.Run("purged "+point, func(t *testing.T) {
			p.start("")
			must("PUT", "", vault, map[bool]int{true: 200, false: 201}[point == "keys/vault-written"])
			_, err := p.azkeys("paris").CreateKey(t.Context(), "three", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			must("DELETE", "", "", 200)
			p.stop()
			p.start(point)
			_, err = call("POST", "/purge", "")
			p.dies(err)
			p.start("") // its first sweep goes on with what began
			if status, err := call("POST", "/recover", ""); err != nil || status != 404 {
				t.Errorf("a vault that was being purged was recovered: %d %v", status, err)
			}
			p.stop()
			p.start("")
			must("PUT", "", vault, 201)
			azureError(t, key("three"), 404, "KeyNotFound")
			must("DELETE", "", "", 200)
			must("POST", "/purge", "", 204)
			p.stop()
		})
	}
}
