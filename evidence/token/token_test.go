package token

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
)

const issuerURL = "https://attest.cloister.test/software"

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(t testing.TB, k *rsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func authority(t testing.TB, url string, k *rsa.PrivateKey) Authority {
	t.Helper()
	a, err := NewAuthority(initdata.Service{URL: url, SigningKeys: []initdata.SigningKey{{KID: "k1", PEM: pemOf(t, k)}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a compact JWS by hand, so that headers no library would write can be tried.
func sign(t testing.TB, k *rsa.PrivateKey, header, payload string) string {
	t.Helper()
	in := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(in))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return in + "." + b64(sig)
}

func good() map[string]any {
	at := now.Unix()
	return map[string]any{"iss": issuerURL, "iat": at - 60, "nbf": at - 60, "exp": at + 3600, "jti": "1", "a": map[string]any{"b": true}}
}

func text(t testing.TB, claims map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

const header = `{"alg":"RS256","kid":"k1","typ":"JWT"}`

func TestVerify(t *testing.T) {
	key, attacker := newKey(t), newKey(t)
	authorities := []Authority{authority(t, issuerURL, key)}
	got, err := Verify(sign(t, key, header, text(t, good())), authorities, now)
	if err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	if v, ok := got.Lookup("a.b"); !ok || v != true {
		t.Errorf("a.b = %v, %v", v, ok)
	}
	for _, path := range []string{"", "a.c", "a.b.c", "b", ".a", "a."} {
		if v, ok := got.Lookup(path); ok {
			t.Errorf("Lookup(%q) = %v", path, v)
		}
	}

	var fetched atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched.Add(1) }))
	defer trap.Close()
	jwk, _ := json.Marshal(map[string]string{"kty": "RSA", "n": b64(attacker.N.Bytes()), "e": "AQAB"})
	cert := x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, &attacker.PublicKey, attacker)
	if err != nil {
		t.Fatal(err)
	}
	x5c := base64.StdEncoding.EncodeToString(der)
	hs := func(alg string, secret []byte) string {
		in := b64([]byte(`{"alg":"`+alg+`","kid":"k1"}`)) + "." + b64([]byte(text(t, good())))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(in))
		return in + "." + b64(mac.Sum(nil))
	}
	pub, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	unsigned := b64([]byte(`{"alg":"none","kid":"k1"}`)) + "." + b64([]byte(text(t, good()))) + "."
	whole := sign(t, key, header, text(t, good()))
	for _, c := range []struct {
		name, compact string
		code          evidence.Code
	}{
		{"SVC-01 jku of the attacker", sign(t, attacker, `{"alg":"RS256","kid":"k1","jku":"`+trap.URL+`/certs"}`, text(t, good())), evidence.CodeChain},
		{"SVC-01 x5u of the attacker", sign(t, attacker, `{"alg":"RS256","kid":"k1","x5u":"`+trap.URL+`/certs"}`, text(t, good())), evidence.CodeChain},
		{"SVC-01 kid of the attacker", sign(t, attacker, `{"alg":"RS256","kid":"k2","jku":"`+trap.URL+`/certs"}`, text(t, good())), evidence.CodeChain},
		{"SVC-02 self-made jwk", sign(t, attacker, `{"alg":"RS256","kid":"k1","jwk":`+string(jwk)+`}`, text(t, good())), evidence.CodeChain},
		{"SVC-02 self-made x5c", sign(t, attacker, `{"alg":"RS256","kid":"k1","x5c":["`+x5c+`"]}`, text(t, good())), evidence.CodeChain},
		{"SVC-02 no kid", sign(t, key, `{"alg":"RS256"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 none", unsigned, evidence.CodeChain},
		{"SVC-04 none with a signature", sign(t, key, `{"alg":"none","kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 None", sign(t, key, `{"alg":"None","kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 rs256 in small letters", sign(t, key, `{"alg":"rs256","kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 HS256 with the public key as DER", hs("HS256", pub), evidence.CodeChain},
		{"SVC-04 HS256 with the public key as PEM", hs("HS256", []byte(pemOf(t, key))), evidence.CodeChain},
		{"SVC-04 ES256", sign(t, key, `{"alg":"ES256","kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 PS256", sign(t, key, `{"alg":"PS256","kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 no alg", sign(t, key, `{"kid":"k1"}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 critical header", sign(t, key, `{"alg":"RS256","kid":"k1","crit":["x"],"x":1}`, text(t, good())), evidence.CodeChain},
		{"SVC-04 payload changed", whole[:strings.Index(whole, ".")+1] + b64([]byte(text(t, good())+" ")) + whole[strings.LastIndex(whole, "."):], evidence.CodeChain},
		{"SVC-04 signature cut", whole[:len(whole)-4], evidence.CodeChain},
		{"SVC-19 empty", "", evidence.CodeParse},
		{"SVC-19 a million dots", strings.Repeat(".", 1_000_000), evidence.CodeParse},
		{"SVC-19 many dots below the size limit", strings.Repeat(".", 100_000), evidence.CodeParse},
		{"SVC-19 64 MiB", strings.Repeat("a", 64<<20), evidence.CodeParse},
		{"SVC-19 five parts", "a.b.c.d.e", evidence.CodeParse},
		{"SVC-19 general JSON form", `{"payload":"","signatures":[]}`, evidence.CodeParse},
		{"SVC-20 two issuers", sign(t, key, header, strings.Replace(text(t, good()), "{", `{"iss":"https://x",`, 1)), evidence.CodeParse},
		{"SVC-20 Iss beside iss", sign(t, key, header, strings.Replace(text(t, good()), "{", `{"Iss":"https://x",`, 1)), evidence.CodeParse},
		{"SVC-20 deep nesting", sign(t, key, header, `{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`}`), evidence.CodeParse},
		{"SVC-20 not an object", sign(t, key, header, `[]`), evidence.CodeParse},
		{"SVC-20 invalid UTF-8", sign(t, key, header, "{\"iss\":\"\xff\"}"), evidence.CodeParse},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Verify(c.compact, authorities, now)
			if evidence.CodeOf(err) != c.code || got != nil {
				t.Errorf("got %v, %v; want %s", got, err, c.code)
			}
		})
	}
	if n := fetched.Load(); n != 0 {
		t.Errorf("SVC-01: %d requests went out", n)
	}
}

func TestVerifyClaims(t *testing.T) {
	key := newKey(t)
	authorities := []Authority{authority(t, issuerURL, key)}
	at := now.Unix()
	for _, claim := range []string{"iss", "iat", "nbf", "exp"} {
		values := map[string]any{"absent": nil, "empty": "", "of the wrong type": true, "a number as text": "1761998400", "negative": -5, "zero": 0, "far future": int64(1) << 41, "a list": []any{at}}
		if claim != "exp" {
			values["in the future"] = at + 3
		} else {
			values["past"] = at
			values["in 100 years"] = at + 100*365*86400
		}
		if claim == "iss" {
			values = map[string]any{"absent": nil, "empty": "", "of the wrong type": 1, "of another": "https://other.test/software",
				"with more behind": issuerURL + "/x", "a prefix": "https://attest.cloister.test", "two slashes": issuerURL + "//", "another case of the path": "https://attest.cloister.test/Software"}
		}
		for name, v := range values {
			t.Run("SVC-05 "+claim+" "+name, func(t *testing.T) {
				bad := maps.Clone(good())
				if v == nil {
					delete(bad, claim)
				} else {
					bad[claim] = v
				}
				if got, err := Verify(sign(t, key, header, text(t, bad)), authorities, now); evidence.CodeOf(err) != evidence.CodeBinding || got != nil {
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
	}
	for _, iss := range []string{issuerURL + "/", "HTTPS://Attest.Cloister.test/software"} {
		twin := maps.Clone(good())
		twin["iss"] = iss
		if _, err := Verify(sign(t, key, header, text(t, twin)), authorities, now); err != nil {
			t.Errorf("SVC-05 twin, iss %s: %v", iss, err)
		}
	}
}

func TestSVC16SameKidTwice(t *testing.T) {
	a, b := newKey(t), newKey(t)
	both := []Authority{authority(t, "https://other.test", a), authority(t, issuerURL, b)}
	if _, err := Verify(sign(t, b, header, text(t, good())), both, now); err != nil {
		t.Errorf("second authority with the same kid: %v", err)
	}
	if _, err := Verify(sign(t, a, header, text(t, good())), both, now); evidence.CodeOf(err) == "" {
		t.Errorf("key of one authority, issuer of another: %v", err)
	}
	if _, err := Verify(sign(t, b, header, text(t, good())), nil, now); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-03 no authority: %v", err)
	}
}

func TestNewAuthority(t *testing.T) {
	k := newKey(t)
	small, err := os.ReadFile(filepath.Join(vectors(t), "maa-policy-roundtrip", "shared-signing-key.spki.b64"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(small)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		keys []initdata.SigningKey
		code evidence.Code
	}{
		"SVC-03 no key":     {nil, evidence.CodePolicy},
		"no PEM":            {[]initdata.SigningKey{{KID: "a", PEM: "x"}}, evidence.CodeParse},
		"no key in the PEM": {[]initdata.SigningKey{{KID: "a", PEM: "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"}}, evidence.CodeParse},
		"1024 bits":         {[]initdata.SigningKey{{KID: "a", PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}, evidence.CodeUnsupported},
		"good and bad":      {[]initdata.SigningKey{{KID: "b", PEM: pemOf(t, k)}, {KID: "a", PEM: "x"}}, evidence.CodeParse},
		"no kid":            {[]initdata.SigningKey{{PEM: pemOf(t, k)}}, evidence.CodeParse},
		"kid twice":         {[]initdata.SigningKey{{KID: "a", PEM: pemOf(t, k)}, {KID: "a", PEM: pemOf(t, newKey(t))}}, evidence.CodeParse},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewAuthority(initdata.Service{URL: issuerURL, SigningKeys: c.keys}); evidence.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

func vectors(t testing.TB) string {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	return dir
}

// A token of Azure's service, read with the key of its instance.
func TestAzureToken(t *testing.T) {
	dir := filepath.Join(vectors(t), "maa-azureguest-jwt")
	raw, err := os.ReadFile(filepath.Join(dir, "token.jwt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "signing-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthority(initdata.Service{URL: "https://sharedeus2.eus2.attest.azure.net/", SigningKeys: []initdata.SigningKey{{KID: "J0pAPdfXXHqWWimgrH853wMIdh5/fLe1z6uSXYPXCa0=", PEM: string(key)}}})
	if err != nil {
		t.Fatal(err)
	}
	compact := strings.TrimSpace(string(raw))
	at := time.Unix(1736697400, 0)
	tok, err := Verify(compact, []Authority{a}, at)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"x-ms-attestation-type":                          "azurevm",
		"x-ms-isolation-tee.x-ms-attestation-type":       "sevsnpvm",
		"x-ms-isolation-tee.x-ms-compliance-status":      "azure-compliant-cvm",
		"x-ms-isolation-tee.x-ms-sevsnpvm-snpfw-svn":     float64(21),
		"x-ms-runtime.client-payload.nonce":              "",
		"x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable": false,
	} {
		if got, ok := tok.Lookup(path); !ok || got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if _, ok := tok.Lookup("x-ms-compliance-status"); ok {
		t.Error("the compliance status is at the top level")
	}
	for name, when := range map[string]time.Time{"before nbf": at.Add(-time.Second), "at exp": at.Add(28800 * time.Second), "today": now} {
		if _, err := Verify(compact, []Authority{a}, when); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	authorities := []Authority{authority(f, issuerURL, key)}
	whole := sign(f, key, header, text(f, good()))
	f.Add(whole)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, compact string) {
		got, err := Verify(compact, authorities, now)
		if err == nil && (got == nil || compact != whole) {
			t.Fatalf("accepted %q", compact)
		}
		if err != nil && evidence.CodeOf(err) == "" {
			t.Fatalf("no refusal: %v", err)
		}
	})
}

func TestVerifyBehindForgivesASlowClockOnly(t *testing.T) {
	key := newKey(t)
	authorities := []Authority{authority(t, issuerURL, key)}
	for _, c := range []struct {
		name, claim string
		at          int64
		ok          bool
	}{
		{"issued within the slack", "iat", now.Unix() + 59, true},
		{"valid from within the slack", "nbf", now.Unix() + 59, true},
		{"SVC-05 issued later than that", "iat", now.Unix() + 61, false},
		{"SVC-05 valid from later than that", "nbf", now.Unix() + 61, false},
		{"SVC-05 its end has no slack", "exp", now.Unix(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := maps.Clone(good())
			claims[c.claim] = c.at
			_, err := VerifyBehind(sign(t, key, header, text(t, claims)), authorities, now, time.Minute)
			if (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}
