package host

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/internal/localhost"
	"cloister.dev/cloister/internal/pemkey"
)

var afterJoin = failpoint.New("host/certificate")

// renewBefore is how long before its end a certificate is renewed.
const renewBefore = 7 * 24 * time.Hour

// Connect opens the agent's connection: it joins with the one-time token the first time, and shows its certificate
// from then on.
func Connect(ctx context.Context, c Config, now func() time.Time) (*api.Client, error) {
	roots, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("control plane's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("control plane's CA: %s holds no certificate", c.CAFile)
	}
	certFile, keyFile := filepath.Join(c.StateDir, "agent.crt"), filepath.Join(c.StateDir, "agent.key")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if cert, err = join(ctx, c, pool, certFile, keyFile); err != nil {
			return nil, fmt.Errorf("joining: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("agent certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("agent certificate: %w", err)
	}
	client := api.NewClient(c.ControlPlane, httpClient(pool, &cert))
	if now().Before(leaf.NotAfter.Add(-renewBefore)) {
		return client, nil
	}
	if cert, err = renew(ctx, c, client, certFile, keyFile); err != nil {
		return nil, fmt.Errorf("renewing the agent's certificate, which ends %s: %w", leaf.NotAfter.UTC().Format(time.RFC3339), err)
	}
	return api.NewClient(c.ControlPlane, httpClient(pool, &cert)), nil
}

func httpClient(pool *x509.CertPool, cert *tls.Certificate) *http.Client {
	t := localhost.Transport()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if cert != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*cert}
	}
	return &http.Client{Transport: t}
}

func join(ctx context.Context, c Config, pool *x509.CertPool, certFile, keyFile string) (tls.Certificate, error) {
	token, err := os.ReadFile(c.JoinTokenFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("one-time token: %w", err)
	}
	// The key is kept before the token is spent: should this agent die in between, the same key and token join again.
	key, err := keptKey(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	csr, err := request(c.Name, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	answer, err := api.NewClient(c.ControlPlane, httpClient(pool, nil)).Join(ctx, api.JoinRequest{Token: strings.TrimSpace(string(token)), CSR: csr})
	if err != nil {
		return tls.Certificate{}, err
	}
	return store(answer, key, certFile, keyFile)
}

func keptKey(path string) (*ecdsa.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		text, err := pemkey.Marshal(key)
		if err != nil {
			return nil, err
		}
		return key, write(path, text)
	}
	if err != nil {
		return nil, err
	}
	key, err := pemkey.Parse[*ecdsa.PrivateKey](raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// write replaces a file so that a crash leaves the old or the new one.
func write(path string, content []byte) error {
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

func renew(ctx context.Context, c Config, client *api.Client, certFile, keyFile string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	csr, err := request(c.Name, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	answer, err := client.Renew(ctx, api.RenewRequest{CSR: csr})
	if err != nil {
		return tls.Certificate{}, err
	}
	return store(answer, key, certFile, keyFile)
}

// request makes a certificate request for a key.
func request(name string, key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// store keeps what was given.
func store(answer *api.JoinResponse, key *ecdsa.PrivateKey, certFile, keyFile string) (tls.Certificate, error) {
	keyPEM, err := pemkey.Marshal(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	for _, f := range []struct {
		path    string
		content []byte
	}{{keyFile, keyPEM}, {certFile, []byte(answer.Certificate)}} {
		if err := write(f.path, f.content); err != nil {
			return tls.Certificate{}, err
		}
	}
	afterJoin.Hit()
	return tls.X509KeyPair([]byte(answer.Certificate), keyPEM)
}
