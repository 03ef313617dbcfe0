package appraise

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
)

// CheckCarries checks that the evidence was made for a nonce: the hardware, or the vTPM it names, signed it.
func (r *Result) CheckCarries(nonce string) error {
	if nonce == "" || r.carries == nil || !r.carries(nonce) {
		return evidence.Refuse(evidence.CodeBinding, "challenge", "evidence that does not carry it", "evidence that was made for it").
			By("runtimeData.nonce, user-data that begins with its SHA-256, or ClientPayload.nonce with the quote's qualifying data")
	}
	return nil
}

// MarkFresh writes into the claims that the evidence carries a nonce of this service that was redeemed.
func (r *Result) MarkFresh(nonce string) { r.claims[claims.Challenge] = nonce }

// runtimeCarries looks for a nonce in runtime data, whose digest is in the hardware's report data: the member "nonce",
// or, in the claims of an HCL report, user data that begin with its SHA-256.
func runtimeCarries(runtime *request.Data) func(string) bool {
	return func(nonce string) bool {
		if runtime == nil {
			return false
		}
		if text, ok := runtime.Object["nonce"].(string); ok && subtle.ConstantTimeCompare([]byte(text), []byte(nonce)) == 1 {
			return true
		}
		sum := sha256.Sum256([]byte(nonce))
		user, _ := runtime.Object["user-data"].(string)
		return len(user) == 128 && subtle.ConstantTimeCompare([]byte(strings.ToLower(user[:64])), []byte(hex.EncodeToString(sum[:]))) == 1
	}
}

// quoteCarries looks for a nonce in the client's payload, where the quote's qualifying data are bound to it.
func quoteCarries(bound []byte) func(string) bool {
	return func(nonce string) bool {
		return len(bound) > 0 && subtle.ConstantTimeCompare(bound, []byte(nonce)) == 1
	}
}
