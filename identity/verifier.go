package identity

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

// IssuerConfig pins one issuer of sign-in tokens. Its keys are part of the configuration, so nothing is
// fetched while a request is judged.
type IssuerConfig struct {
	URL      string                `json:"url"`
	TenantID string                `json:"tenantId"`
	Keys     []initdata.SigningKey `json:"keys"`
	// VMsOnly takes the issuer's word for which VM calls, and for nobody else: that of an operator whom this service doesn't
	// believe who its own callers are.
	VMsOnly bool `json:"vmsOnly,omitempty"`
}

// VerifierConfig is what a service believes about sign-in.
type VerifierConfig struct {
	Issuers   []IssuerConfig `json:"issuers"`
	Audiences []string       `json:"audiences"`
}

// Verifier turns bearer tokens into principals.
type Verifier struct {
	authorities []token.Authority
	issuers     []IssuerConfig // found by token.SameIssuer's rule
	audiences   []string
}

// NewVerifier refuses a configuration that trusts nobody or accepts any audience.
func NewVerifier(c VerifierConfig) (*Verifier, error) {
	if len(c.Issuers) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "identity.issuers", "none", "at least one issuer")
	}
	if len(c.Audiences) == 0 {
		return nil, evidence.Refuse(evidence.CodePolicy, "identity.audiences", "none", "at least one audience")
	}
	v := &Verifier{}
	for _, i := range c.Issuers {
		if i.URL == "" || i.TenantID == "" {
			return nil, evidence.Refuse(evidence.CodePolicy, "identity.issuers", fmt.Sprintf("url %q, tenantId %q", i.URL, i.TenantID), "both")
		}
		a, err := token.NewAuthority(initdata.Service{URL: i.URL, SigningKeys: i.Keys})
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.URL, err)
		}
		v.authorities = append(v.authorities, a)
		v.issuers = append(v.issuers, i)
	}
	for _, a := range c.Audiences {
		if a == "" {
			return nil, evidence.Refuse(evidence.CodePolicy, "identity.audiences", "an empty audience", "a URL")
		}
		v.audiences = append(v.audiences, normalAudience(a))
	}
	return v, nil
}

// FromRequest verifies the bearer token of a request.
func (v *Verifier) FromRequest(r *http.Request, at time.Time) (*Principal, error) {
	scheme, bearer, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return nil, evidence.Refuse(evidence.CodeAuthz, "Authorization", "no bearer token", "Bearer and a token")
	}
	return v.Verify(strings.TrimSpace(bearer), at)
}

// Verify checks signature, issuer, audience and times of a sign-in token.
// Every refusal has the code deny/authz: it tells the caller to sign in, and nothing of what exists.
func (v *Verifier) Verify(bearer string, at time.Time) (*Principal, error) {
	t, err := token.Verify(bearer, v.authorities, at)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeAuthz, "bearer token", err.Error(), "a valid token of a trusted issuer")
	}
	if err := v.audience(t); err != nil {
		return nil, err
	}
	return v.principal(t)
}

func (v *Verifier) audience(t *token.Token) error {
	var got []string
	switch aud := t.Claims["aud"].(type) {
	case string:
		got = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return evidence.Refuse(evidence.CodeAuthz, "token aud", fmt.Sprintf("%T in the list", a), "texts")
			}
			got = append(got, s)
		}
	}
	for _, a := range got {
		if a != "" && slices.Contains(v.audiences, normalAudience(a)) {
			return nil
		}
	}
	return evidence.Refuse(evidence.CodeAuthz, "token aud", fmt.Sprint(got), "one of "+strings.Join(v.audiences, ", "))
}

func (v *Verifier) principal(t *token.Token) (*Principal, error) {
	text := func(name string) string { s, _ := t.Claims[name].(string); return s }
	p := &Principal{ObjectID: text("oid"), TenantID: text("tid"), ClientID: text("appid"), Name: text("name"), Kind: KindApp, VMID: text("xms_vmid")}
	if p.ClientID == "" {
		p.ClientID = text("azp")
	}
	if p.ObjectID == "" {
		return nil, evidence.Refuse(evidence.CodeAuthz, "token oid", "absent", "the caller's object id")
	}
	for _, i := range v.issuers {
		if !token.SameIssuer(i.URL, t.Issuer) {
			continue
		}
		if i.TenantID != p.TenantID {
			return nil, evidence.Refuse(evidence.CodeAuthz, "token tid", p.TenantID, i.TenantID)
		}
		if i.VMsOnly && p.VMID == "" {
			return nil, evidence.Refuse(evidence.CodeAuthz, "token xms_vmid", "absent", "the identity of a VM: this issuer is believed about nothing else")
		}
	}
	switch {
	case p.VMID != "":
		p.Kind = KindVM
	case text("idtyp") == "user":
		p.Kind = KindUser
	}
	return p, nil
}

// normalAudience drops final slashes and the case: audiences are URLs of hosts, and clients write both forms.
func normalAudience(a string) string { return strings.ToLower(strings.TrimRight(a, "/")) }
