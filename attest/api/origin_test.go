package api

import (
	"testing"

	"cloister.dev/cloister/attest/policystore"
)

// A policy is the tenant's only where that is sure.
func TestOriginOf(t *testing.T) {
	known := Operators{IDs: []string{"operator"}, Known: true}
	for name, r := range map[string]struct {
		mode      TrustMode
		operators Operators
		by, want  string
	}{
		"set by a tenant":                         {TrustAAD, known, "tenant", originTenant},
		"set by the operator":                     {TrustAAD, known, "operator", originOperator},
		"set by nobody knows whom":                {TrustAAD, known, "", originOperator},
		"nobody said who the operator is":         {TrustAAD, Operators{}, "tenant", originOperator},
		"nobody at this issuer is the operator":   {TrustAAD, Operators{Known: true}, "tenant", originTenant},
		"signed for an isolated issuer, operator": {TrustIsolated, known, "operator", originTenant},
	} {
		if got := (&Provider{TrustMode: r.mode, Operators: r.operators}).originOf(policystore.Policy{By: r.by}); got != r.want {
			t.Errorf("%s: %s, want %s", name, got, r.want)
		}
	}
}
