package keys_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

const (
	configEnv  = "CLOISTER_KEYS_TEST_CONFIG"
	restoreEnv = "CLOISTER_KEYS_TEST_RESTORE" // a backup: restored instead of serving
)

// TestMain makes the test binary a key keeper when a test starts it as one.
func TestMain(m *testing.M) {
	path := os.Getenv(configEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	c, err := keys.Load(path)
	if from := os.Getenv(restoreEnv); err == nil && from != "" {
		var backup []byte
		if backup, err = os.ReadFile(from); err == nil {
			_, err = keys.Restore(c, keys.Environment{Now: time.Now, Getenv: os.Getenv}, backup, true)
		}
	} else if err == nil {
		err = keys.Run(ctx, c, logger)
	}
	if err != nil {
		logger.Error("end", "error", err)
		os.Exit(1)
	}
}

// process is a world whose key keeper is a process of its own, with files that outlive it.
type process struct {
	*world
	config  string
	pool    *x509.CertPool
	cmd     *exec.Cmd
	address string
}

func newProcess(t *testing.T) *process { return newProcessWith(t, func(*keys.Config) {}) }

func newProcessWith(t *testing.T, change func(*keys.Config)) *process {
	t.Helper()
	w := newWorld(t)
	change(&w.cfg)
	w.realTime = true
	p := &process{world: w, pool: x509.NewCertPool()}
	dir := t.TempDir()
	w.cfg.StateDir = filepath.Join(dir, "state")
	w.cfg.Listen = "127.0.0.1:0"
	w.cfg.Identity.Audiences = []string{"https://" + suffix + ":" + w.port} // what challenges name, since clients call this port
	w.cfg.TLS = keys.TLS{Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	key := rsaKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{suffix, "*." + suffix}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.Marshal(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.config = filepath.Join(dir, "config.yaml")
	for path, b := range map[string][]byte{
		w.cfg.TLS.Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		w.cfg.TLS.Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		p.config:              raw,
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(cert)
	w.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, p.address)
		}}}
	return p
}

// start starts the key keeper, which dies at a failpoint where one is named and the build has them.
func (p *process) start(failpoint string) {
	p.t.Helper()
	p.startAs(exec.Command(os.Args[0]), failpoint)
}

func (p *process) startAs(cmd *exec.Cmd, failpoint string) {
	p.t.Helper()
	p.cmd = cmd
	p.cmd.Env = append(os.Environ(), configEnv+"="+p.config, "CLOISTER_FAILPOINT="+failpoint)
	out, err := p.cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	var log []string
	for lines.Scan() {
		log = append(log, lines.Text())
		var line struct{ Msg, Address string }
		if err := json.Unmarshal(lines.Bytes(), &line); err == nil && line.Msg == "key keeper listens" {
			p.address = line.Address
			go func() {
				for lines.Scan() { // the pipe must not fill up
				}
			}()
			return
		}
	}
	p.t.Fatalf("the key keeper did not start: %v", log)
}

func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("SIGTERM is a clean end: %v", err)
	}
}

func (p *process) client() *client.Client {
	p.t.Helper()
	raw, err := os.ReadFile(filepath.Join(p.cfg.StateDir, keys.SigningKeysFile))
	if err != nil {
		p.t.Fatal(err)
	}
	var k struct{ SigningKeys []initdata.SigningKey }
	if err := json.Unmarshal(raw, &k); err != nil {
		p.t.Fatal(err)
	}
	return client.New(client.Options{URL: p.url("main"), HTTP: p.http, Signers: k.SigningKeys, Bearer: func(context.Context) (string, error) { return p.vm(vmID), nil }})
}

func TestProcess(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.start("")
	if r := p.call("GET", "main", "/healthz", "", ""); r.status != 200 || r.body != "ok" {
		t.Errorf("health: %d %s", r.status, r.body)
	}
	p.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	if _, err := p.client().Open(t.Context(), openRequest(p.world, &key.PublicKey, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.client().Confirm(t.Context(), confirmRequest(p.world, &key.PublicKey, 1, 1)); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.start("")
	if _, err := p.client().Open(t.Context(), openRequest(p.world, &key.PublicKey, 1, 2)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	p.stop()
}
