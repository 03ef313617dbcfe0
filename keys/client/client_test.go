package client_test

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"crypto/x509"
	"encoding/pem"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/release"
)

const issuer = "https://attest.cloister.test/soft"

func TestGuestStatePolicy(t *testing.T) {
	one, two := [48]byte{1}, [48]byte{2}
	host := [32]byte{3}
	want := `{"version":"1.0.0","anyOf":[{"authority":"` + issuer + `","allOf":[{"claim":"x-ms-attestation-type","equals":"sevsnpvm"},{"claim":"x-cloister-root","equals":"software"},` +
		`{"claim":"x-cloister-vtpm-isolation","equals":"process"},{"claim":"x-ms-sevsnpvm-launchmeasurement","equals":"01` + strings.Repeat("0", 94) + `"},` +
		`{"claim":"x-ms-sevsnpvm-hostdata","equals":"03` + strings.Repeat("0", 62) + `"},{"claim":"x-ms-sevsnpvm-is-debuggable","equals":false},{"claim":"x-ms-sevsnpvm-vmpl","equals":0}]}]}`
	if got := string(client.GuestStatePolicy(issuer, [][48]byte{one}, host)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	claims := func(digest string) map[string]any {
		return map[string]any{"x-ms-attestation-type": "sevsnpvm", "x-cloister-root": "software", "x-cloister-vtpm-isolation": "process", "x-ms-sevsnpvm-launchmeasurement": digest,
			"x-ms-sevsnpvm-hostdata": "03" + strings.Repeat("0", 62), "x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-vmpl": 0.0}
	}
	p, err := release.Parse(client.GuestStatePolicy(issuer, [][48]byte{one, two}, host))
	if err != nil {
		t.Fatal(err)
	}
	for digest, ok := range map[string]bool{"01": true, "02": true, "04": false} {
		if err := p.Evaluate(&token.Token{Issuer: issuer, Claims: claims(digest + strings.Repeat("0", 94))}); (err == nil) != ok {
			t.Errorf("launch digest %s…: %v", digest, err)
		}
	}
	if _, err := release.Parse(client.GuestStatePolicy(issuer, nil, host)); err == nil {
		t.Error("SVC-26 a policy without a launch digest was taken")
	}
}

// What is no answer at all: told apart from a refusal, so that a start may be tried again.
func TestNoAnswer(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pinned := []initdata.SigningKey{{KID: "k", PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
	for _, r := range []struct {
		name   string
		status int
		body   string
		want   evidence.Code
	}{
		{"SVC-28 overloaded", 503, `{"error":{"code":"ServiceUnavailable"}}`, evidence.CodeUnavailable},
		{"SVC-28 throttled", 429, ``, evidence.CodeUnavailable},
		{"a gateway's page", 502, `<html>`, evidence.CodeUnavailable},
		{"a refusal", 403, `{"error":{"code":"Forbidden","innererror":{"code":"x","cloister":{"code":"refuse/binding","field":"generation","got":"1","want":"rolled back"}}}}`, evidence.CodeBinding},
		{"a refusal without reason", 403, `{}`, evidence.CodeAuthz},
		{"a redirect", 302, ``, evidence.CodeAuthz},
		{"no JSON", 200, `hello`, evidence.CodeParse},
		{"no JWS", 200, `{"value":"x"}`, evidence.CodeParse},
		{"SVC-19 an endless answer", 200, `{"value":"` + strings.Repeat("a", 1<<20) + `"}`, evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(r.status)
				_, _ = w.Write([]byte(r.body))
			}))
			defer srv.Close()
			c := client.New(client.Options{URL: srv.URL, Signers: pinned})
			if _, err := c.Open(t.Context(), client.OpenRequest{VMID: "v", Session: "s", Nonce: "n"}); evidence.CodeOf(err) != r.want {
				t.Errorf("%v, want %s", err, r.want)
			}
		})
	}
}

func FuzzVerifyAnswer(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiJ9.e30.AA")
	f.Fuzz(func(t *testing.T, in string) {
		if _, err := client.VerifyAnswer(in, nil); err == nil {
			t.Error("verified with no signer")
		}
	})
}
