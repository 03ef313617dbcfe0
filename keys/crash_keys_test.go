//go:build failpoints

package keys_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

// Each failpoint of the key keeper is one at which a test here kills it.
func TestEachFailpointIsKilledAt(t *testing.T) {
	files, err := filepath.Glob("crash*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(raw)
	}
	for _, name := range failpoint.Names() {
		if strings.HasPrefix(name, "keys/") && !strings.Contains(tests.String(), fmt.Sprintf("%q", name)) {
			t.Errorf("no test kills the key keeper at %s", name)
		}
	}
}

// The key keeper is killed after each durable write of a key's life and of what it serves: each is there in whole, what was
// asked for can be asked for again, and the VM starts.
func TestKilledInAKeysLife(t *testing.T) {
	p := newProcessWith(t, func(c *keys.Config) { withAssigner(c) })
	ctx, admin := t.Context(), func() string { return p.signIn(identitytest.AdminID, nil) }
	vm := rsaKey(t)
	// killed makes a call that ends in the key keeper's death, and starts it again.
	killed := func(point, method, path, body string) {
		t.Helper()
		p.start(point)
		if status, err := p.try(method, path, admin(), body); err == nil {
			t.Fatalf("%s: the key keeper lived, and answered %d", point, status)
		}
		_ = p.cmd.Wait() // killed
		p.start("")
	}
	must := func(status int, method, path, body string) {
		t.Helper()
		if got, err := p.try(method, path, admin(), body); err != nil || got != status {
			t.Fatalf("%s %s: %d %v, want %d", method, path, got, err, status)
		}
	}
	versions := func() int {
		t.Helper()
		n := 0
		for pager := p.azkeys("main").NewListKeyPropertiesVersionsPager("customer", nil); pager.More(); {
			page, err := pager.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n += len(page.Value)
		}
		return n
	}
	const key = "/keys/customer"
	const version = "?api-version=7.4"

	killed("keys/key-created", "POST", key+"/create"+version, `{"kty":"RSA-HSM"}`)
	if n := versions(); n != 1 {
		t.Errorf("%d versions of a key that was made once", n)
	}
	secret, err := p.azkeys("main").Encrypt(ctx, "customer", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: []byte("x")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	decrypts := func() error {
		_, err := p.azkeys("main").Decrypt(ctx, "customer", secret.KID.Version(), azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: secret.Result}, nil)
		return err
	}
	if err := decrypts(); err != nil {
		t.Errorf("the key that was made before the kill: %v", err)
	}
	p.stop()

	assignment := key + roleAssignments + "/" + firstName + version
	killed("keys/role-assignments-written", "PUT", assignment, assignmentOf(encryptionUser, setIdentity))
	must(201, "PUT", assignment, assignmentOf(encryptionUser, setIdentity))
	p.stop()

	make := fmt.Sprintf(`{"kty":"oct-HSM","key_size":256,"attributes":{"exportable":true},"tags":{%q:%q,%q:%q},"release_policy":{"data":%q}}`,
		client.CustomerKeyTag, p.url("main")+key, client.CustomerKeyIdentityTag, setIdentity, encode64(p.policy()))
	killed("keys/customer-key-marked", "POST", "/keys/gs-"+vmID+"/create"+version, make)
	if err := decrypts(); err == nil {
		t.Error("a key that serves VMs decrypts for a caller")
	}
	must(404, "GET", "/keys/gs-"+vmID+version, "")
	must(200, "POST", "/keys/gs-"+vmID+"/create"+version, make)
	next, n := uint64(0), 0
	starts := func() {
		t.Helper()
		n++
		o, err := p.client().Open(ctx, openRequest(p.world, &vm.PublicKey, next, n))
		if err != nil {
			t.Fatal(err)
		}
		next = o.Next
		if err := p.client().Confirm(ctx, confirmRequest(p.world, &vm.PublicKey, next, n)); err != nil {
			t.Fatal(err)
		}
	}
	starts()
	must(200, "POST", key+"/rotate"+version, "{}")
	p.stop()

	rewrap := "/gueststate/" + vmID + "/rewrap?api-version=" + client.APIVersion
	killed("keys/guest-state-key-rewrapped", "POST", rewrap, "{}")
	must(200, "PATCH", key+"/"+secret.KID.Version()+version, `{"attributes":{"enabled":false}}`)
	starts() // under the new version, since the old one is disabled
	must(200, "POST", rewrap, "{}")
	starts()
	p.stop()

	killed("keys/key-deleted", "DELETE", key+version, "")
	must(404, "GET", key+version, "")
	must(200, "POST", "/deletedkeys/customer/recover"+version, "{}")
	if n := versions(); n != 2 {
		t.Errorf("%d versions after the recovery, want 2", n)
	}
	starts()
	p.stop()
}
