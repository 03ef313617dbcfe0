package attestation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"

	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/vtpm"
	"cloister.dev/cloister/guest/tpm/tpmtest"
)

// hclReport puts a report together as the platform does.
func hclReport(k tpmtest.Keys, userData [64]byte) []byte {
	jwk := func(kid, op string, key *rsa.PublicKey) string {
		return fmt.Sprintf(`{"kid":%q,"key_ops":[%q],"kty":"RSA","e":"AQAB","n":%q}`, kid, op, base64.RawURLEncoding.EncodeToString(key.N.Bytes()))
	}
	claims := fmt.Sprintf(`{"keys":[%s,%s],"vm-configuration":{"root-cert-thumbprint":"","console-enabled":true,"secure-boot":true,"tpm-enabled":true,"tpm-persisted":true,"vmUniqueId":"B6C98C3B-4EC7-4DA6-BD2F-7D98D20D7B75"},"user-data":"%X"}`,
		jwk("HCLAkPub", "sign", k.AK), jwk("HCLEkPub", "encrypt", k.EK), userData[:])
	hw := make([]byte, 1184)
	le := binary.LittleEndian
	hw[0], hw[0x34] = 2, 1
	le.PutUint64(hw[8:], 0x3001f)
	sum := sha256.Sum256([]byte(claims))
	copy(hw[0x50:], sum[:])
	b := []byte("HCLA")
	for _, v := range []uint32{2, uint32(1236 + len(claims)), 2, 0, 0, 0, 0} {
		b = le.AppendUint32(b, v)
	}
	b = append(b, hw...)
	for _, v := range []uint32{uint32(20 + len(claims)), 1, 2, 1, uint32(len(claims))} {
		b = le.AppendUint32(b, v)
	}
	return append(append(b, claims...), make([]byte, 64)...)
}

func testGuest(t *testing.T) (Guest, *tpmtest.Served, tpmtest.Keys) {
	t.Helper()
	s := tpmtest.Start(t)
	k := s.Provision()
	s.Boot(map[int]string{4: "uki", 7: "secure boot", 11: "sections"})
	served := &tpmtest.Served{TPM: s, Report: func(u [64]byte) []byte { return hclReport(k, u) }}
	now := time.Unix(1000, 0)
	return Guest{TPM: served, HostKey: func() ([]byte, error) { return []byte("host key"), nil }, EventLog: func() ([]byte, error) { return []byte("log"), nil },
		Chain: func(context.Context) (string, error) { return "chain", nil }, Now: func() time.Time { return now },
		Wait: func(_ context.Context, d time.Duration) error { now = now.Add(d); return nil }}, served, k
}

func TestCollect(t *testing.T) {
	g, _, k := testGuest(t)
	challenge := []byte("a challenge")
	e, err := g.Collect(context.Background(), challenge)
	if err != nil {
		t.Fatal(err)
	}
	b := e.Bundle
	want := bundle.UserData([]byte("host key"))
	if !bytes.Contains(bytes.ToLower(b.HCLReport), []byte(fmt.Sprintf("%x", want))) {
		t.Error("the report does not carry the host key's digest")
	}
	sum := sha256.Sum256(b.Quote)
	if err := rsa.VerifyPKCS1v15(k.AK, crypto.SHA256, sum[:], b.Signature); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(b.Quote, vtpm.NonceFor(challenge)) || !bytes.Equal(b.Nonce, challenge) {
		t.Error("TPM-02 the quote does not answer the challenge")
	}
	if len(b.PCRs) != 16 || b.PCRs["12"] != strings.Repeat("0", 64) || b.PCRs["4"] == b.PCRs["12"] || string(b.EventLog) != "log" || b.Chain != "chain" {
		t.Errorf("PCRs %v", b.PCRs)
	}
	if string(b.SSHHostKey) != "host key" {
		t.Errorf("SSH host key %q", b.SSHHostKey)
	}
	if err := Ready(g.TPM); err != nil {
		t.Error(err)
	}
}

func TestCollectRefuses(t *testing.T) {
	for _, r := range []struct {
		name   string
		code   evidence.Code
		change func(g *Guest, s *tpmtest.Served, k tpmtest.Keys)
	}{
		{"TPM-07 report of another TPM", evidence.CodeBinding, func(g *Guest, s *tpmtest.Served, k tpmtest.Keys) {
			other, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			s.Report = func(u [64]byte) []byte { return hclReport(tpmtest.Keys{EK: k.EK, AK: &other.PublicKey}, u) }
		}},
		{"TPM-18 user data never arrive", evidence.CodeUnavailable, func(g *Guest, s *tpmtest.Served, k tpmtest.Keys) {
			s.Report = func([64]byte) []byte { return hclReport(k, [64]byte{0xff}) }
		}},
		{"claims that are not bound", evidence.CodeBinding, func(g *Guest, s *tpmtest.Served, k tpmtest.Keys) {
			s.Report = func(u [64]byte) []byte { r := hclReport(k, u); r[32+0x50] ^= 1; return r }
		}},
		{"another software root", "", func(g *Guest, _ *tpmtest.Served, _ tpmtest.Keys) { g.SoftRoot = strings.Repeat("ab", 32) }},
		{"no chain", evidence.CodeUnavailable, func(g *Guest, _ *tpmtest.Served, _ tpmtest.Keys) {
			g.Chain = func(context.Context) (string, error) {
				return "", evidence.Refuse(evidence.CodeUnavailable, "chain", "none", "one")
			}
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			g, s, k := testGuest(t)
			r.change(&g, s, k)
			_, err := g.Collect(context.Background(), []byte("c"))
			if err == nil || (r.code != "" && evidence.CodeOf(err) != r.code) {
				t.Errorf("got %v, want %s", err, r.code)
			}
		})
	}
	g, _, _ := testGuest(t)
	if _, err := g.Collect(context.Background(), nil); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("TPM-01 no challenge: %v", err)
	}
}

