// Package api serves the attestation service over HTTP: Azure's paths, and ours beside them.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
)

// Evaluator judges evidence for one issuer.
type Evaluator interface {
	SevSnpVM(context.Context, *request.SevSnpVM, time.Time) (*appraise.Result, error)
	TdxVM(context.Context, *request.TdxVM, time.Time) (*appraise.Result, error)
	Guest(context.Context, *request.Guest, time.Time) (*appraise.Result, error)
	AK(context.Context, *request.AK, time.Time) (*appraise.AK, error)
}

// Identity says who calls.
type Identity interface {
	FromRequest(r *http.Request, at time.Time) (*identity.Principal, error)
}

// Roles say what a caller may do.
type Roles interface {
	Allowed(p *identity.Principal, action, scope string) error
}

// Server serves all issuers of one process.
type Server struct {
	providers []*Provider // longest path first
	now       func() time.Time
	log       *slog.Logger
	metrics   *metrics
	admission *admission
}

// New makes a server of providers, whose issuer URLs differ in their paths.
func New(now func() time.Time, log *slog.Logger, providers ...*Provider) (*Server, error) {
	if len(providers) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "issuers", "none", "at least one")
	}
	s := &Server{providers: slices.Clone(providers), now: now, log: log, admission: newAdmission()}
	s.metrics = newMetrics(s.admission)
	seen := map[string]bool{}
	for _, p := range s.providers {
		u, err := url.Parse(p.Issuer.URL())
		if err != nil {
			return nil, err
		}
		p.path = strings.TrimSuffix(u.Path, "/")
		if seen[p.path] {
			return nil, evidence.Refuse(evidence.CodePolicy, "issuers", "two with the path "+p.path, "a path of its own for each")
		}
		seen[p.path] = true
	}
	slices.SortFunc(s.providers, func(a, b *Provider) int { return len(b.path) - len(a.path) })
	return s, nil
}

// ServeHTTP routes a request. A panic answers 500 and never takes the service down.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	start := s.now()
	route := "other"
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("request failed", "route", route, "panic", fmt.Sprint(p))
			s.fail(rec, errors.New("internal error"))
		}
		s.metrics.observe(route, rec.status, s.now().Sub(start))
	}()
	w.Header().Set("x-ms-request-id", requestID())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch r.URL.Path {
	case "/healthz":
		route = "healthz"
		rec.WriteHeader(http.StatusOK)
		_, _ = rec.Write([]byte("ok"))
		return
	case "/metrics":
		route = "metrics"
		s.metrics.handler.ServeHTTP(rec, r)
		return
	}
	for _, p := range s.providers {
		rest, ok := strings.CutPrefix(r.URL.Path, p.path+"/")
		if !ok {
			continue
		}
		var h handler
		if route, h = p.route(r.Method, rest); h == nil {
			break
		}
		s.serve(rec, r, h)
		return
	}
	s.refuse(rec, http.StatusNotFound, "NotFound", evidence.Refuse(evidence.CodeParse, "path", r.URL.Path, "a path of this service, with its method"))
}

// handler answers one request whose body was read.
type handler func(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error

func (s *Server) serve(w http.ResponseWriter, r *http.Request, h handler) {
	body, release, err := s.admission.read(w, r)
	defer release()
	if err == nil {
		err = s.judge(w, r, h, body)
	}
	if err != nil {
		s.fail(w, err)
	}
}

func (s *Server) judge(w http.ResponseWriter, r *http.Request, h handler, body []byte) error {
	done, err := s.admission.turn(r.Context())
	if err != nil {
		return err
	}
	defer done()
	return h(s, w, r, body)
}

// route finds the handler for a path below the issuer's URL. It compares whole texts, so that nothing in
// a path ever reaches a file name.
func (p *Provider) route(method, path string) (string, handler) {
	switch {
	case method == http.MethodGet && path == "certs":
		return path, p.certs
	case method == http.MethodGet && path == ".well-known/openid-configuration":
		return path, p.discovery
	case method == http.MethodPost && path == "attest/SevSnpVm":
		return path, p.attestSevSnpVM
	case method == http.MethodPost && path == "attest/TdxVm":
		return path, p.attestTdxVM
	case method == http.MethodPost && path == "attest/AzureGuest":
		return path, p.attestGuest
	case method == http.MethodPost && path == "cloister/challenges":
		return path, p.issueChallenge
	case method == http.MethodPost && path == "cloister/akcertificate":
		return path, p.akCertificate
	}
	return p.policyRoute(method, path)
}
