package api

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/attest/policysign"
	"cloister.dev/cloister/attest/policystore"
	"cloister.dev/cloister/attest/translog"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity"
)

// The actions of policy calls.
const (
	actionRead  = "Microsoft.Attestation/attestationProviders/read"
	actionWrite = "Microsoft.Attestation/attestationProviders/write"
)

// maxPolicyJWS bounds the body of a policy call, in bytes.
const maxPolicyJWS = 256 << 10

func (p *Provider) policyRoute(method, path string) (string, handler) {
	name, ok := strings.CutPrefix(path, "policies/")
	if !ok {
		return p.certificatesRoute(method, path)
	}
	for _, kind := range claims.Kinds {
		switch {
		case name == string(kind) && method == http.MethodGet:
			return "policies get", p.policyCall(actionRead, p.getPolicy, kind)
		case name == string(kind) && method == http.MethodPut:
			return "policies put", p.policyCall(actionWrite, p.setPolicy, kind)
		case name == string(kind)+":reset" && method == http.MethodPost:
			return "policies reset", p.policyCall(actionWrite, p.resetPolicy, kind)
		}
	}
	return "other", nil
}

type policyHandler func(s *Server, kind claims.Kind, who *identity.Principal, jws string) (map[string]any, error)

func (p *Provider) policyCall(action string, h policyHandler, kind claims.Kind) handler {
	return p.managed(action, func(s *Server, who *identity.Principal, jws string) (map[string]any, error) {
		return h(s, kind, who, jws)
	})
}

// managed signs the caller in, checks the role, and answers with a signed token: calls about policies and their signers.
func (p *Provider) managed(action string, h func(s *Server, who *identity.Principal, jws string) (map[string]any, error)) handler {
	return func(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
		who, err := p.signIn(w, r, s, action)
		if err != nil {
			return err
		}
		if err := checkVersion(r); err != nil {
			return err
		}
		if len(body) > maxPolicyJWS {
			return evidence.Refuse(evidence.CodeParse, "policy JWS", fmt.Sprintf("%d bytes", len(body)), fmt.Sprintf("at most %d", maxPolicyJWS))
		}
		out, err := h(s, who, string(body))
		if err != nil {
			return err
		}
		if err := p.Issuer.Stamp(out, s.now(), issuer.PolicyLife); err != nil {
			return err
		}
		token, err := p.Issuer.Sign(out)
		if err != nil {
			return err
		}
		return answer(w, client.WireToken{Token: token})
	}
}

func (p *Provider) signIn(w http.ResponseWriter, r *http.Request, s *Server, action string) (*identity.Principal, error) {
	if p.Identity == nil || p.Roles == nil {
		return nil, evidence.Refuse(evidence.CodeAuthz, "identity", "no issuer is configured", "identity in the configuration, for policy calls")
	}
	who, err := p.Identity.FromRequest(r, s.now())
	if err != nil {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization_uri=%q, resource=%q", p.SignIn, "https://attest.azure.net"))
		return nil, err
	}
	if err := p.Roles.Allowed(who, action, p.Scope); err != nil {
		return nil, forbidden{err}
	}
	return who, nil
}

func (p *Provider) getPolicy(_ *Server, kind claims.Kind, _ *identity.Principal, _ string) (map[string]any, error) {
	stored, ok := p.Policies.Get(string(kind))
	if !ok {
		var err error
		if stored.JWS, err = client.PolicyJWS(claims.DefaultPolicy(kind)); err != nil {
			return nil, err
		}
	}
	return map[string]any{"x-ms-policy": stored.JWS}, nil
}

