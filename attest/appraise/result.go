// Package appraise judges evidence for the attestation service: is it genuine, is it of the one root this
// issuer stands for, and is it about the data that came with it? Whether a genuine VM gets a token is then
// for the policy.
package appraise

import (
	"crypto/rsa"

	"cloister.dev/cloister/evidence"
)

// Result is genuine, bound evidence as claims. Only this package makes one; of another
// verifier's token, see Foreign.
type Result struct {
	root   evidence.RootKind
	claims map[string]any
	reply  *ReplyKey
	// carries tells whether a nonce is bound into the evidence; nil: none is.
	carries func(nonce string) bool
}

// Root is the kind of root of trust that the evidence ends at.
func (r *Result) Root() evidence.RootKind { return r.root }

// Claims are the members for a token and the incoming set of a policy.
func (r *Result) Claims() map[string]any { return r.claims }

// ReplyKey is the ephemeral key that the answer must be encrypted to; nil: none was given.
func (r *Result) ReplyKey() *rsa.PublicKey {
	if r.reply == nil {
		return nil
	}
	return r.reply.public
}

// ReplyKey is a key that was certified inside the attested vTPM.
type ReplyKey struct{ public *rsa.PublicKey }

// AK is an attestation key that genuine evidence names.
type AK struct {
	*Result
	public *rsa.PublicKey
	vmID   string
}

// Public is the key.
func (a *AK) Public() *rsa.PublicKey { return a.public }

// VMID is the VM that the evidence is of, an upper-case GUID.
func (a *AK) VMID() string { return a.vmID }
