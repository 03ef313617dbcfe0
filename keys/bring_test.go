package keys_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys/client"
)

func TestAzureSDKImport(t *testing.T) {
	t.Parallel()
	keyImport(t, newWorld(t))
}

// keyImport brings keys of each kind and uses them.
func keyImport(t *testing.T, w *world) {
	ctx, c := t.Context(), w.azkeys("main")
	r, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := r.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	k := rsaKey(t)
	rsaJWK := azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeRSA), N: k.N.Bytes(), E: []byte{1, 0, 1}, D: k.D.Bytes(), P: k.Primes[0].Bytes(), Q: k.Primes[1].Bytes(),
		DP: k.Precomputed.Dp.Bytes(), DQ: k.Precomputed.Dq.Bytes(), QI: k.Precomputed.Qinv.Bytes()}
	ecJWK := azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeEC), Crv: to.Ptr(azkeys.CurveNameP256), X: point[1:33], Y: point[33:], D: d}
	octJWK := azkeys.JSONWebKey{Kty: to.Ptr(azkeys.KeyTypeOctHSM), K: bytes.Repeat([]byte{7}, 32)}
	for name, jwk := range map[string]azkeys.JSONWebKey{"rsa": rsaJWK, "ec": ecJWK, "oct": octJWK} {
		got, err := c.ImportKey(ctx, name, azkeys.ImportKeyParameters{Key: &jwk, HSM: to.Ptr(true), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got.Key.N, jwk.N) || !bytes.Equal(got.Key.X, jwk.X) || got.Key.D != nil || got.Key.K != nil || *got.Tags["a"] != "b" || !strings.HasSuffix(string(*got.Key.Kty), "-HSM") {
			t.Errorf("%s: %+v", name, got.Key)
		}
	}
	if _, err := c.Sign(ctx, "ec", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmES256), Value: make([]byte, 32)}, nil); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*azkeys.JSONWebKey){
		"n of another key":        func(j *azkeys.JSONWebKey) { j.N = rsaKey(t).N.Bytes() },
		"no private part":         func(j *azkeys.JSONWebKey) { j.D = nil },
		"no primes":               func(j *azkeys.JSONWebKey) { j.P, j.Q = nil, nil },
		"another exponent":        func(j *azkeys.JSONWebKey) { j.E = []byte{3} },
		"an even modulus":         func(j *azkeys.JSONWebKey) { j.N = bytes.Repeat([]byte{0xfe}, 256) },
		"SVC-18 a giant modulus":  func(j *azkeys.JSONWebKey) { j.N = bytes.Repeat([]byte{0xff}, 4096) },
		"a kind that is not kept": func(j *azkeys.JSONWebKey) { j.Kty = to.Ptr(azkeys.KeyType("OKP")) },
		"an EC point off the key": func(j *azkeys.JSONWebKey) { *j = ecJWK; j.X = bytes.Repeat([]byte{1}, 32) },
		"an EC key of zero":       func(j *azkeys.JSONWebKey) { *j = ecJWK; j.D = make([]byte, 32) },
		"an unknown curve":        func(j *azkeys.JSONWebKey) { *j = ecJWK; j.Crv = to.Ptr(azkeys.CurveNameP256K) },
		"an AES key of 17 bytes":  func(j *azkeys.JSONWebKey) { *j = octJWK; j.K = make([]byte, 17) },
		"a wrapped key":           func(j *azkeys.JSONWebKey) { j.T = []byte("{}") },
	} {
		jwk := rsaJWK
		change(&jwk)
		_, err := c.ImportKey(ctx, "bad", azkeys.ImportKeyParameters{Key: &jwk}, nil)
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		azureError(t, err, 400, "BadParameter")
	}
	_, err = c.ImportKey(ctx, "gs-"+vmID, azkeys.ImportKeyParameters{Key: &octJWK}, nil)
	azureError(t, err, 400, "BadParameter")
}

func TestAzureSDKBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, c := t.Context(), w.azkeys("main")
	if _, err := c.CreateKey(ctx, "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Encrypt(ctx, "k", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: []byte("x")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := c.BackupKey(ctx, "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(value []byte) error {
		_, err := c.RestoreKey(ctx, azkeys.RestoreKeyParameters{KeyBackup: value}, nil)
		return err
	}
	azureError(t, restore(backup.Value), 409, "Conflict")
	if _, err := c.DeleteKey(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	azureError(t, restore(backup.Value), 409, "Conflict")
	if _, err := c.PurgeDeletedKey(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, backup.Value[1:], append(bytes.Clone(backup.Value), 0), make([]byte, 100)} {
		azureError(t, restore(bad), 400, "BadParameter")
	}
	// SVC-13: another tenant's vault does not take it.
	if r := w.call("POST", "other", "/keys/restore?api-version=7.4", w.signIn(tenantB, nil), `{"value":"`+encode64(backup.Value)+`"}`); r.status != 400 {
		t.Errorf("another vault: %d %s", r.status, r.body)
	}
	if err := restore(backup.Value); err != nil {
		t.Fatal(err)
	}
	got, err := c.Decrypt(ctx, "k", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: sealed.Result}, nil)
	if err != nil || string(got.Result) != "x" {
		t.Errorf("after the restore: %v", err)
	}
	w.createGuestState(vmID, identitytest.AdminID, nil)
	_, err = c.BackupKey(ctx, "gs-"+vmID, nil)
	azureError(t, err, 403, "Forbidden")
	_, err = c.BackupKey(ctx, "none", nil)
	azureError(t, err, 404, "KeyNotFound")
	if r := w.call("POST", "main", "/keys/k/backup?api-version=7.4", w.signIn(stranger, nil), ""); r.status != 403 {
		t.Errorf("a stranger's backup: %d", r.status)
	}
}

