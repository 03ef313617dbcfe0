package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cloister.dev/cloister/attest/akca"
	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/challenge"
	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/attest/policystore"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/attest/translog"
	"cloister.dev/cloister/evidence"
)

// TrustMode says whose policies count; Azure's names.
type TrustMode string

// The trust modes.
const (
	TrustAAD      TrustMode = "AAD"      // those of callers with the role, signed or not
	TrustIsolated TrustMode = "Isolated" // those signed by a trusted signer, from callers with the role
)

// Provider is one issuer: a URL, its keys, the roots it stands for, and its own policies.
type Provider struct {
	Name       string // of its files and in its scope
	Scope      string // of the roles for policy calls
	TrustMode  TrustMode
	SignerList *policystore.Signers // whose keys may sign policies; TrustIsolated only
	Issuer     *issuer.Issuer
	Evaluator  Evaluator
	Policies   *policystore.Store
	Operators  Operators
	Log        *translog.Log
	AKs        *akca.CA
	// Challenges are the nonces that this issuer hands out.
	Challenges *challenge.Challenges
	Identity   Identity // nil: policy calls are refused
	Roles      Roles
	SignIn     string // URL of the sign-in authority, for WWW-Authenticate; may be empty

	path string
}

func (p *Provider) certs(s *Server, w http.ResponseWriter, _ *http.Request, _ []byte) error {
	return answer(w, p.Issuer.KeySet(s.now()))
}

func (p *Provider) discovery(_ *Server, w http.ResponseWriter, _ *http.Request, _ []byte) error {
	return answer(w, p.Issuer.Discovery(claims.Names()))
}

func (p *Provider) attestSevSnpVM(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
	return p.logged(s, string(claims.SevSnpVM), body, func(e *translog.Entry) error {
		if err := errors.Join(checkVersionSince(r, sinceSevSnpVM), checkMedia(r, "application/json")); err != nil {
			return err
		}
		in, err := request.ParseSevSnpVM(body)
		if err != nil {
			return err
		}
		got, err := p.Evaluator.SevSnpVM(r.Context(), in, s.now())
		if err != nil {
			return err
		}
		e.Root = got.Root()
		if err := p.redeem(s, r, got); err != nil {
			return err
		}
		if in.DraftPolicy != "" {
			return p.draft(s, w, e, got, in)
		}
		token, err := p.issue(claims.SevSnpVM, got, in.Nonce, s.now(), e)
		if err != nil {
			return err
		}
		return p.record(*e, func() error { return answer(w, client.WireToken{Token: token}) })
	})
}

func (p *Provider) attestTdxVM(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
	return p.logged(s, string(claims.TdxVM), body, func(e *translog.Entry) error {
		if err := errors.Join(checkVersionSince(r, sinceTdxVM), checkMedia(r, "application/json")); err != nil {
			return err
		}
		in, err := request.ParseTdxVM(body)
		if err != nil {
			return err
		}
		got, err := p.Evaluator.TdxVM(r.Context(), in, s.now())
		if err != nil {
			return err
		}
		e.Root = got.Root()
		if err := p.redeem(s, r, got); err != nil {
			return err
		}
		token, err := p.issue(claims.TdxVM, got, in.Nonce, s.now(), e)
		if err != nil {
			return err
		}
		return p.record(*e, func() error { return answer(w, client.WireToken{Token: token}) })
	})
}

func (p *Provider) attestGuest(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
	return p.logged(s, string(claims.AzureGuest), body, func(e *translog.Entry) error {
		if err := errors.Join(checkVersion(r), checkMedia(r, "application/json")); err != nil {
			return err
		}
		in, err := request.ParseGuest(body)
		if err != nil {
			return err
		}
		got, err := p.Evaluator.Guest(r.Context(), in, s.now())
		if err != nil {
			return err
		}
		e.Root = got.Root()
		if err := p.redeem(s, r, got); err != nil {
			return err
		}
		token, err := p.issue(claims.AzureGuest, got, "", s.now(), e)
		if err != nil {
			return err
		}
		if key := got.ReplyKey(); key != nil {
			if token, err = sealReply(token, key); err != nil {
				return err
			}
		}
		return p.record(*e, func() error { return answer(w, client.WireToken{Token: token}) })
	})
}

// akCertificate certifies a vTPM's attestation key. The policy of SevSnpVm decides, as it does for the
// token that the same VM needs to get its guest state.
func (p *Provider) akCertificate(s *Server, w http.ResponseWriter, r *http.Request, body []byte) error {
	return p.logged(s, "AKCertificate", body, func(e *translog.Entry) error {
		if err := errors.Join(checkOurVersion(r), checkMedia(r, "application/json")); err != nil {
			return err
		}
		in, err := request.ParseAK(body)
		if err != nil {
			return err
		}
		got, err := p.Evaluator.AK(r.Context(), in, s.now())
		if err != nil {
			return err
		}
		e.Root = got.Root()
		if _, _, err := p.permit(claims.SevSnpVM, got.Result, e); err != nil {
			return err
		}
		cert, err := p.AKs.Certify(got.Public(), got.VMID(), s.now())
		if err != nil {
			return err
		}
		sum := sha256.Sum256(cert)
		e.Event, e.Detail = "ak-certificate-issued", map[string]string{"vmId": got.VMID(), "certificateSHA256": hex.EncodeToString(sum[:])}
		return p.record(*e, func() error { return answer(w, client.WireAKReply{Certificate: cert, CA: p.AKs.Certificate()}) })
	})
}

