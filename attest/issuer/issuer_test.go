package issuer

import (
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

const url = "https://attest.cloister.test/software"

func TestIssuer(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(dir, "software", url+"/", Rotation{}, now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, "software", url, Rotation{}, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := first.SigningKeys(now)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	key := keys[0]
	claims := map[string]any{"b": "<&>", "a": int64(1), "jti": NewID()}
	if err := again.Stamp(claims, now, TokenLife); err != nil {
		t.Fatal(err)
	}
	compact, err := again.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := token.NewAuthority(initdata.Service{URL: url, SigningKeys: []initdata.SigningKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := token.Verify(compact, []token.Authority{authority}, now)
	if err != nil {
		t.Fatalf("a token of the reopened issuer: %v", err)
	}
	if life := got.Expires.Sub(got.IssuedAt); life != 8*time.Hour || !got.NotBefore.Equal(now) || len(got.ID) != 64 {
		t.Errorf("life %s, nbf %s, jti %q", life, got.NotBefore, got.ID)
	}
	parts := strings.Split(compact, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	if want := `{"a":1,"b":"<&>","exp":1793563200,"iat":1793534400,"iss":"` + url + `","jti":"` + got.ID + `","nbf":1793534400}`; string(payload) != want {
		t.Errorf("payload %s\nwant    %s", payload, want)
	}
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	if want := `{"alg":"RS256","jku":"` + url + `/certs","kid":"` + key.KID + `","typ":"JWT"}`; string(header) != want {
		t.Errorf("header %s, want %s", header, want)
	}
	entry := first.KeySet(now)["keys"].([]any)[0].(map[string]any)
	der, err := base64.StdEncoding.DecodeString(entry["x5c"].([]string)[0])
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || cert.Subject.CommonName != url || entry["kid"] != key.KID {
		t.Errorf("certificate %v, kid %v (%v)", cert.Subject, entry["kid"], err)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error(err)
	}
	if err := first.Stamp(claims, now, 0); err == nil {
		t.Error("a life of zero was stamped")
	}
	other, err := Open(dir, "hardware", "https://attest.cloister.test", Rotation{}, now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Verify(foreign, []token.Authority{authority}, now); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-22 a token by another issuer's key: %v", err)
	}
	unsecured, err := Unsecured(claims)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Verify(unsecured, []token.Authority{authority}, now); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-04 an unsecured token: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "software.key.pem")
	if _, err := Open(dir, "software", url, Rotation{}, now); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "software", url, Rotation{}, now); err == nil {
		t.Error("a key that others may read was taken")
	}
	for name, content := range map[string]string{"empty": "", "no PEM": "x", "cut": string(good[:len(good)/2]), "other block": strings.ReplaceAll(string(good), "PRIVATE KEY", "RSA PRIVATE KEY")} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, "software", url, Rotation{}, now); err == nil {
			t.Errorf("%s: a broken key file was taken or replaced", name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "software", url, Rotation{}, now); err != nil {
		t.Errorf("twin: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "missing"), "software", url, Rotation{}, now); err == nil {
		t.Error("a missing folder was taken")
	}
}
