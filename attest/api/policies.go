package api

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/policy"
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
		return "other", nil
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

// policyCall signs the caller in, checks the role, and answers with a signed token.
func (p *Provider) policyCall(action string, h policyHandler, kind claims.Kind) handler {
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
		if p.TrustMode != TrustAAD && action == actionWrite {
			return evidence.Refuse(evidence.CodeUnsupported, "trust mode", string(p.TrustMode), string(TrustAAD)+": signed policies are not supported")
		}
		out, err := h(s, kind, who, string(body))
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
	text, err := acceptPolicy(jws, kind)
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
	sum := sha256.Sum256([]byte(jws))
	return map[string]any{"x-ms-policy-result": "Updated", "x-ms-policy-token-hash": base64.RawURLEncoding.EncodeToString(sum[:])}, nil
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

// acceptPolicy reads a policy's JWS as Azure's service does without signer certificates: signed or
// unsigned. Who may set a policy is decided by the caller's role; a signature inside is not looked at,
// and so is refused rather than taken for checked.
func acceptPolicy(jws string, kind claims.Kind) (string, error) {
	head, err := joseHeader(jws)
	if err != nil {
		return "", policyText{err}
	}
	if head["alg"] != "none" || !strings.HasSuffix(jws, ".") {
		return "", policyText{evidence.Refuse(evidence.CodeUnsupported, "policy JWS alg", fmt.Sprint(head["alg"]), "none: signed policies are not supported")}
	}
	text, err := client.PolicyText(jws)
	if err != nil {
		return "", policyText{err}
	}
	parsed, err := policy.Parse(text)
	if err != nil {
		return "", policyText{err}
	}
	if err := parsed.Check(claims.Schema(kind)); err != nil {
		return "", policyText{err}
	}
	return text, nil
}

func (p *Provider) resetPolicy(s *Server, kind claims.Kind, who *identity.Principal, jws string) (map[string]any, error) {
	head, err := joseHeader(jws)
	if err != nil {
		return nil, policyText{err}
	}
	if parts := strings.Split(jws, "."); head["alg"] != "none" || parts[1] != "" || parts[2] != "" {
		return nil, policyText{evidence.Refuse(evidence.CodeParse, "policy JWS", "a payload or a signature", `{"alg":"none"} and an empty payload`)}
	}
	e := translog.Entry{Time: s.now().UTC(), Issuer: p.Issuer.URL(), Kind: string(kind), Caller: who.ObjectID,
		Event: "policy-reset", Policy: policy.Hash(claims.DefaultPolicy(kind))}
	if err := p.Policies.Reset(string(kind), func() error { return p.Log.Append(e) }); err != nil {
		return nil, err
	}
	s.log.Info("policy reset", "kind", kind, "issuer", p.Issuer.URL(), "by", who.ObjectID)
	return map[string]any{"x-ms-policy-result": "Removed"}, nil
}
