package attest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cloister.dev/cloister/attest/akca"
	"cloister.dev/cloister/attest/api"
	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/challenge"
	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/policystore"
	"cloister.dev/cloister/attest/translog"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/identity"
)

// shutdownTime is how long requests under way may still take when the service ends.
const shutdownTime = 10 * time.Second

// advanceEvery is how often the schedule of signing keys is looked at. Which key signs is decided by the time of
// each token, not by this.
const advanceEvery = time.Minute

// Service is the service with its state open.
type Service struct {
	Handler   http.Handler
	log       *translog.Log
	stateDir  string
	end       func() error // of the challenges' store
	providers []*api.Provider
	// collateral is nil where the configuration has none.
	collateral *collateral.Cache
}

// Open readies the service: it reads or makes keys, opens policies and the log, and checks the whole
// configuration, files included. It publishes each issuer's public keys in StateDir/<name>.public.json, in
// the form that init data pins: the key in use, the next one, and those whose tokens still live.
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
	s := &Service{log: log, stateDir: c.StateDir}
	challenges := c.Challenges
	if challenges == nil {
		challenges = &defaultChallenges
	}
	nonces, end, err := challenges.stores(context.Background())
	if err != nil {
		return nil, err
	}
	s.end = end
	if err := s.open(c, now, logger, challenges, nonces); err != nil {
		return nil, errors.Join(err, end())
	}
	return s, nil
}

func (s *Service) open(c Config, now func() time.Time, logger *slog.Logger, challenges *Challenges, nonces func(string) challenge.Store) error {
	if c.Collateral != nil {
		o := c.Collateral.Options()
		o.Now = now
		var err error
		if s.collateral, err = collateral.Open(o); err != nil {
			return fmt.Errorf("collateral: %w", err)
		}
	}
	software := map[string]appraise.SoftwareRoots{} // by instance
	var all appraise.SoftwareRoots
	for _, i := range c.issuers() {
		if i.Software == nil {
			continue
		}
		list, err := i.Software.roots()
		if err != nil {
			return fmt.Errorf("%s: %w", i.field, err)
		}
		software[i.Name] = list
		all.SEVSNP, all.TDX = append(all.SEVSNP, list.SEVSNP...), append(all.TDX, list.TDX...)
	}
	for _, i := range c.issuers() {
		judge, err := evaluator(i, s.collateral, software[i.Name], all)
		if err != nil {
			return fmt.Errorf("%s: %w", i.field, err)
		}
		p, err := newProvider(c, i, judge, s.log, now())
		if err != nil {
			return fmt.Errorf("%s: %w", i.field, err)
		}
		if p.Challenges, err = challenges.challenges(nonces(i.Name)); err != nil {
			return fmt.Errorf("%s: %w", i.field, err)
		}
		s.providers = append(s.providers, p)
	}
	h, err := api.New(now, logger, s.providers...)
	if err != nil {
		return err
	}
	s.Handler = h
	return nil
}

// evaluator makes what judges for one issuer: own are its software roots, all those that the installation has.
func evaluator(i placed, cache *collateral.Cache, own, all appraise.SoftwareRoots) (api.Evaluator, error) {
	switch {
	case i.External != nil:
		return i.External.verifier()
	case i.Hardware != nil:
		roots, err := i.Hardware.roots(cache, all)
		return appraise.New(roots), err
	}
	return appraise.New(appraise.Software(own)), nil
}

// roots reads the files that a software issuer's configuration names.
func (s *Software) roots() (out appraise.SoftwareRoots, err error) {
	if out.SEVSNP, err = readRoots(s.Roots, soft.ParseRoot); err != nil {
		return out, err
	}
	out.TDX, err = readRoots(s.TDXRoots, soft.ParseTDXRoot)
	return out, err
}

func readRoots(files []string, parse func([]byte) (soft.Root, error)) ([]soft.Root, error) {
	var out []soft.Root
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("software root: %w", err)
		}
		root, err := parse(raw)
		if err != nil {
			return nil, fmt.Errorf("software root %s: %w", file, err)
		}
		out = append(out, root)
	}
	return out, nil
}

