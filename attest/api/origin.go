package api

import (
	"slices"

	"cloister.dev/cloister/attest/policystore"
)

// Whose a policy is, as tokens say it in x-cloister-policy-origin.
const (
	originDefault  = "default"  // this program's: nobody has set one
	originOperator = "operator" // set by somebody who acts for the operator, or by nobody knows whom
	originTenant   = "tenant"
	originDraft    = "draft" // came with the request
)

// held is the policy that holds for an attestation type, and whose it is.
type held struct{ text, origin string }

// Operators tells who acts for the operator when policies are set.
type Operators struct {
	IDs   []string // object ids
	Known bool     // false: nobody said who they are, and then anybody may be one
}

// originOf says whose a stored policy is. The tenant's it is called only where that is sure.
func (p *Provider) originOf(stored policystore.Policy) string {
	switch {
	case p.TrustMode == TrustIsolated: // one that no signer signed permits nothing there
		return originTenant
	case !p.Operators.Known || stored.By == "" || slices.Contains(p.Operators.IDs, stored.By):
		return originOperator
	}
	return originTenant
}
