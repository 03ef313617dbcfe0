package attest

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/token"
)

// One service judges, another one takes its word by pinned keys: evidence goes through both.
func TestExternal(t *testing.T) {
	w := newWorld(t) // in the place of the other verifier
	ca := filepath.Join(w.dir, "tls.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.dir, "state", "hardware.public.json"))
	if err != nil {
		t.Fatal(err)
	}
	var pins initdata.Service
	if err := json.Unmarshal(raw, &pins); err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	good := func() Config {
		return Config{Listen: "127.0.0.1:0", StateDir: filepath.Join(here, "state"), TLS: TLS{Certificate: "c", Key: "k"},
			Instances: []Instance{{Name: "contoso", External: &External{Issuer: "https://here.cloister.test", Protocol: "MAA", URL: w.url, TokenIssuer: pins.URL, Keys: pins.SigningKeys, CA: ca}}}}
	}
	s, err := Open(good(), func() time.Time { return w.now }, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(s.Handler)
	t.Cleanup(func() { server.Close(); s.Close() })
	c := client.New(client.Options{URL: server.URL, HTTP: server.Client()})
	in := realReport(t)
	chain, err := sevsnp.ParseChain(in.ChainPEM)
	if err != nil {
		t.Fatal(err)
	}
	w.now = chain.Leaf.NotBefore.Add(24 * time.Hour)
	compact, err := c.SevSnpVM(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Verify(compact, []token.Authority{readAuthority(t, filepath.Join(here, "state", "contoso.public.json"))}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"iss": "https://here.cloister.test", "x-cloister-root": "amd", "x-cloister-external-verifier": hardwareURL, "x-ms-sevsnpvm-vmpl": 0.0, "nonce": in.Nonce} {
		if tok.Claims[name] != want {
			t.Errorf("%s = %v, want %v", name, tok.Claims[name], want)
		}
	}
	changed := in
	changed.RuntimeData = append([]byte(" "), in.RuntimeData...)
	if _, err := c.SevSnpVM(t.Context(), changed); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("SNP-01 what the other one refuses: %v", err)
	}
	if _, err := c.AKCertificate(t.Context(), client.AKRequest{HCLReport: []byte("x"), ChainPEM: in.ChainPEM, EKPublic: []byte("x"), AKPublic: []byte("x")}); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("a key of a vTPM: %v", err)
	}
	for name, change := range map[string]func(*External){
		"SVC-03 no keys":         func(e *External) { e.Keys = nil },
		"SVC-34 plain HTTP":      func(e *External) { e.URL = "http://a" },
		"an unknown protocol":    func(e *External) { e.Protocol = "x" },
		"no issuer":              func(e *External) { e.TokenIssuer = "" },
		"an API key for nobody":  func(e *External) { e.APIKeyFile = "x" },
		"no API key for Intel's": func(e *External) { e.Protocol = "TrustAuthority" },
		"an issuer of ours":      func(e *External) { e.Issuer = "x" },
	} {
		bad := good()
		change(bad.Instances[0].External)
		if bad.Validate() == nil {
			t.Errorf("%s: valid", name)
		}
	}
	if err := good().Validate(); err != nil {
		t.Errorf("twin: %v", err)
	}
}
