package keys

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/keys/api"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/keystore/hsm"
	"cloister.dev/cloister/keys/release"
)

// SigningKeysFile, in the state folder, holds what init data pin: the key that signs answers. It is also
// answered at SigningKeysPath, where it proves nothing by itself.
const (
	AuditFile       = "audit.jsonl" // in the state folder
	AuditHeadsFile  = "audit.heads" // beside it: signed heads, a compact JWS on each line
	SigningKeysFile = "signing-keys.json"
	SigningKeysPath = "/cloister/signing-keys"
)

// SigningKeys is the form of SigningKeysFile.
type SigningKeys struct {
	SigningKeys  []initdata.SigningKey `json:"signingKeys"`
	Certificates string                `json:"certificates"` // PEM, leaf first
}

// Service is the key keeper with its files open.
type Service struct {
	handler http.Handler
	api     *api.Server
	backend keystore.Backend
	audit   *audit.Log
	public  SigningKeys
}

// Environment is what a service takes from outside besides its configuration.
type Environment struct {
	Now    func() time.Time
	Getenv func(string) string
	Cost   keystore.Cost // of a new keystore; zero: the default
	Audit  api.Auditor   // nil: audit.jsonl in the state folder
}

// New opens the files and makes the service.
func New(ctx context.Context, c Config, env Environment, logger *slog.Logger) (_ *Service, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	authorities, err := c.authorities()
	if err != nil {
		return nil, err
	}
	verifier, err := c.verifier()
	if err != nil {
		return nil, err
	}
	s := &Service{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	if s.backend, err = openKeystore(c, env, logger); err != nil {
		return nil, err
	}
	if env.Audit == nil {
		if s.audit, err = audit.Open(filepath.Join(c.StateDir, AuditFile), env.Now); err != nil {
			return nil, err
		}
		env.Audit = s.audit
	}
	signer, err := responseSigner(ctx, s.backend, c.Suffix, env.Now())
	if err != nil {
		return nil, err
	}
	if err := s.publish(signer, c.StateDir); err != nil {
		return nil, err
	}
	if s.audit != nil {
		if err := s.audit.SignHeads(filepath.Join(c.StateDir, AuditHeadsFile), signer.Sign); err != nil {
			return nil, err
		}
	}
	declared, err := c.declared()
	if err != nil {
		return nil, err
	}
	signIn, err := c.signIn(env.Now)
	if err != nil {
		return nil, err
	}
	tenants, err := c.tenants()
	if err != nil {
		return nil, err
	}
	requests := c.Throttle.RequestsPer10Seconds
	if requests == 0 {
		requests = api.DefaultRequests
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector())
	s.api, err = api.New(api.Options{
		Backend: s.backend, Identity: verifier, Roles: c.Roles, Authorities: authorities, Audit: env.Audit, Signer: signer,
		Vaults: declared, Tenants: tenants, Suffix: c.Suffix, SignIn: c.Identity.SignIn, Operators: c.Operators, Requests: requests,
		Now: env.Now, Log: logger, Registry: registry,
	})
	if err != nil {
		return nil, err
	}
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not a ServeMux: it would redirect the paths with empty segments that Key Vault's clients send.
		switch {
		case r.URL.Path == "/healthz" && r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ok")
		case r.URL.Path == "/metrics" && r.Method == http.MethodGet:
			metrics.ServeHTTP(w, r)
		case r.URL.Path == SigningKeysPath && r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			if err := json.NewEncoder(w).Encode(s.public); err != nil {
				logger.Debug("client went away", "error", err)
			}
		case signIn != nil && signIn.serves(r):
			signIn.ServeHTTP(w, r)
		default:
			s.api.ServeHTTP(w, r)
		}
	})
	return s, nil
}

// Handler answers all paths of the service.
func (s *Service) Handler() http.Handler { return s.handler }

// SigningKeys are the keys that sign answers.
func (s *Service) SigningKeys() []initdata.SigningKey { return s.public.SigningKeys }

// Sweep does what is due: rotations, the destruction of keys whose time as deleted keys is over, and a head of the audit log.
func (s *Service) Sweep(ctx context.Context) error {
	err := s.api.Sweep(ctx)
	if s.audit != nil {
		err = errors.Join(err, s.audit.Head())
	}
	return err
}

// Close closes the files.
func (s *Service) Close() error {
	var errs []error
	// The log first: its last head is signed by a key of the backend.
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	if s.backend != nil {
		errs = append(errs, s.backend.Close())
	}
	return errors.Join(errs...)
}

