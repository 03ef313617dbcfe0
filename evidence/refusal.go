package evidence

import (
	"errors"
	"fmt"
)

// Code says why something was refused. The set is closed; texts may change, codes do not.
type Code string

// The codes. CodeUnavailable is not a refusal: a fact needed for a verdict could not be had.
const (
	CodeParse       Code = "refuse/parse"       // not well-formed
	CodeUnsupported Code = "refuse/unsupported" // well-formed, but of a kind this verifier does not know
	CodeChain       Code = "refuse/chain"       // a signature or chain does not end at a root that was named
	CodeRevoked     Code = "refuse/revoked"     // part of the chain or the TCB level is revoked
	CodeBinding     Code = "refuse/binding"     // genuine, but not about this key, nonce, VM or session
	CodeTCB         Code = "refuse/tcb"         // genuine, but below the floor
	CodeConfig      Code = "refuse/config"      // genuine, but debug, migratable, wrong VMPL or platform
	CodeMeasurement Code = "refuse/measurement" // genuine, but not an expected workload
	CodePolicy      Code = "refuse/policy"      // the relying party's policy did not say yes
	CodeAuthz       Code = "deny/authz"         // the caller may not do this, whatever the evidence says
	CodeBoot        Code = "fail/boot"          // the guest stops before a secret is touched
	CodeUnavailable Code = "unavailable"        // no verdict: something needed could not be had
)

// Refusal explains itself: what was looked at, what came, what was wanted, which rule said so.
// It never holds secrets.
type Refusal struct {
	Code  Code   `json:"code"`
	Field string `json:"field"`
	Got   string `json:"got"`
	Want  string `json:"want"`
	Rule  string `json:"rule,omitempty"`
}

// Refuse makes a refusal.
func Refuse(code Code, field, got, want string) *Refusal {
	return &Refusal{Code: code, Field: field, Got: got, Want: want}
}

// By names the rule that refused.
func (r *Refusal) By(rule string) *Refusal {
	r.Rule = rule
	return r
}

func (r *Refusal) Error() string {
	s := fmt.Sprintf("%s: %s: got %s, want %s", r.Code, r.Field, r.Got, r.Want)
	if r.Rule != "" {
		s += " (" + r.Rule + ")"
	}
	return s
}

// CodeOf finds the code in an error, or "" where the error carries none.
func CodeOf(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}