// current is the policy that holds for an attestation type. One that was set unsigned, before the issuer became isolated, holds no
// longer, and the default doesn't take its place: somebody set it to refuse more. A signer has to say what shall be.
func (p *Provider) current(kind claims.Kind) (held, error) {
	stored, ok := p.Policies.Get(string(kind))
	if !ok {
		return held{claims.DefaultPolicy(kind), originDefault}, nil
	}
	if p.TrustMode == TrustIsolated && !stored.Signed() {
		return held{}, evidence.Refuse(evidence.CodePolicy, "policy", "one that was set unsigned, before the issuer was isolated", "one by a policy signer: set or reset it")
	}
	return held{stored.Text, p.originOf(stored)}, nil
}

// permit asks the policy.
func (p *Provider) permit(kind claims.Kind, got *appraise.Result, e *translog.Entry) (*policy.Outcome, held, error) {
	h, err := p.current(kind)
	if err != nil {
		return nil, h, err
	}
	e.Policy = policy.Hash(h.text)
	parsed, err := p.Policies.Compiled(string(kind), h.text)
	if err != nil {
		return nil, h, policyText{err}
	}
	outcome, err := evaluate(parsed, kind, got)
	return outcome, h, err
}

func evaluate(parsed *policy.Policy, kind claims.Kind, got *appraise.Result) (*policy.Outcome, error) {
	return parsed.Evaluate(policy.Flatten(got.Claims()), claims.Schema(kind))
}

// issue makes a token of genuine evidence that the policy permits.
func (p *Provider) issue(kind claims.Kind, got *appraise.Result, nonce string, now time.Time, e *translog.Entry) (string, error) {
	outcome, h, err := p.permit(kind, got, e)
	if err != nil {
		return "", err
	}
	members, life, err := assemble(got, outcome, h, nonce)
	if err != nil {
		return "", err
	}
	if err := p.Issuer.Stamp(members, now, life); err != nil {
		return "", err
	}
	e.Event, e.TokenID = "token-issued", members["jti"].(string)
	return p.Issuer.Sign(members)
}

// assemble puts a token's members together. The service's own come last, so that nothing of a policy
// can stand in their place.
func assemble(got *appraise.Result, outcome *policy.Outcome, h held, nonce string) (map[string]any, time.Duration, error) {
	members := policy.Object(outcome.Issued)
	for name, v := range got.Claims() {
		members[name] = v
	}
	members["x-ms-policy-hash"], members["x-ms-ver"], members["jti"] = policy.Hash(h.text), "1.0", issuer.NewID()
	members[claims.PolicyOrigin] = h.origin
	if nonce != "" {
		members["nonce"] = nonce
	}
	life := issuer.TokenLife
	for _, prop := range outcome.Properties {
		if prop.Type != "report_validity_in_minutes" {
			continue // omit_x5c: our tokens carry none in any case
		}
		minutes, ok := prop.Value.(int64)
		if !ok || minutes < 1 || minutes > 365*24*60 {
			return nil, 0, evidence.Refuse(evidence.CodePolicy, "report_validity_in_minutes", fmt.Sprint(prop.Value), "1 to 525600")
		}
		life = time.Duration(minutes) * time.Minute
	}
	return members, life, nil
}

// draft answers with what a policy would say. The token is unsecured: nobody may rely on it.
func (p *Provider) draft(s *Server, w http.ResponseWriter, e *translog.Entry, got *appraise.Result, in *request.SevSnpVM) error {
	text, err := client.PolicyText(in.DraftPolicy)
	if err != nil {
		return policyText{err}
	}
	parsed, err := policy.Parse(text)
	if err != nil {
		return policyText{err}
	}
	outcome, err := evaluate(parsed, claims.SevSnpVM, got)
	if err != nil {
		return err
	}
	members, life, err := assemble(got, outcome, held{text, originDraft}, in.Nonce)
	if err != nil {
		return err
	}
	if err := p.Issuer.Stamp(members, s.now(), life); err != nil {
		return err
	}
	token, err := issuer.Unsecured(members)
	if err != nil {
		return err
	}
	e.Event, e.Policy, e.TokenID = "draft-evaluated", policy.Hash(text), members["jti"].(string)
	return p.record(*e, func() error { return answer(w, client.WireToken{Token: token}) })
}

// record writes the log and only then answers: what cannot be logged is not given out.
func (p *Provider) record(e translog.Entry, then func() error) error {
	if err := p.Log.Append(e); err != nil {
		return fmt.Errorf("%w: %w", evidence.Refuse(evidence.CodeUnavailable, "transparency log", "not writable", "a written entry"), err)
	}
	return then()
}

// logged runs a judgement and logs its refusal.
func (p *Provider) logged(s *Server, kind string, body []byte, judge func(*translog.Entry) error) error {
	sum := sha256.Sum256(body)
	e := translog.Entry{Time: s.now().UTC(), Issuer: p.Issuer.URL(), Kind: kind, Request: hex.EncodeToString(sum[:])}
	err := judge(&e)
	if err == nil {
		s.metrics.tokens.WithLabelValues(kind, string(e.Root), "issued").Inc()
		return nil
	}
	var refusal *evidence.Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	s.metrics.tokens.WithLabelValues(kind, string(e.Root), string(refusal.Code)).Inc()
	e.Event, e.TokenID, e.Detail, e.Refused = "token-refused", "", nil, shown(refusal)
	if kind == "AKCertificate" {
		e.Event = "ak-certificate-refused"
	}
	if logErr := p.Log.Append(e); logErr != nil {
		s.log.Error("a refusal could not be logged", "error", logErr.Error())
	}
	return err
}
