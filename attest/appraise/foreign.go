package appraise

import (
	"math"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/token"
)

// Foreign makes a result of another verifier's token, which the caller checked: signed by a pinned key, and about this
// evidence. The token's claims of hardware and data are taken over; who issued it, when and by which policy are not
// claims of ours, and none that only this service issues is believed.
func Foreign(t *token.Token, root evidence.RootKind, runtime, init *request.Data) *Result {
	out := &Result{root: root, claims: map[string]any{}, carries: runtimeCarries(runtime)}
	kind := claims.SevSnpVM
	if root == evidence.RootIntel {
		kind = claims.TdxVM
	}
	ours := map[string]bool{"x-ms-policy-hash": true, "x-ms-ver": true, "x-cloister-root": true, claims.Challenge: true, claims.Verifier: true}
	for _, name := range claims.Schema(kind).Known {
		if v, there := t.Claims[name]; there && !ours[name] {
			out.claims[name] = whole(v)
		}
	}
	out.claims[claims.Verifier] = t.Issuer
	addData(out.claims, runtime, init)
	claims.Root(out.claims, root)
	return out
}

// whole makes integers of numbers that encoding/json read: claims of ours and policies have no fractions.
func whole(v any) any {
	if f, ok := v.(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f)
	}
	return v
}
