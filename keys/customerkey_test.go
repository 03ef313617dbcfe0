package keys_test

import (
	"bytes"
	"encoding/json"
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

// setIdentity is the identity of a disk encryption set.
const setIdentity = "dddddddd-0000-0000-0000-0000000000de"

// withEncryptionSet gives that identity its role.
func withEncryptionSet(c *keys.Config) {
	c.Roles = append(c.Roles, roles.Assignment{PrincipalID: setIdentity, Role: "Key Vault Crypto Service Encryption User", Scope: "/vaults/main"})
}

func TestCustomerKey(t *testing.T) {
	t.Parallel()
	customerKeyLife(t, newWorldWith(t, withEncryptionSet))
}

// customerKeyLife is what a tenant does with a key that a VM's guest state is under.
func customerKeyLife(t *testing.T, w *world) {
	ctx, vault, key := t.Context(), w.azkeys("main"), rsaKey(t)
	made, err := vault.CreateKey(ctx, "customer", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeySize: to.Ptr[int32](2048)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := vault.Encrypt(ctx, "customer", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: []byte("before")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.createGuestState(vmID, identitytest.AdminID, map[string]string{client.CustomerKeyTag: w.url("main") + "/keys/customer", client.CustomerKeyIdentityTag: setIdentity})
	generation := uint64(0)
	var first []byte
	open := func() error {
		o, err := w.client(w.vm(vmID)).Open(ctx, openRequest(w, &key.PublicKey, generation, int(generation)+1))
		if err != nil {
			return err
		}
		secret, err := o.Unwrap(key)
		if err != nil {
			return err
		}
		if first == nil {
			first = secret
		}
		if len(secret) != 32 || !bytes.Equal(first, secret) {
			t.Errorf("another key of %d bytes", len(secret))
		}
		if err := w.client(w.vm(vmID)).Confirm(ctx, confirmRequest(w, &key.PublicKey, o.Next, int(generation)+1)); err != nil {
			return err
		}
		generation = o.Next
		return nil
	}
	opens := func(when string) {
		t.Helper()
		if err := open(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused := func(when, says string) {
		t.Helper()
		if err := open(); evidence.CodeOf(err) != evidence.CodePolicy || !strings.Contains(err.Error(), "customer") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want a refusal that says %q", when, err, says)
		}
	}
	enable := func(version string, on bool) {
		t.Helper()
		if _, err := vault.UpdateKey(ctx, "customer", version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: &on}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	opens("the first start")
	v1 := made.Key.KID.Version()
	t.Run("the key does nothing else any more", func(t *testing.T) {
		p := azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: ciphertext.Result}
		_, err := vault.Decrypt(ctx, "customer", v1, p, nil)
		azureError(t, err, 403, "Forbidden")
		_, err = vault.UnwrapKey(ctx, "customer", v1, p, nil)
		azureError(t, err, 403, "Forbidden")
		_, err = vault.Release(ctx, "customer", "", azkeys.ReleaseParameters{TargetAttestationToken: to.Ptr(w.token(&key.PublicKey))}, nil)
		azureError(t, err, 403, "Forbidden")
	})
	t.Run("CP-04 disabled, then enabled", func(t *testing.T) {
		enable(v1, false)
		refused("disabled", "disabled")
		enable(v1, true)
		opens("enabled again")
	})
	t.Run("CP-04 deleted, then recovered", func(t *testing.T) {
		if _, err := vault.DeleteKey(ctx, "customer", nil); err != nil {
			t.Fatal(err)
		}
		refused("deleted", "deleted at")
		if _, err := vault.RecoverDeletedKey(ctx, "customer", nil); err != nil {
			t.Fatal(err)
		}
		opens("recovered")
	})
	t.Run("a new version is left alone until it is asked for", func(t *testing.T) {
		rotated, err := vault.RotateKey(ctx, "customer", nil)
		if err != nil {
			t.Fatal(err)
		}
		enable(rotated.Key.KID.Version(), false)
		opens("the old version still counts")
		enable(rotated.Key.KID.Version(), true)
		r := w.call("POST", "main", "/gueststate/"+vmID+"/rewrap?api-version=2026-11-01", w.signIn(identitytest.AdminID, nil), "{}")
		var out struct{ CustomerKey string }
		if err := json.Unmarshal([]byte(r.body), &out); r.status != 200 || err != nil || !strings.HasSuffix(out.CustomerKey, rotated.Key.KID.Version()) {
			t.Fatalf("rewrap: %d %s", r.status, r.body)
		}
		enable(v1, false)
		opens("under the new version, the old one disabled")
		enable(v1, true)
	})
	t.Run("new versions are followed where that was asked for", func(t *testing.T) {
		r := w.call("POST", "main", "/gueststate/"+vmID+"/rewrap?api-version=2026-11-01", w.signIn(identitytest.AdminID, nil),
			`{"customerKey":"`+w.url("main")+`/keys/customer","rotation":"latest","identity":"`+setIdentity+`"}`)
		if r.status != 200 {
			t.Fatalf("rewrap: %d %s", r.status, r.body)
		}
		before, err := vault.GetKey(ctx, "customer", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vault.RotateKey(ctx, "customer", nil); err != nil {
			t.Fatal(err)
		}
		opens("the start that puts it under the new version")
		enable(before.Key.KID.Version(), false)
		opens("the version before is not needed any more")
	})
	t.Run("another VM's token", func(t *testing.T) {
		if _, err := w.client(w.vm(otherVM)).Open(ctx, openRequest(w, &key.PublicKey, generation, 9)); err == nil {
			t.Error("opened")
		}
	})
	w.restart()
	opens("after a restart of the key keeper")
}

func TestCustomerKeyRefusals(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, withEncryptionSet)
	ctx, vault, key := t.Context(), w.azkeys("main"), rsaKey(t)
	for name, p := range map[string]azkeys.CreateKeyParameters{
		"good": {Kty: to.Ptr(azkeys.KeyTypeRSAHSM)}, "aes": {Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](256)}, "ec": {Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP256)},
		"off":        {Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(false)}},
		"own-policy": {},
	} {
		if name == "own-policy" {
			p = azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true)}, ReleasePolicy: &azkeys.KeyReleasePolicy{
				EncodedPolicy: []byte(`{"version":"1.0.0","anyOf":[{"authority":"` + attestURL + `","allOf":[{"claim":"x-ms-sevsnpvm-vmpl","equals":2}]}]}`)}}
		}
		if _, err := vault.CreateKey(ctx, name, p, nil); err != nil {
			t.Fatal(name, err)
		}
	}
	url := w.url("main") + "/keys/"
	create := func(tags map[string]string) reply {
		t.Helper()
		body, err := json.Marshal(map[string]any{"kty": "oct-HSM", "key_size": 256, "attributes": map[string]any{"exportable": true}, "tags": tags, "release_policy": map[string]any{"data": encode64(w.policy())}})
		if err != nil {
			t.Fatal(err)
		}
		return w.call("POST", "main", "/keys/gs-"+vmID+"/create?api-version=7.4", w.signIn(identitytest.AdminID, nil), string(body))
	}
	for _, r := range []struct {
		name   string
		tags   map[string]string
		status int
		says   string
	}{
		{"an identity without a key", map[string]string{client.CustomerKeyIdentityTag: setIdentity}, 400, "needs tag"},
		{"rotation without a key", map[string]string{client.CustomerKeyRotationTag: "latest"}, 400, "needs tag"},
		{"an unknown rotation", map[string]string{client.CustomerKeyTag: url + "good", client.CustomerKeyRotationTag: "yearly"}, 400, "latest"},
		{"an identity that is none", map[string]string{client.CustomerKeyTag: url + "good", client.CustomerKeyIdentityTag: "me"}, 400, "object id"},
		{"SVC-10 a key elsewhere", map[string]string{client.CustomerKeyTag: "https://elsewhere.example/keys/good"}, 400, "must be named"},
		{"SVC-10 a key with a user", map[string]string{client.CustomerKeyTag: strings.Replace(url, "https://", "https://u@", 1) + "good"}, 400, "must be named"},
		{"SVC-12 a path that climbs", map[string]string{client.CustomerKeyTag: url + "../keys/good"}, 400, "must be named"},
		{"SVC-13 a key of another vault here", map[string]string{client.CustomerKeyTag: w.url("other") + "/keys/good"}, 403, "no role"},
		{"a guest-state key", map[string]string{client.CustomerKeyTag: url + "gs-" + otherVM}, 400, "must be named"},
		{"a key that is not there", map[string]string{client.CustomerKeyTag: url + "none"}, 403, "not there"},
		{"a version that is not there", map[string]string{client.CustomerKeyTag: url + "good/" + strings.Repeat("0", 32)}, 403, "no version"},
		{"a disabled key", map[string]string{client.CustomerKeyTag: url + "off"}, 403, "disabled"},
		{"a key that only signs", map[string]string{client.CustomerKeyTag: url + "ec"}, 400, "RSA"},
		{"an identity without a role", map[string]string{client.CustomerKeyTag: url + "good", client.CustomerKeyIdentityTag: stranger}, 403, "no role"},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got := create(r.tags); got.status != r.status || !strings.Contains(got.body, r.says) {
				t.Errorf("%d %s, want %d and %q", got.status, got.body, r.status, r.says)
			}
			_, err := vault.GetKey(ctx, "gs-"+vmID, "", nil)
			azureError(t, err, 404, "KeyNotFound")
		})
	}
	t.Run("the positive twin, with an AES key", func(t *testing.T) {
		if got := create(map[string]string{client.CustomerKeyTag: url + "aes"}); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if _, err := w.client(w.vm(vmID)).Open(ctx, openRequest(w, &key.PublicKey, 0, 1)); err != nil {
			t.Error(err)
		}
	})
	rewrap := func(bearer, body string) reply {
		return w.call("POST", "main", "/gueststate/"+vmID+"/rewrap?api-version=2026-11-01", bearer, body)
	}
	for _, r := range []struct {
		name, bearer, body string
		status             int
	}{
		{"SVC-13 a stranger rewraps", w.signIn(stranger, nil), "{}", 403},
		{"SVC-13 another tenant rewraps", w.signIn(tenantB, nil), "{}", 403},
		{"the VM itself rewraps", w.vm(vmID), "{}", 403},
		{"who may only release rewraps", w.signIn(releaser, nil), "{}", 403},
		{"to a disabled key", w.signIn(identitytest.AdminID, nil), `{"customerKey":"` + url + `off"}`, 403},
		{"to a key elsewhere", w.signIn(identitytest.AdminID, nil), `{"customerKey":"https://elsewhere.example/keys/x"}`, 400},
		{"SVC-20 a member twice", w.signIn(identitytest.AdminID, nil), `{"rotation":"","rotation":"latest"}`, 400},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got := rewrap(r.bearer, r.body); got.status != r.status {
				t.Errorf("%d %s, want %d", got.status, got.body, r.status)
			}
		})
	}
	t.Run("the customer's key has a policy of its own, which says no", func(t *testing.T) {
		if got := rewrap(w.signIn(identitytest.AdminID, nil), `{"customerKey":"`+url+`own-policy"}`); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if _, err := w.client(w.vm(vmID)).Open(ctx, openRequest(w, &key.PublicKey, 0, 2)); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("opened: %v", err)
		}
		if got := rewrap(w.signIn(identitytest.AdminID, nil), `{"customerKey":"`+url+`good"}`); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if _, err := w.client(w.vm(vmID)).Open(ctx, openRequest(w, &key.PublicKey, 0, 3)); err != nil {
			t.Errorf("under a key without a policy: %v", err)
		}
	})
	t.Run("a guest state that is not under a customer's key", func(t *testing.T) {
		w.createGuestState(otherVM, identitytest.AdminID, nil)
		if got := w.call("POST", "main", "/gueststate/"+otherVM+"/rewrap?api-version=2026-11-01", w.signIn(identitytest.AdminID, nil), "{}"); got.status != 400 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
