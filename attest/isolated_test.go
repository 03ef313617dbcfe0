package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/policystore"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
)

// policySigner is a certificate authority that signs policies, or a certificate that one issued.
type policySigner struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newSigner(t *testing.T, name string, by *policySigner, change func(*x509.Certificate)) *policySigner {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: sevsnptest.Now.Add(-time.Hour), NotAfter: sevsnptest.Now.Add(time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	if change != nil {
		change(template)
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &policySigner{cert, key}
}

// sign makes a JWS with certificates in its header.
func (s *policySigner) sign(t *testing.T, payload []byte, chain ...*policySigner) string {
	t.Helper()
	var x5c []string
	for _, c := range append([]*policySigner{s}, chain...) {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(c.cert.Raw))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, (&jose.SignerOptions{}).WithHeader("x5c", x5c))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func policyPayload(text string) []byte {
	return []byte(`{"AttestationPolicy":"` + base64.RawURLEncoding.EncodeToString([]byte(text)) + `"}`)
}

func certificatePayload(name string, c *x509.Certificate) []byte {
	return []byte(`{"` + name + `":{"kty":"EC","x5c":["` + base64.StdEncoding.EncodeToString(c.Raw) + `"]}}`)
}

// isolated opens a service with one isolated instance, in a folder that may hold its state already.
func isolated(t *testing.T, dir string, first *policySigner) *world {
	t.Helper()
	w := &world{dir: dir, chip: softwareChip(t), now: sevsnptest.Now}
	w.identity = identitytest.New(t, w.clock)
	c := config(t, w.dir, w.chip)
	file := filepath.Join(dir, "signer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Instances = []Instance{{Name: "alpha", TrustMode: "Isolated", PolicySigners: []string{file}, Software: &Software{Issuer: hardwareURL + "/alpha", Roots: c.Software.Roots}}}
	ids := w.identity.Config(t, "https://attest.azure.net")
	c.Identity = &ids
	c.Roles = roles.List{{PrincipalID: identitytest.AdminID, Role: "Attestation Contributor", Scope: "/attestation"}}
	w.serve(t, c)
	return w
}

// policyCall makes a call with the administrator's token and gives status, error code and the claims of the answer's token.
func (w *world) policyCall(t *testing.T, method, path, body string) (int, string, map[string]any) {
	t.Helper()
	bearer, err := w.bearer(t)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path+"?api-version="+client.VersionPolicy, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "text/plain")
	resp, err := w.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Token string `json:"token"`
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	claims := map[string]any{}
	if parts := strings.Split(out.Token, "."); len(parts) == 3 {
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(payload, &claims); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, out.Error.Code, claims
}

const permitAll = "version=1.0;authorizationrules{=>permit();};"

func TestSignedPolicies(t *testing.T) {
	first := newSigner(t, "first", nil, nil)
	w := isolated(t, t.TempDir(), first)
	stranger, issued := newSigner(t, "first", nil, nil), newSigner(t, "issued", first, nil)
	expired := newSigner(t, "expired", first, func(c *x509.Certificate) { c.NotAfter = sevsnptest.Now.Add(-time.Minute) })
	good := first.sign(t, policyPayload(permitAll))
	for _, jws := range []string{good, issued.sign(t, policyPayload(permitAll)), issued.sign(t, policyPayload(permitAll), first)} {
		status, code, claims := w.policyCall(t, "PUT", "/alpha/policies/SevSnpVm", jws)
		sum := sha256.Sum256([]byte(jws))
		signer, _ := claims["x-ms-policy-signer"].(map[string]any)
		if status != 200 || claims["x-ms-policy-result"] != "Updated" || claims["x-ms-policy-token-hash"] != base64.RawURLEncoding.EncodeToString(sum[:]) || signer["kty"] != "EC" {
			t.Fatalf("%d %s %v", status, code, claims)
		}
		if exp, iat := claims["exp"].(float64), claims["iat"].(float64); exp-iat != 3600 {
			t.Errorf("a policy token lives %v s", exp-iat)
		}
	}
	if _, _, claims := w.policyCall(t, "GET", "/alpha/policies/SevSnpVm", ""); !strings.HasPrefix(claims["x-ms-policy"].(string), "ey") {
		t.Errorf("%v", claims)
	}
	unsigned, err := client.PolicyJWS(permitAll)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for _, r := range []struct {
		name, jws, code string
	}{
		{"SVC-31 an unsigned policy", unsigned, "InvalidOperation"},
		{"SVC-02 a stranger's certificate of the same name", stranger.sign(t, policyPayload(permitAll)), "InvalidOperation"},
		{"SVC-16 the signer's certificate first, another's signature", stranger.sign(t, policyPayload(permitAll), first), "InvalidOperation"},
		{"SVC-16 a trusted certificate over a stranger's signature", swapX5C(t, stranger.sign(t, policyPayload(permitAll)), first), "InvalidOperation"},
		{"an expired signer", expired.sign(t, policyPayload(permitAll), first), "InvalidOperation"},
		{"SVC-15 another payload under the signature", parts[0] + "." + base64.RawURLEncoding.EncodeToString(policyPayload("version=1.0;authorizationrules{=>deny();};")) + "." + parts[2], "InvalidOperation"},
		{"SVC-04 alg none over a signature", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "." + parts[2], "PolicyParsingError"},
		{"SVC-04 a signature cut off", parts[0] + "." + parts[1] + ".", "PolicyParsingError"},
		{"no certificate", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + parts[1] + "." + parts[2], "PolicyParsingError"},
		{"SVC-20 alg twice", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","alg":"none"}`)) + "." + parts[1] + "." + parts[2], "PolicyParsingError"},
		{"SVC-19 a thousand dots", strings.Repeat(".", 1000), "PolicyParsingError"},
		{"a signed text that is no policy", first.sign(t, policyPayload("permit")), "PolicyParsingError"},
	} {
		t.Run(r.name, func(t *testing.T) {
			if status, code, _ := w.policyCall(t, "PUT", "/alpha/policies/SevSnpVm", r.jws); status != 400 || code != r.code {
				t.Errorf("%d %s, want 400 %s", status, code, r.code)
			}
		})
	}
	if status, code, _ := w.policyCall(t, "POST", "/alpha/policies/SevSnpVm:reset", "eyJhbGciOiJub25lIn0.."); status != 400 || code != "InvalidOperation" {
		t.Errorf("an unsigned reset: %d %s", status, code)
	}
	if status, code, claims := w.policyCall(t, "POST", "/alpha/policies/SevSnpVm:reset", first.sign(t, nil)); status != 200 || claims["x-ms-policy-result"] != "Removed" {
		t.Errorf("a signed reset: %d %s", status, code)
	}
	// Where the role decides, a signature may be there, and must hold.
	if status, code, claims := w.policyCall(t, "PUT", "/software/policies/SevSnpVm", stranger.sign(t, policyPayload(permitAll))); status != 200 || claims["x-ms-policy-signer"] == nil {
		t.Errorf("a signed policy in AAD mode: %d %s", status, code)
	}
	if status, _, _ := w.policyCall(t, "PUT", "/software/policies/SevSnpVm", swapX5C(t, stranger.sign(t, policyPayload(permitAll)), first)); status != 400 {
		t.Errorf("a signature that does not hold in AAD mode: %d", status)
	}
}

// swapX5C puts another certificate into a JWS's header. The signature stays.
func swapX5C(t *testing.T, jws string, to *policySigner) string {
	t.Helper()
	parts := strings.Split(jws, ".")
	head := map[string]any{"alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(to.cert.Raw)}}
	raw, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw) + "." + parts[1] + "." + parts[2]
}

func TestPolicySigners(t *testing.T) {
	first, second := newSigner(t, "first", nil, nil), newSigner(t, "second", nil, nil)
	dir := t.TempDir()
	w := isolated(t, dir, first)
	count := func(w *world) int {
		t.Helper()
		_, _, claims := w.policyCall(t, "GET", "/alpha/certificates", "")
		set, _ := claims["x-ms-policy-certificates"].(map[string]any)
		keys, _ := set["keys"].([]any)
		return len(keys)
	}
	add := first.sign(t, certificatePayload("policyCertificate", second.cert))
	for range 2 { // adding twice is a success
		status, code, claims := w.policyCall(t, "POST", "/alpha/certificates:add", add)
		if status != 200 || claims["x-ms-policycertificates-result"] != "IsPresent" || len(claims["x-ms-certificate-thumbprint"].(string)) != 40 {
			t.Fatalf("%d %s %v", status, code, claims)
		}
	}
	if n := count(w); n != 2 {
		t.Fatalf("%d certificates, want 2", n)
	}
	if status, code, _ := w.policyCall(t, "PUT", "/alpha/policies/SevSnpVm", second.sign(t, policyPayload(permitAll))); status != 200 {
		t.Errorf("a policy by the new signer: %d %s", status, code)
	}
	leaf := newSigner(t, "leaf", first, nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skipf("SKIPPED: keys of 1024 bits can't be made here: %v", err)
	}
	template := *first.cert
	template.SignatureAlgorithm, template.PublicKey = x509.UnknownSignatureAlgorithm, weak.Public() // signed by itself
	weakDER, err := x509.CreateCertificate(rand.Reader, &template, &template, weak.Public(), weak)
	if err != nil {
		t.Fatal(err)
	}
	weakCert, err := x509.ParseCertificate(weakDER)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newSigner(t, "stranger", nil, nil)
	for _, r := range []struct{ name, path, body string }{
		{"a stranger adds itself", "/alpha/certificates:add", stranger.sign(t, certificatePayload("policyCertificate", stranger.cert))},
		{"an unsigned change", "/alpha/certificates:add", "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(certificatePayload("policyCertificate", stranger.cert)) + "."},
		{"a certificate that is no authority", "/alpha/certificates:add", first.sign(t, certificatePayload("policyCertificate", leaf.cert))},
		{"SVC-18 a weak key", "/alpha/certificates:add", first.sign(t, certificatePayload("policyCertificate", weakCert))},
		{"no certificate", "/alpha/certificates:add", first.sign(t, []byte(`{}`))},
		{"two certificates", "/alpha/certificates:add", first.sign(t, bytes.Replace(bytes.Replace(append(certificatePayload("policyCertificate", stranger.cert), certificatePayload("maa-policyCertificate", second.cert)...), []byte("}{"), []byte(","), 1), []byte("}}}"), []byte("}}"), 1))},
		{"an issuer that is not isolated", "/software/certificates:add", add},
	} {
		t.Run(r.name, func(t *testing.T) {
			if status, code, _ := w.policyCall(t, "POST", r.path, r.body); status != 400 {
				t.Errorf("%d %s", status, code)
			}
			if n := count(w); n != 2 {
				t.Errorf("%d certificates afterwards", n)
			}
		})
	}
	if status, code, claims := w.policyCall(t, "POST", "/alpha/certificates:remove", second.sign(t, certificatePayload("x-ms-policyCertificate", first.cert))); status != 200 || claims["x-ms-policycertificates-result"] != "IsAbsent" {
		t.Fatalf("removing the first: %d %s", status, code)
	}
	if status, _, _ := w.policyCall(t, "POST", "/alpha/certificates:remove", second.sign(t, certificatePayload("policyCertificate", second.cert))); status != 400 {
		t.Errorf("removing the last: %d", status)
	}
	if status, _, _ := w.policyCall(t, "PUT", "/alpha/policies/SevSnpVm", first.sign(t, policyPayload(permitAll))); status != 400 {
		t.Errorf("a policy by a removed signer: %d", status)
	}
}

// TestUnsignedPoliciesEndWithIsolation sets a policy by role alone, and then isolates the issuer.
func TestUnsignedPoliciesEndWithIsolation(t *testing.T) {
	dir, first := t.TempDir(), newSigner(t, "first", nil, nil)
	jws, err := client.PolicyJWS(permitAll)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	before, err := policystore.Open(filepath.Join(dir, "state", "alpha.policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Set("SevSnpVm", policystore.Policy{JWS: jws, Text: permitAll}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	w := isolated(t, dir, first)
	attest := func() error {
		_, err := w.client("/alpha").SevSnpVM(t.Context(), w.report(t, w.chip, nil))
		return err
	}
	if err := attest(); evidence.CodeOf(err) != evidence.CodePolicy || !strings.Contains(err.Error(), "set unsigned") {
		t.Fatalf("SVC-31: under a policy that nobody signed: %v", err)
	}
	if status, _, _ := w.policyCall(t, "PUT", "/alpha/policies/SevSnpVm", first.sign(t, policyPayload(permitAll))); status != 200 {
		t.Fatal(status)
	}
	if err := attest(); err != nil {
		t.Errorf("under the same, signed: %v", err)
	}
	after, err := policystore.Open(filepath.Join(dir, "state", "alpha.policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		s    *policystore.Store
		want bool
	}{"unsigned": {before, false}, "signed, from the file": {after, true}} {
		if p, ok := r.s.Get("SevSnpVm"); !ok || p.Signed() != r.want {
			t.Errorf("%s: %v, %v", name, p.Signed(), ok)
		}
	}
}
