package keys_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/client/keywrap"
)

func azureError(t *testing.T, err error, status int, code string) {
	t.Helper()
	var re *azcore.ResponseError
	if !errors.As(err, &re) || re.StatusCode != status || re.ErrorCode != code {
		t.Errorf("got %v, want HTTP %d %s", err, status, code)
	}
}

// The life of keys as Azure's own client sees it.
func TestAzureSDKKeyLife(t *testing.T) {
	t.Parallel()
	keyLife(t, newWorld(t))
}

func keyLife(t *testing.T, w *world) {
	c := w.azkeys("main")
	ctx := t.Context()
	_, err := c.GetKey(ctx, "app", "", nil)
	azureError(t, err, 404, "KeyNotFound")

	first, err := c.CreateKey(ctx, "app", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA), KeySize: to.Ptr[int32](2048), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Key.KID.Name() != "app" || len(first.Key.KID.Version()) != 32 || len(first.Key.N) != 256 || *first.Tags["a"] != "b" {
		t.Errorf("bundle %+v", first.Key)
	}
	second, err := c.CreateKey(ctx, "app", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeEC), Curve: to.Ptr(azkeys.CurveNameP256)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.GetKey(ctx, "app", "", nil); err != nil || got.Key.KID.Version() != second.Key.KID.Version() || len(got.Key.X) != 32 {
		t.Errorf("the newest version: %v", err)
	}
	if got, err := c.GetKey(ctx, "APP", first.Key.KID.Version(), nil); err != nil || !bytes.Equal(got.Key.N, first.Key.N) {
		t.Errorf("the first version: %v", err)
	}
	if _, err := c.RotateKey(ctx, "app", nil); err != nil {
		t.Errorf("rotate: %v", err)
	}
	count := 0
	for pager := c.NewListKeyPropertiesVersionsPager("app", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		count += len(page.Value)
	}
	if count != 3 {
		t.Errorf("%d versions, want 3", count)
	}
	updated, err := c.UpdateKey(ctx, "app", first.Key.KID.Version(), azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(false)}}, nil)
	if err != nil || *updated.Attributes.Enabled {
		t.Errorf("update: %v", err)
	}
	_, err = c.Sign(ctx, "app", first.Key.KID.Version(), azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmRS256), Value: make([]byte, 32)}, nil)
	azureError(t, err, 403, "Forbidden")

	for i := range 30 {
		name := "bulk-" + string(rune('a'+i/10)) + string(rune('0'+i%10))
		if _, err := c.CreateKey(ctx, name, azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeOct), KeySize: to.Ptr[int32](256)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for pager := c.NewListKeyPropertiesPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.Value {
			seen[k.KID.Name()] = true
		}
	}
	if len(seen) != 31 {
		t.Errorf("%d keys listed over two pages, want 31", len(seen))
	}

	deleted, err := c.DeleteKey(ctx, "app", nil)
	if err != nil || deleted.RecoveryID == nil || deleted.DeletedDate == nil || deleted.ScheduledPurgeDate == nil {
		t.Fatalf("delete: %v", err)
	}
	_, err = c.GetKey(ctx, "app", "", nil)
	azureError(t, err, 404, "KeyNotFound")
	_, err = c.CreateKey(ctx, "app", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSA)}, nil)
	azureError(t, err, 409, "Conflict")
	if _, err := c.RecoverDeletedKey(ctx, "app", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetKey(ctx, "app", "", nil); err != nil {
		t.Errorf("after recovery: %v", err)
	}
	if _, err := c.DeleteKey(ctx, "app", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetDeletedKey(ctx, "app", nil); err != nil {
		t.Errorf("the deleted key: %v", err)
	}
	if page, err := c.NewListDeletedKeyPropertiesPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("deleted keys: %v", err)
	}
	if _, err := c.PurgeDeletedKey(ctx, "app", nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.GetDeletedKey(ctx, "app", nil)
	azureError(t, err, 404, "KeyNotFound")
	if _, err := c.GetRandomBytes(ctx, azkeys.GetRandomBytesParameters{Count: to.Ptr[int32](16)}, nil); err != nil {
		t.Errorf("random bytes: %v", err)
	}
}

func TestAzureSDKOperations(t *testing.T) {
	t.Parallel()
	keyOperations(t, newWorld(t))
}

func keyOperations(t *testing.T, w *world) {
	c := w.azkeys("main")
	ctx := t.Context()
	for name, p := range map[string]azkeys.CreateKeyParameters{
		"rsa": {Kty: to.Ptr(azkeys.KeyTypeRSAHSM)}, "ec": {Kty: to.Ptr(azkeys.KeyTypeECHSM), Curve: to.Ptr(azkeys.CurveNameP384)}, "oct": {Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](256)},
	} {
		if _, err := c.CreateKey(ctx, name, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	plain := bytes.Repeat([]byte{3}, 32)
	for _, r := range []struct {
		key string
		alg azkeys.EncryptionAlgorithm
	}{{"rsa", azkeys.EncryptionAlgorithmRSAOAEP256}, {"rsa", azkeys.EncryptionAlgorithmRSAOAEP}, {"oct", azkeys.EncryptionAlgorithmA256GCM}} {
		e, err := c.Encrypt(ctx, r.key, "", azkeys.KeyOperationParameters{Algorithm: &r.alg, Value: plain}, nil)
		if err != nil {
			t.Fatalf("%s: %v", r.alg, err)
		}
		p := azkeys.KeyOperationParameters{Algorithm: &r.alg, Value: e.Result, IV: e.IV, AuthenticationTag: e.AuthenticationTag}
		if d, err := c.Decrypt(ctx, r.key, "", p, nil); err != nil || !bytes.Equal(d.Result, plain) {
			t.Errorf("%s: %v", r.alg, err)
		}
		p.Value[0] ^= 1
		_, err = c.Decrypt(ctx, r.key, "", p, nil)
		azureError(t, err, 400, "BadParameter")
	}
	for key, alg := range map[string]azkeys.EncryptionAlgorithm{"rsa": azkeys.EncryptionAlgorithmRSAOAEP256, "oct": azkeys.EncryptionAlgorithmA256KW} {
		e, err := c.WrapKey(ctx, key, "", azkeys.KeyOperationParameters{Algorithm: &alg, Value: plain}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := c.UnwrapKey(ctx, key, "", azkeys.KeyOperationParameters{Algorithm: &alg, Value: e.Result}, nil); err != nil || !bytes.Equal(d.Result, plain) {
			t.Errorf("%s: %v", alg, err)
		}
	}
	digest := sha256.Sum256([]byte("x"))
	for _, alg := range []azkeys.SignatureAlgorithm{azkeys.SignatureAlgorithmPS256, azkeys.SignatureAlgorithmRS256} {
		s, err := c.Sign(ctx, "rsa", "", azkeys.SignParameters{Algorithm: &alg, Value: digest[:]}, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.Verify(ctx, "rsa", "", azkeys.VerifyParameters{Algorithm: &alg, Digest: digest[:], Signature: s.Result}, nil)
		if err != nil || !*v.Value {
			t.Errorf("%s: %v", alg, err)
		}
		s.Result[0] ^= 1
		if v, err = c.Verify(ctx, "rsa", "", azkeys.VerifyParameters{Algorithm: &alg, Digest: digest[:], Signature: s.Result}, nil); err != nil || *v.Value {
			t.Errorf("%s, a changed signature: %v", alg, err)
		}
	}
	_, err := c.Encrypt(ctx, "rsa", "", azkeys.KeyOperationParameters{Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSA15), Value: plain}, nil)
	azureError(t, err, 400, "BadParameter")
	_, err = c.Sign(ctx, "oct", "", azkeys.SignParameters{Algorithm: to.Ptr(azkeys.SignatureAlgorithmRS256), Value: digest[:]}, nil)
	azureError(t, err, 403, "Forbidden")
}

// Azure's client releases a key; what comes back is for the key in the token and nobody else.
func TestAzureSDKRelease(t *testing.T) {
	t.Parallel()
	keyRelease(t, newWorld(t))
}

func keyRelease(t *testing.T, w *world) {
	c := w.azkeys("main")
	ctx := t.Context()
	created, err := c.CreateKey(ctx, "data", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true)},
		ReleasePolicy: &azkeys.KeyReleasePolicy{EncodedPolicy: w.policy()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(created.ReleasePolicy.EncodedPolicy, w.policy()) {
		t.Error("the policy came back changed")
	}
	key := rsaKey(t)
	for _, enc := range []azkeys.KeyEncryptionAlgorithm{azkeys.KeyEncryptionAlgorithmCKMRSAAESKEYWRAP, azkeys.KeyEncryptionAlgorithmRSAAESKEYWRAP256, azkeys.KeyEncryptionAlgorithmRSAAESKEYWRAP384} {
		r, err := c.Release(ctx, "data", "", azkeys.ReleaseParameters{TargetAttestationToken: to.Ptr(w.token(&key.PublicKey)), Algorithm: &enc, Nonce: to.Ptr("n1")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := token.NewAuthority(initdata.Service{URL: "keys", SigningKeys: w.service.SigningKeys()})
		if err != nil {
			t.Fatal(err)
		}
		var signers []*rsa.PublicKey
		for _, k := range a.Keys {
			signers = append(signers, k)
		}
		payload, err := client.VerifyAnswer(*r.Value, signers)
		if err != nil {
			t.Fatal(err)
		}
		var answer client.Answer
		if err := json.Unmarshal(payload, &answer); err != nil {
			t.Fatal(err)
		}
		var hsm client.KeyHSM
		raw, err := base64.RawURLEncoding.DecodeString(answer.Response.Key.Key.KeyHSM)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &hsm); err != nil {
			t.Fatal(err)
		}
		wrapped, err := base64.RawURLEncoding.DecodeString(hsm.Ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		if hsm.SchemaVersion != "1.0" || hsm.Header.KID != "HCLTransferKey" || hsm.Header.Enc != string(enc) || answer.Request.Nonce != "n1" || answer.Request.KID != string(*created.Key.KID) {
			t.Errorf("answer %+v %+v", hsm, answer.Request)
		}
		if der, err := keywrap.Unwrap(keywrap.Form(enc), key, wrapped); err != nil || len(der) < 1000 {
			t.Errorf("%s: %d bytes, %v", enc, len(der), err)
		}
	}
	w.seconds.Store(9 * 3600)
	_, err = c.Release(ctx, "data", "", azkeys.ReleaseParameters{TargetAttestationToken: to.Ptr("x.y.z")}, nil)
	// The sign-in token of the client is too old by now as well; a fresh client shows the refusal of the evidence.
	if err == nil {
		t.Error("released")
	}
	_, err = w.azkeys("main").Release(ctx, "data", "", azkeys.ReleaseParameters{TargetAttestationToken: to.Ptr("x.y.z")}, nil)
	azureError(t, err, 403, "Forbidden")
}