// roots reads the files that a hardware issuer's configuration names.
func (h *Hardware) roots(cache *collateral.Cache, software appraise.SoftwareRoots) (appraise.Roots, error) {
	var amd *appraise.AMDOptions
	if h.AMD != nil {
		amd = &appraise.AMDOptions{Floor: h.AMD.MinimumTCB.TCB(), RequireCRLs: *h.AMD.RequireRevocationLists}
		for _, file := range h.AMD.RevocationLists {
			list, err := readCRL(file)
			if err != nil {
				return appraise.Roots{}, fmt.Errorf("revocation list %s: %w", file, err)
			}
			amd.CRLs = append(amd.CRLs, list)
		}
		if cache != nil {
			amd.Lists = cache
		}
	}
	var intel *appraise.IntelOptions
	if h.Intel != nil {
		intel = &appraise.IntelOptions{Collateral: cache, MinimumEvaluation: h.Intel.MinimumEvaluationNumber}
		for _, s := range h.Intel.AcceptTCB {
			intel.Accept = append(intel.Accept, dcap.Status(s))
		}
	}
	return appraise.Hardware(amd, intel, software), nil
}

func readCRL(file string) (*x509.RevocationList, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(raw)
}

func newProvider(c Config, i placed, e api.Evaluator, log *translog.Log, now time.Time) (*api.Provider, error) {
	rotation, err := c.SigningKeys.rotation()
	if err != nil {
		return nil, err
	}
	p := &api.Provider{Name: i.Name, Evaluator: e, Log: log, Scope: i.scope, TrustMode: api.TrustAAD,
		Operators: api.Operators{IDs: c.Operators, Known: len(c.Operators) > 0 || i.Identity != nil}}
	if p.Issuer, err = issuer.Open(c.StateDir, i.Name, i.url(), rotation, now); err != nil {
		return nil, err
	}
	if p.Policies, err = policystore.Open(filepath.Join(c.StateDir, i.Name+".policies.json")); err != nil {
		return nil, err
	}
	if p.AKs, err = akca.Open(c.StateDir, i.Name+".ak-ca.pem", "Cloister vTPM CA of "+i.url(), now); err != nil {
		return nil, fmt.Errorf("AK CA: %w", err)
	}
	if i.TrustMode != "" {
		p.TrustMode = api.TrustMode(i.TrustMode)
	}
	if p.TrustMode == api.TrustIsolated {
		if p.SignerList, err = openSigners(filepath.Join(c.StateDir, i.Name+".policy-signers.json"), i.PolicySigners); err != nil {
			return nil, err
		}
	}
	if i.Identity != nil {
		v, err := identity.NewVerifier(*i.Identity)
		if err != nil {
			return nil, err
		}
		p.Identity, p.Roles, p.SignIn = v, i.Roles, i.Identity.Issuers[0].URL
	}
	return p, publish(c.StateDir, i.Name, p.Issuer, now)
}

func openSigners(path string, files []string) (*policystore.Signers, error) {
	var first []*x509.Certificate
	for _, file := range files {
		cert, err := readCertificate(file)
		if err != nil {
			return nil, fmt.Errorf("policy signer %s: %w", file, err)
		}
		first = append(first, cert)
	}
	return policystore.OpenSigners(path, first)
}

func readCertificate(file string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want one PEM block CERTIFICATE and nothing else")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Advance brings all signing keys to their schedule, and publishes keys that are new. When it fails for one issuer,
// that one goes on with the keys it has, and the others are still brought forward.
func (s *Service) Advance(now time.Time) error {
	var failed []error
	for _, p := range s.providers {
		changed, err := p.Issuer.Advance(now)
		if err == nil && changed {
			err = publish(s.stateDir, p.Name, p.Issuer, now)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	return errors.Join(failed...)
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

// keepKeys brings signing keys to their schedule until the context ends.
func (s *Service) keepKeys(ctx context.Context, logger *slog.Logger) {
	tick := time.NewTicker(advanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.Advance(now); err != nil {
				logger.Error("signing keys are behind their schedule", "error", err.Error())
			}
		}
	}
}

// Close ends the service's state.
func (s *Service) Close() error { return errors.Join(s.end(), s.log.Close()) }

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
	logger.Info("attestation service listening", "address", listener.Addr().String(), "issuers", len(s.providers))
	for _, i := range c.issuers() {
		if i.Software != nil {
			logger.Warn("a software issuer is on: its tokens protect from nothing on the host that holds the root's key", "issuer", i.url(), "root", string(evidence.RootSoftware))
		}
	}
	keeping, stopKeeping := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { s.keepKeys(keeping, logger) })
	if s.collateral != nil {
		kept.Go(func() {
			s.collateral.Run(keeping, func(err error) { logger.Warn("endorsements could not be brought up to date", "error", err.Error()) })
		})
	}
	defer func() { stopKeeping(); kept.Wait() }()
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