func TestRotationPolicyRuns(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, withEncryptionSet)
	ctx, c, key := t.Context(), w.azkeys("main"), rsaKey(t)
	if _, err := c.CreateKey(ctx, "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil); err != nil {
		t.Fatal(err)
	}
	if p, err := c.GetKeyRotationPolicy(ctx, "k", nil); err != nil || len(p.LifetimeActions) != 0 {
		t.Errorf("before one is set: %v", err)
	}
	rotate := func(after, before string) *azkeys.LifetimeAction {
		a := &azkeys.LifetimeAction{Action: &azkeys.LifetimeActionType{Type: to.Ptr(azkeys.KeyRotationPolicyActionRotate)}, Trigger: &azkeys.LifetimeActionTrigger{}}
		if after != "" {
			a.Trigger.TimeAfterCreate = &after
		}
		if before != "" {
			a.Trigger.TimeBeforeExpiry = &before
		}
		return a
	}
	set := func(expiry string, actions ...*azkeys.LifetimeAction) error {
		p := azkeys.KeyRotationPolicy{LifetimeActions: actions, Attributes: &azkeys.KeyRotationPolicyAttributes{}}
		if expiry != "" {
			p.Attributes.ExpiryTime = &expiry
		}
		_, err := c.UpdateKeyRotationPolicy(ctx, "k", p, nil)
		return err
	}
	for name, err := range map[string]error{
		"no period":                       set("", rotate("90", "")),
		"a period of hours":               set("", rotate("PT5H", "")),
		"too soon":                        set("", rotate("P6D", "")),
		"an expiry that is too near":      set("P27D", rotate("P7D", "")),
		"rotation after the expiry":       set("P28D", rotate("P30D", "")),
		"before an expiry that is not":    set("", rotate("", "P30D")),
		"before the key exists":           set("P30D", rotate("", "P31D")),
		"two triggers":                    set("P90D", rotate("P30D", "P10D")),
		"no trigger":                      set("", rotate("", "")),
		"two rotations":                   set("P1Y", rotate("P30D", ""), rotate("P40D", "")),
		"an action that nobody knows":     set("", &azkeys.LifetimeAction{Action: &azkeys.LifetimeActionType{Type: to.Ptr(azkeys.KeyRotationPolicyAction("Burn"))}, Trigger: rotate("P30D", "").Trigger}),
		"a period that is far too long":   set("", rotate("P99999999Y", "")),
		"SVC-18 a text that is no period": set("", rotate("P"+strings.Repeat("9", 1000)+"D", "")),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		azureError(t, err, 400, "BadParameter")
	}
	if err := set("P60D", rotate("P30D", "")); err != nil {
		t.Fatal(err)
	}
	// A VM that follows the key is under each new version without being started.
	w.createGuestState(vmID, identitytest.AdminID, map[string]string{client.CustomerKeyTag: w.url("main") + "/keys/k", client.CustomerKeyIdentityTag: setIdentity, client.CustomerKeyRotationTag: "latest"})
	versions := func() (out []*azkeys.KeyProperties) {
		t.Helper()
		// A client of its own: a sign-in token lives for an hour.
		for pager := w.azkeys("main").NewListKeyPropertiesVersionsPager("k", nil); pager.More(); {
			page, err := pager.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page.Value...)
		}
		return out
	}
	for _, step := range []struct {
		days int
		want int
	}{{29, 1}, {30, 2}, {31, 2}, {60, 3}} {
		w.seconds.Store(int64(step.days) * 24 * 3600)
		for range 2 { // running it again changes nothing
			if err := w.service.Sweep(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if got := versions(); len(got) != step.want {
			t.Errorf("after %d days: %d versions, want %d", step.days, len(got), step.want)
		}
	}
	all := versions()
	last := all[len(all)-1]
	if last.Attributes.Expires == nil || last.Attributes.Expires.Sub(*last.Attributes.Created) != 60*24*time.Hour {
		t.Errorf("the new version expires at %v", last.Attributes.Expires)
	}
	for _, old := range all[:len(all)-1] {
		if _, err := w.azkeys("main").UpdateKey(ctx, "k", old.KID.Version(), azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(false)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.client(w.vm(vmID)).Open(ctx, openRequest(w, &key.PublicKey, 0, 1)); err != nil {
		t.Errorf("the VM is not under the newest version: %v", err)
	}
	w.createGuestState(otherVM, identitytest.AdminID, nil)
	if _, err := w.azkeys("main").UpdateKeyRotationPolicy(ctx, "gs-"+otherVM, azkeys.KeyRotationPolicy{LifetimeActions: []*azkeys.LifetimeAction{rotate("P30D", "")}}, nil); err == nil {
		t.Error("a guest-state key took a rotation policy")
	}
}
