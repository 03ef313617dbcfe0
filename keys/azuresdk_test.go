package keys_test

import (
	"encoding/pem"
	"slices"
	"testing"

	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/internal/azurejs"
)

type sdkRefusal struct {
	Status int
	Code   string
}

// Azure's key client for JavaScript finds here what it finds at Azure's service.
func TestAzureSDK(t *testing.T) {
	modules := azurejs.Modules(t, "testdata/azure-sdk")
	w := newWorld(t)
	audience := "https://" + suffix + ":" + w.port
	kek := rsaKey(t)
	input := map[string]string{"modules": modules, "url": w.url("main"), "bearer": w.signIn(identitytest.AdminID, nil), "stranger": w.signIn(stranger, nil),
		"policy": string(w.policy()), "attestation": w.token(&kek.PublicKey)}
	var got struct {
		Keys struct {
			Type, ECType string
			Modulus      int
			Tags, First  map[string]string
			Versions     int
			Pages        [][]string
		}
		RSA      struct{ Decrypted, Unwrapped, Want string }
		Signed   struct{ PS256, Other, ES256 bool }
		Rotation struct {
			After string
			Fresh bool
		}
		Deleted struct {
			Get, Twice sdkRefusal
			There      string
		}
		Recovered, Restored                 bool
		Purged, Disabled, Stranger, Missing sdkRefusal
		Released                            string
		Refused                             struct{ Token, Plain sdkRefusal }
		Random                              int
		Scopes                              []string
	}
	azurejs.Run(t, "testdata/azure-sdk/run.mjs", w.ca(), input, &got)
	if k := got.Keys; k.Type != "RSA" || k.ECType != "EC" || k.Modulus != 384 || k.Versions != 2 || k.Tags["changed"] != "yes" || k.First["from"] != "js" || len(k.Pages) < 2 {
		t.Errorf("keys: %+v", k)
	}
	if r := got.RSA; r.Decrypted != r.Want || r.Unwrapped != r.Want || r.Want == "" {
		t.Errorf("encryption: %+v", r)
	}
	if s := got.Signed; !s.PS256 || s.Other || !s.ES256 {
		t.Errorf("signatures: %+v", s)
	}
	if got.Rotation.After != "P30D" || !got.Rotation.Fresh {
		t.Errorf("rotation: %+v", got.Rotation)
	}
	if d := got.Deleted; d.Get.Status != 404 || d.Twice.Status != 409 || d.There != "ec" || !got.Recovered || !got.Restored || got.Purged.Status != 404 {
		t.Errorf("deletion: %+v, recovered %v, purged %+v, restored %v", d, got.Recovered, got.Purged, got.Restored)
	}
	if got.Released == "" || got.Refused.Token.Status != 403 || got.Refused.Plain.Status == 0 || got.Refused.Plain.Status >= 500 {
		t.Errorf("release: %q, %+v", got.Released, got.Refused)
	}
	if got.Disabled.Status != 403 || got.Stranger.Status != 403 || got.Missing.Status != 404 || got.Missing.Code != "KeyNotFound" {
		t.Errorf("refusals: disabled %+v, stranger %+v, missing %+v", got.Disabled, got.Stranger, got.Missing)
	}
	if got.Random != 32 || !slices.Equal(got.Scopes, []string{audience + "/.default"}) {
		t.Errorf("%d random bytes, scopes %v", got.Random, got.Scopes)
	}
}

// ca is the certificate of the test's server.
func (w *world) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.certificate})
}