func (p *Provider) setPolicy(s *Server, kind claims.Kind, who *identity.Principal, jws string) (map[string]any, error) {
	text, signer, err := p.acceptPolicy(jws, kind, s.now())
	e := translog.Entry{Time: s.now().UTC(), Issuer: p.Issuer.URL(), Kind: string(kind), Caller: who.ObjectID}
	if err != nil {
		return nil, p.policyRefused(e, err)
	}
	e.Event, e.Policy, e.Text = "policy-set", policy.Hash(text), text
	err = p.Policies.Set(string(kind), policystore.Policy{JWS: jws, Text: text, By: who.ObjectID, Time: s.now().UTC()}, func() error { return p.Log.Append(e) })
	if err != nil {
		return nil, err
	}
	s.log.Info("policy set", "kind", kind, "issuer", p.Issuer.URL(), "policyHash", e.Policy, "by", who.ObjectID)
	out := map[string]any{"x-ms-policy-result": "Updated", "x-ms-policy-token-hash": tokenHash(jws)}
	if signer != nil {
		out["x-ms-policy-signer"] = policysign.JWK(signer)
	}
	return out, nil
}

// tokenHash is SHA-256 of a policy's JWS as it was sent, its dots included.
func tokenHash(jws string) string {
	sum := sha256.Sum256([]byte(jws))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (p *Provider) policyRefused(e translog.Entry, err error) error {
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		e.Event, e.Refused = "policy-refused", shown(refusal)
		if logErr := p.Log.Append(e); logErr != nil {
			return errors.Join(err, logErr)
		}
	}
	return err
}

// trusted reads a document about policies and checks its signature by the issuer's trust mode. Isolated: a signer on the list
// must have made it. AAD: who may set policies is decided by the caller's role; a signature must hold, whoever made it.
func (p *Provider) trusted(jws string, at time.Time) (*policysign.Document, error) {
	doc, err := policysign.Read(jws)
	if err != nil {
		return nil, policyText{err}
	}
	switch {
	case p.TrustMode == TrustIsolated && p.SignerList == nil:
		return nil, evidence.Refuse(evidence.CodePolicy, "policy signers", "none", "a list of certificates")
	case p.TrustMode == TrustIsolated && !doc.Signed:
		return nil, invalidOperation{evidence.Refuse(evidence.CodeChain, "policy JWS", "unsigned JWS, but the issuer is configured with signing certificates", "a JWS signed by one of them")}
	case p.TrustMode == TrustIsolated:
		err = doc.Verify(p.SignerList.List(), at)
	case doc.Signed:
		err = doc.CheckSignature()
	}
	if err != nil {
		return nil, invalidOperation{err}
	}
	return doc, nil
}

// acceptPolicy reads a policy's JWS and gives its text and, where it is signed, the signer.
func (p *Provider) acceptPolicy(jws string, kind claims.Kind, at time.Time) (string, *x509.Certificate, error) {
	doc, err := p.trusted(jws, at)
	if err != nil {
		return "", nil, err
	}
	text, err := client.PayloadPolicy(doc.Payload)
	if err != nil {
		return "", nil, policyText{err}
	}
	parsed, err := policy.Parse(text)
	if err != nil {
		return "", nil, policyText{err}
	}
	if err := parsed.Check(claims.Schema(kind)); err != nil {
		return "", nil, policyText{err}
	}
	return text, doc.Signer(), nil
}

func (p *Provider) resetPolicy(s *Server, kind claims.Kind, who *identity.Principal, jws string) (map[string]any, error) {
	doc, err := p.trusted(jws, s.now())
	if err != nil {
		return nil, err
	}
	if len(doc.Payload) > 0 {
		return nil, policyText{evidence.Refuse(evidence.CodeParse, "policy JWS", "a payload", "an empty payload")}
	}
	e := translog.Entry{Time: s.now().UTC(), Issuer: p.Issuer.URL(), Kind: string(kind), Caller: who.ObjectID,
		Event: "policy-reset", Policy: policy.Hash(claims.DefaultPolicy(kind))}
	if err := p.Policies.Reset(string(kind), func() error { return p.Log.Append(e) }); err != nil {
		return nil, err
	}
	s.log.Info("policy reset", "kind", kind, "issuer", p.Issuer.URL(), "by", who.ObjectID)
	return map[string]any{"x-ms-policy-result": "Removed"}, nil
}