func openKeystore(c Config, env Environment, logger *slog.Logger) (keystore.Backend, error) {
	records, err := openRecords(c, env)
	if err != nil {
		return nil, err
	}
	if c.Keystore.PKCS11 == nil {
		return records, nil
	}
	p := *c.Keystore.PKCS11
	pin, err := p.pin(env.Getenv)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	b, err := hsm.Open(hsm.Config{Module: p.Module, Token: p.Token, PIN: pin, InMemory: p.InMemory, Sessions: p.Sessions}, records)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	logger.Info("key material is in a PKCS #11 token", "token", p.Token, "inMemory", b.Instead())
	return b, nil
}

func openRecords(c Config, env Environment) (*keystore.Software, error) {
	pass, err := c.Keystore.passphrase(env.Getenv)
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	cost := env.Cost
	if cost == (keystore.Cost{}) {
		cost = keystore.DefaultCost
	}
	return keystore.OpenSoftware(c.files(), pass, cost)
}

// responseID is the record of the key that signs answers. No vault has an empty name.
var responseID = keystore.ID{Name: "response-key"}

// responseSigner finds the response key, or makes it at the first start.
func responseSigner(ctx context.Context, b keystore.Backend, name string, at time.Time) (*release.Signer, error) {
	k, err := b.Get(ctx, responseID)
	if errors.Is(err, keystore.ErrNotFound) {
		k, err = makeResponseKey(ctx, b, name, at)
	}
	if err != nil {
		return nil, fmt.Errorf("response key: %w", err)
	}
	v := k.Latest()
	if v == nil {
		return nil, errors.New("response key: no version")
	}
	pub, err := x509.ParsePKIXPublicKey(v.Material.Public)
	if err != nil {
		return nil, fmt.Errorf("response key: %w", err)
	}
	rsaPub, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("response key: %T", pub)
	}
	var chain [][]byte
	for _, part := range []string{"leaf", "issuer", "root"} {
		chain = append(chain, k.Extra[part])
	}
	address := keystore.Address{Key: responseID, Version: v.ID}
	return release.NewSigner(release.ResponseKey{Public: rsaPub, Sign: func(digest []byte) ([]byte, error) {
		return b.Sign(context.Background(), address, v.Material, "RS256", digest)
	}}, chain)
}

func makeResponseKey(ctx context.Context, b keystore.Backend, name string, at time.Time) (*keystore.Key, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	v := keystore.Version{ID: hex.EncodeToString(raw), Spec: keystore.Spec{Kty: "RSA", Bits: 2048}, Enabled: true, Created: at.UTC(), Updated: at.UTC()}
	var err error
	if v.Material, err = b.Generate(ctx, keystore.Address{Key: responseID, Version: v.ID}, v.Spec); err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(v.Material.Public)
	if err != nil {
		return nil, err
	}
	rsaPub, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("made a %T", pub)
	}
	chain, err := release.NewSignerChain(rsaPub, name, at)
	if err != nil {
		return nil, err
	}
	k := &keystore.Key{ID: responseID, Versions: []keystore.Version{v}, Extra: map[string][]byte{"leaf": chain[0], "issuer": chain[1], "root": chain[2]}}
	return k, b.Update(ctx, responseID, func(*keystore.Key) (*keystore.Key, error) { return k, nil })
}

// publish writes the public half for whoever sets the installation up.
func (s *Service) publish(signer *release.Signer, dir string) error {
	pub, err := signer.Public()
	if err != nil {
		return err
	}
	s.public = SigningKeys{SigningKeys: []initdata.SigningKey{pub}, Certificates: string(signer.CertificatesPEM())}
	raw, err := json.MarshalIndent(s.public, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, SigningKeysFile)
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("publishing the signing keys: %w", err)
	}
	return os.Rename(path+".new", path)
}

// The limits of a connection.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 15 * time.Second
	sweepEvery    = time.Hour
)

// Run serves until the context ends, and then lets requests that are under way finish.
func Run(ctx context.Context, c Config, logger *slog.Logger) (err error) {
	harden(logger)
	s, err := New(ctx, c, Environment{Now: time.Now, Getenv: os.Getenv}, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	cert, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		return fmt.Errorf("loading the TLS certificate: %w", err)
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: bodyTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ErrorLog:  log.New(io.Discard, "", 0), // handshakes that strangers break off say nothing about the service
	}
	logger.Info("key keeper listens", "address", l.Addr().String(), "vaults", c.Vaults, "pools", c.Pools, "suffix", c.Suffix)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			logger.Error("destroying keys whose time is over", "error", err)
		}
		select {
		case err := <-done:
			return fmt.Errorf("serving: %w", err)
		case <-sweep.C:
		case <-ctx.Done():
			logger.Info("key keeper ends")
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
			defer cancel()
			return srv.Shutdown(drain)
		}
	}
}
