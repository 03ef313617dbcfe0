package policysign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// made issues a certificate; by nobody is by itself.
func made(t testing.TB, by *signer, from, to time.Time, ca bool) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{key: key}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "policy signer"}, NotBefore: from, NotAfter: to, IsCA: ca, BasicConstraintsValid: true}
	parent, issuer := template, key
	if by != nil {
		parent, issuer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), issuer)
	if err == nil {
		s.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func encode(t testing.TB, v any) string {
	t.Helper()
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// jws signs with ES256, whatever the header says.
func (s *signer) jws(t testing.TB, head map[string]any, payload []byte) string {
	t.Helper()
	signed := encode(t, head) + "." + encode(t, payload)
	h := sha256.Sum256([]byte(signed))
	r, q, err := ecdsa.Sign(rand.Reader, s.key, h[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	q.FillBytes(sig[32:])
	return signed + "." + encode(t, sig)
}

func x5c(certs ...*x509.Certificate) []string {
	var out []string
	for _, c := range certs {
		out = append(out, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return out
}

func TestVerify(t *testing.T) {
	day := 24 * time.Hour
	root := made(t, nil, now.Add(-day), now.Add(day), true)
	leaf := made(t, root, now.Add(-day), now.Add(day), false)
	expired := made(t, root, now.Add(-2*day), now.Add(-day), false)
	stranger := made(t, nil, now.Add(-day), now.Add(day), true)
	old := made(t, nil, now.Add(-2*day), now.Add(-day), true)
	body := []byte(`{"AttestationPolicy":"eA"}`)
	head := func(certs ...*x509.Certificate) map[string]any {
		return map[string]any{"alg": "ES256", "x5c": x5c(certs...)}
	}
	for _, r := range []struct {
		name string
		jws  string
		want evidence.Code // "" is accepted
	}{
		{"a signer on the list", root.jws(t, head(root.cert), body), ""},
		{"issued by one on the list", leaf.jws(t, head(leaf.cert), body), ""},
		{"with its issuer beside it", leaf.jws(t, head(leaf.cert, root.cert), body), ""},
		{"in time", root.jws(t, head(root.cert), []byte(`{"nbf":1767225600,"exp":1767225601}`)), ""},
		{"nothing to say, as a reset", root.jws(t, head(root.cert), nil), ""},
		{"ended", root.jws(t, head(root.cert), []byte(`{"exp":1767225600}`)), evidence.CodeChain},
		{"not yet", root.jws(t, head(root.cert), []byte(`{"nbf":1767225601}`)), evidence.CodeChain},
		{"an end that is no number", root.jws(t, head(root.cert), []byte(`{"exp":"never"}`)), evidence.CodeChain},
		{"a stranger", stranger.jws(t, head(stranger.cert), body), evidence.CodeChain},
		{"a stranger under a listed certificate", stranger.jws(t, head(root.cert), body), evidence.CodeChain},
		{"a stranger with a listed certificate behind", stranger.jws(t, head(stranger.cert, root.cert), body), evidence.CodeChain},
		{"issued, and ended", expired.jws(t, head(expired.cert), body), evidence.CodeChain},
		{"listed, and ended", old.jws(t, head(old.cert), body), evidence.CodeChain},
		{"another payload", swap(root.jws(t, head(root.cert), body), encode(t, []byte(`{}`))), evidence.CodeChain},
		{"unsigned", encode(t, map[string]any{"alg": "none"}) + "." + encode(t, body) + ".", evidence.CodeChain},
		{"a payload that is no object", root.jws(t, head(root.cert), []byte(`[]`)), evidence.CodeParse},
	} {
		t.Run(r.name, func(t *testing.T) {
			d, err := Read(r.jws)
			if err == nil {
				err = d.Verify([]*x509.Certificate{root.cert, old.cert}, now)
			}
			if got := evidence.CodeOf(err); got != r.want || (err == nil) != (r.want == "") {
				t.Errorf("%v, want %q", err, r.want)
			}
		})
	}
	d, err := Read(root.jws(t, head(root.cert), body))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(nil, now); err == nil {
		t.Error("SVC-03: nobody is trusted, and yet somebody was")
	}
}

func swap(jws, payload string) string {
	parts := strings.Split(jws, ".")
	return parts[0] + "." + payload + "." + parts[2]
}

func TestRead(t *testing.T) {
	s := made(t, nil, now, now.Add(time.Hour), true)
	many := make([]*x509.Certificate, maxChain+1)
	for i := range many {
		many[i] = s.cert
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: now.Add(time.Hour)}
	small, err := x509.CreateCertificate(rand.Reader, template, template, weak.Public(), weak)
	if err != nil {
		t.Fatal(err)
	}
	huge := *template
	huge.PublicKey = &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), maxRSA, 1), E: 3}
	if err := CheckKey(&huge); err == nil {
		t.Error("SVC-18: a modulus that only costs time")
	}
	good := map[string]any{"alg": "ES256", "x5c": x5c(s.cert)}
	with := func(name string, v any) map[string]any {
		h := map[string]any{"alg": "ES256", "x5c": x5c(s.cert)}
		h[name] = v
		return h
	}
	for _, jws := range []string{s.jws(t, good, nil), s.jws(t, with("typ", "JWT"), nil), encode(t, map[string]any{"alg": "none"}) + "..", strings.TrimSpace(encode(t, map[string]any{"alg": "none"}) + ".e30.")} {
		if _, err := Read(jws); err != nil {
			t.Errorf("%s: %v", jws, err)
		}
	}
	for name, jws := range map[string]string{
		"empty": "", "one dot": "e30.e30", "three dots": "e30.e30.e30.e30", "no base64": "*.e30.", "padded": "eyJhbGciOiJub25lIn0=.e30.", "no JSON": "eA.e30.",
		"SVC-20 alg twice":                encode(t, []byte(`{"alg":"none","alg":"none"}`)) + ".e30.",
		"SVC-04 none with a signature":    encode(t, map[string]any{"alg": "none"}) + ".e30.eA",
		"SVC-04 none with a certificate":  encode(t, map[string]any{"alg": "none", "x5c": x5c(s.cert)}) + ".e30.",
		"SVC-04 HS256":                    s.jws(t, with("alg", "HS256"), nil),
		"SVC-04 None":                     s.jws(t, with("alg", "None"), nil),
		"SVC-04 no alg":                   s.jws(t, map[string]any{"x5c": x5c(s.cert)}, nil),
		"SVC-01 a key of its own":         s.jws(t, with("jwk", map[string]any{"kty": "EC"}), nil),
		"SVC-01 a key elsewhere":          s.jws(t, with("jku", "https://127.0.0.1/keys"), nil),
		"SVC-01 certificates elsewhere":   s.jws(t, with("x5u", "https://127.0.0.1/certs"), nil),
		"an unencoded payload":            s.jws(t, with("b64", false), nil),
		"members that must be understood": s.jws(t, with("crit", []string{"exp"}), nil),
		"compressed":                      s.jws(t, with("zip", "DEF"), nil),
		"no certificate":                  s.jws(t, map[string]any{"alg": "ES256"}, nil),
		"too many certificates":           s.jws(t, with("x5c", x5c(many...)), nil),
		"a certificate that is none":      s.jws(t, with("x5c", []string{"eA=="}), nil),
		"a number for certificates":       s.jws(t, with("x5c", 1), nil),
		"SVC-18 a weak key":               s.jws(t, with("x5c", []string{base64.StdEncoding.EncodeToString(small)}), nil),
		"no signature":                    s.jws(t, good, nil)[:strings.LastIndex(s.jws(t, good, nil), ".")+1],
		"SVC-19 too long":                 "e30." + strings.Repeat("A", maxBytes) + ".",
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := Read(jws); err == nil {
				t.Errorf("was read: %s", d.Payload)
			} else if evidence.CodeOf(err) == "" {
				t.Errorf("no refusal: %v", err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	s := made(f, nil, now, now.Add(time.Hour), true)
	f.Add(s.jws(f, map[string]any{"alg": "ES256", "x5c": x5c(s.cert)}, []byte(`{"policyCertificate":{"x5c":["eA"]}}`)))
	f.Add("eyJhbGciOiJub25lIn0..")
	f.Add("..")
	trusted := []*x509.Certificate{made(f, nil, now, now.Add(time.Hour), true).cert}
	f.Fuzz(func(t *testing.T, in string) {
		d, err := Read(in)
		if err != nil {
			return
		}
		if d.Signed != (d.Signer() != nil) {
			t.Error("signed by nobody")
		}
		if d.Verify(trusted, now) == nil {
			t.Error("trusted a key that signed nothing")
		}
		if c, err := d.Certificate(); err == nil && (CheckSigner(c) != nil) {
			t.Error("a certificate that can be no signer")
		}
	})
}
