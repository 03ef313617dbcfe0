package host

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloister.dev/cloister/host/api"
)

// joinServer is a control plane that signs requests for certificates.
type joinServer struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	life   time.Duration
	refuse bool
	seen   []string // paths
	keys   [][]byte // public keys that were asked for
	shown  []int    // client certificates with each call
	dir    string   // the agent's state
}

func (s *joinServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ Token, CSR string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		s.t.Error(err)
	}
	s.seen = append(s.seen, r.URL.Path)
	s.shown = append(s.shown, len(r.TLS.PeerCertificates))
	if r.URL.Path == api.PathJoin {
		if in.Token != "once" {
			s.t.Errorf("token %q, want once", in.Token)
		}
		if _, err := os.Stat(filepath.Join(s.dir, "agent.key")); err != nil {
			s.t.Errorf("the token is spent before the key is kept: %v", err)
		}
	}
	block, _ := pem.Decode([]byte(in.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		s.t.Errorf("request: %v", err)
		return
	}
	s.keys = append(s.keys, csr.RawSubjectPublicKeyInfo)
	if s.refuse {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: csr.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(s.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, s.ca, csr.PublicKey, s.key)
	if err != nil {
		s.t.Error(err)
	}
	if err := json.NewEncoder(w).Encode(api.JoinResponse{Host: "h", Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}); err != nil {
		s.t.Error(err)
	}
}

func newJoin(t *testing.T) (*joinServer, Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &joinServer{t: t, key: key, ca: ca, life: 90 * 24 * time.Hour, dir: dir}
	srv := httptest.NewUnstartedServer(s)
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := Config{Name: "h", ControlPlane: srv.URL, CAFile: filepath.Join(dir, "ca"), JoinTokenFile: filepath.Join(dir, "token"), StateDir: dir}
	for path, content := range map[string][]byte{c.CAFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), c.JoinTokenFile: []byte("once\n")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s, c
}

func TestJoinOnceThenShowTheCertificate(t *testing.T) {
	s, c := newJoin(t)
	for range 2 {
		if _, err := Connect(context.Background(), c, time.Now); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.seen) != 1 || s.seen[0] != api.PathJoin {
		t.Errorf("calls: got %v, want one join", s.seen)
	}
	for _, name := range []string{"agent.key", "agent.crt"} {
		info, err := os.Stat(filepath.Join(c.StateDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %o", name, info.Mode().Perm())
		}
	}
}

func TestJoinAgainWithTheSameKey(t *testing.T) {
	s, c := newJoin(t)
	s.refuse = true
	if _, err := Connect(context.Background(), c, time.Now); err == nil {
		t.Fatal("joined without an answer")
	}
	s.refuse = false
	if _, err := Connect(context.Background(), c, time.Now); err != nil {
		t.Fatal(err)
	}
	if len(s.keys) != 2 || string(s.keys[0]) != string(s.keys[1]) {
		t.Error("the second attempt has another key")
	}
}

func TestRenewBeforeTheEnd(t *testing.T) {
	s, c := newJoin(t)
	if _, err := Connect(context.Background(), c, time.Now); err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(s.life - renewBefore + time.Hour) }
	if _, err := Connect(context.Background(), c, later); err != nil {
		t.Fatal(err)
	}
	if len(s.seen) != 2 || s.seen[1] != api.PathRenew || s.shown[1] == 0 {
		t.Errorf("calls %v, certificates shown %v; want a renewal that shows one", s.seen, s.shown)
	}
	if string(s.keys[0]) == string(s.keys[1]) {
		t.Error("the old key was kept")
	}
}

func TestConnectRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"missing CA":        func(c *Config) { c.CAFile = filepath.Join(c.StateDir, "none") },
		"CA that is no PEM": func(c *Config) { c.CAFile = c.JoinTokenFile },
		"no token":          func(c *Config) { c.JoinTokenFile = filepath.Join(c.StateDir, "none") },
	} {
		s, c := newJoin(t)
		spoil(&c)
		if _, err := Connect(context.Background(), c, time.Now); err == nil {
			t.Errorf("%s: connected", name)
		}
		if len(s.seen) != 0 {
			t.Errorf("%s: the control plane was called: %v", name, s.seen)
		}
	}
}
