package attest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/attest/akca"
	"cloister.dev/cloister/attest/api"
	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/policystore"
	"cloister.dev/cloister/attest/translog"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/identity"
)

// shutdownTime is how long requests under way may still take when the service ends.
const shutdownTime = 10 * time.Second

// Service is the service with its state open.
type Service struct {
	Handler http.Handler
	log     *translog.Log
}

// Open readies the service: it reads or makes keys, opens policies and the log, and checks the whole
// configuration, files included. It publishes each issuer's public key in StateDir/<name>.public.json, in
// the form that init data pins.
func Open(c Config, now func() time.Time, logger *slog.Logger) (*Service, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, err
	}
	log, err := translog.Open(filepath.Join(c.StateDir, "transparency.jsonl"))
	if err != nil {
		return nil, err
	}
	s, err := open(c, now, logger, log)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return s, nil
}

func open(c Config, now func() time.Time, logger *slog.Logger, log *translog.Log) (*Service, error) {
	var software []soft.Root
	if c.Software != nil {
		for _, file := range c.Software.Roots {
			raw, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("software root: %w", err)
			}
			root, err := soft.ParseRoot(raw)
			if err != nil {
				return nil, fmt.Errorf("software root %s: %w", file, err)
			}
			software = append(software, root)
		}
	}
	var providers []*api.Provider
	add := func(name, url string, e api.Evaluator) error {
		p, err := newProvider(c, name, url, e, log, now())
		providers = append(providers, p)
		return err
	}
	if c.Hardware != nil {
		o := appraise.AMDOptions{Floor: c.Hardware.MinimumTCB.floor(), RequireCRLs: *c.Hardware.RequireRevocationLists}
		for _, file := range c.Hardware.RevocationLists {
			list, err := readCRL(file)
			if err != nil {
				return nil, fmt.Errorf("revocation list %s: %w", file, err)
			}
			o.CRLs = append(o.CRLs, list)
		}
		if err := add("hardware", c.Hardware.Issuer, appraise.New(appraise.AMD(o, software))); err != nil {
			return nil, err
		}
	}
	if c.Software != nil {
		if err := add("software", c.Software.Issuer, appraise.New(appraise.Software(software))); err != nil {
			return nil, err
		}
	}
	h, err := api.New(now, logger, providers...)
	if err != nil {
		return nil, err
	}
	return &Service{Handler: h, log: log}, nil
}

func readCRL(file string) (*x509.RevocationList, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(raw)
}

func newProvider(c Config, name, url string, e api.Evaluator, log *translog.Log, now time.Time) (*api.Provider, error) {
	p := &api.Provider{Evaluator: e, Log: log}
	var err error
	if p.Issuer, err = issuer.Open(c.StateDir, name, url, issuer.Rotation{}, now); err != nil {
		return nil, err
	}
	if p.Policies, err = policystore.Open(filepath.Join(c.StateDir, name+".policies.json")); err != nil {
		return nil, err
	}
	if p.AKs, err = akca.Open(c.StateDir, name+".ak-ca.pem", "Cloister vTPM CA of "+url, now); err != nil {
		return nil, fmt.Errorf("AK CA %s: %w", name, err)
	}
	if c.Identity != nil {
		v, err := identity.NewVerifier(*c.Identity)
		if err != nil {
			return nil, err
		}
		p.Identity, p.Roles, p.SignIn = v, c.Roles, c.Identity.Issuers[0].URL
	}
	return p, publish(c.StateDir, name, p.Issuer, now)
}

func publish(dir, name string, i *issuer.Issuer, now time.Time) error {
	keys, err := i.PublishedKeys(now)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(initdata.Service{URL: i.URL(), SigningKeys: keys}, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name+".public.json")
	if err := os.WriteFile(path+".new", raw, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Close ends the service's state.
func (s *Service) Close() error { return s.log.Close() }

// Run serves until the context ends, then lets requests under way finish.
func Run(ctx context.Context, c Config, logger *slog.Logger) error {
	s, err := Open(c, time.Now, logger)
	if err != nil {
		return err
	}
	defer s.Close()
	cert, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: s.Handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	logger.Info("attestation service listening", "address", listener.Addr().String(), "hardware", c.Hardware != nil, "software", c.Software != nil)
	if c.Software != nil {
		logger.Warn("the software issuer is on: its tokens protect from nothing on the host that holds the root's key", "root", string(evidence.RootSoftware))
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err = server.Shutdown(stop)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	logger.Info("attestation service ended")
	return err
}
