// Package policy reads and evaluates the policy language of Microsoft Azure Attestation, versions 1.0 to 1.2.
//
// A policy answers one question, "may a token be issued?", and says which claims go into it. Nothing is
// permitted by default, a deny wins over every permit, and a policy that cannot be evaluated denies.
//
// The package does no I/O and reads no clock. Parsing and evaluation are bounded: see the limits below.
package policy

import (
	"crypto/sha256"
	"encoding/base64"
)

// Limits of what is parsed and evaluated. They are far above every policy seen in practice.
const (
	MaxSize       = 128 << 10 // bytes of policy text
	maxRules      = 1000      // in all sections together
	maxConditions = 16        // in one rule
	maxCallDepth  = 16        // function calls inside function calls
	maxSteps      = 200_000   // claims compared in one evaluation, and their like
	maxClaims     = 10_000    // claims in the incoming set, with those that rules add
	maxText       = 1 << 20   // bytes of one text value made by a function
	maxQuery      = 4 << 10   // bytes of one JMESPath query
	maxPattern    = 1 << 10   // bytes of one regular expression
	maxWork       = 64 << 20  // bytes that a JMESPath query may make of its document at most
)

// Hash is what tokens carry as x-ms-policy-hash: base64url(SHA-256(base64url(text))). It covers the
// encoded text, neither the text itself nor the JWS that carried it.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(base64.RawURLEncoding.EncodeToString([]byte(text))))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