// verifier answers with a token over whatever claims are set, signed by key.
func verifier(t *testing.T, key *rsa.PrivateKey, claims func(issuer string, nonce string) map[string]any) (*client.Client, string) {
	t.Helper()
	var url string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var outer struct{ AttestationInfo string }
		if err := json.Unmarshal(body, &outer); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		info, _ := base64.RawURLEncoding.DecodeString(outer.AttestationInfo)
		var in struct{ ClientPayload map[string]string }
		if err := json.Unmarshal(info, &in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		payload, _ := json.Marshal(claims(url, in.ClientPayload["nonce"]))
		jws, err := signer.Sign(payload)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		compact, _ := jws.CompactSerialize()
		_ = json.NewEncoder(w).Encode(map[string]string{"token": compact})
	}))
	t.Cleanup(srv.Close)
	url = srv.URL
	return client.New(client.Options{URL: srv.URL}), srv.URL
}

func TestToken(t *testing.T) {
	g, _, _ := testGuest(t)
	e, err := g.Collect(context.Background(), []byte("challenge"))
	if err != nil {
		t.Fatal(err)
	}
	var keys [2]*rsa.PrivateKey
	for i := range keys {
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1_800_000_000, 0)
	good := func(issuer, nonce string) map[string]any {
		return map[string]any{"iss": issuer, "jti": "1", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Unix() + 60,
			"x-ms-runtime": map[string]any{"client-payload": map[string]any{"nonce": nonce}}}
	}
	der, err := x509.MarshalPKIXPublicKey(&keys[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pinned := initdata.Service{SigningKeys: []initdata.SigningKey{{KID: "k", PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}}
	for _, r := range []struct {
		name   string
		code   evidence.Code
		key    *rsa.PrivateKey
		change func(m map[string]any)
		at     time.Time
	}{
		{"good", "", keys[0], func(map[string]any) {}, now},
		{"HD-04 signed by a verifier that is not pinned", evidence.CodeChain, keys[1], func(map[string]any) {}, now},
		{"answer to another challenge", evidence.CodeBinding, keys[0], func(m map[string]any) {
			m["x-ms-runtime"] = map[string]any{"client-payload": map[string]any{"nonce": "b3RoZXI="}}
		}, now},
		{"no challenge in the token", evidence.CodeBinding, keys[0], func(m map[string]any) { delete(m, "x-ms-runtime") }, now},
		{"other issuer", evidence.CodeBinding, keys[0], func(m map[string]any) { m["iss"] = "https://other" }, now},
		{"HD-07 guest clock a year ahead", evidence.CodeBinding, keys[0], func(map[string]any) {}, now.AddDate(1, 0, 0)},
		{"HD-07 guest clock a year behind", evidence.CodeBinding, keys[0], func(map[string]any) {}, now.AddDate(-1, 0, 0)},
	} {
		t.Run(r.name, func(t *testing.T) {
			c, url := verifier(t, r.key, func(issuer, nonce string) map[string]any {
				m := good(issuer, nonce)
				r.change(m)
				return m
			})
			s := pinned
			s.URL = url
			tok, compact, err := Token(context.Background(), c, s, e, []byte("{}"), System{}, r.at)
			if evidence.CodeOf(err) != r.code || (r.code == "" && (err != nil || tok.Issuer != url || compact == "")) {
				t.Errorf("got %v, want %q", err, r.code)
			}
		})
	}
	if _, _, err := Token(context.Background(), nil, initdata.Service{}, e, nil, System{}, now); err == nil {
		t.Error("nothing pinned, and a token counted")
	}
}

func TestServiceHTTP(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer srv.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	address := strings.TrimPrefix(srv.URL, "https://")
	c, err := ServiceHTTP(initdata.Service{TLSCA: ca}, address)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Get("https://example.com/x") // a name of the test certificate, at a fixed address
	if err != nil || resp.StatusCode != http.StatusTeapot {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if resp, err := c.Get("https://other.example/x"); err == nil {
		_ = resp.Body.Close()
		t.Error("a certificate of another name was accepted")
	}
	if _, err := ServiceHTTP(initdata.Service{}, address); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("no CA: %v", err)
	}
}

func TestDER(t *testing.T) {
	cert := append([]byte{0x30, 0x82, 0x01, 0x00}, make([]byte, 256)...)
	if got := derOf(append(append([]byte(nil), cert...), make([]byte, 50)...)); !bytes.Equal(got, cert) {
		t.Errorf("%d bytes", len(got))
	}
	for _, bad := range [][]byte{nil, make([]byte, 4096), cert[:100]} {
		if derOf(bad) != nil {
			t.Errorf("%x was a certificate", bad)
		}
	}
}
