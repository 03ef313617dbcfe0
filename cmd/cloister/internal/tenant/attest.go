package tenant

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/soft"
)

// nonceSize is the size of a challenge, in bytes.
const nonceSize = 32

// Judged is evidence with the tenant's own judgement of it.
type Judged struct {
	Result evidence.Judgement
	Bundle bundle.Bundle
	Raw    json.RawMessage // as the VM sent it
	VMID   string
}

// Err is nil when the evidence was accepted, and otherwise the first refusal.
func (j *Judged) Err() error {
	if j.Result.Verdict == evidence.Accepted {
		return nil
	}
	return evidence.Appraisal{Verdict: j.Result.Verdict, Checks: j.Result.Checks}.Err(evidence.CodePolicy)
}

// Attest asks a VM for evidence under a fresh challenge and judges it by what was computed when the VM was created.
func (t *Tenant) Attest(ctx context.Context, vm string) (*Judged, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return t.AttestUnder(ctx, vm, nonce)
}

// AttestUnder is Attest under a challenge of the caller's, for evidence that somebody else will judge.
func (t *Tenant) AttestUnder(ctx context.Context, vm string, nonce []byte) (*Judged, error) {
	expected, vmID, err := t.Recall(vm)
	if err != nil {
		return nil, err
	}
	raw, err := t.Evidence(ctx, vm, nonce)
	if err != nil {
		return nil, err
	}
	if refused := guestFailure(raw); refused != nil {
		return nil, refused
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		return nil, err
	}
	roots, err := Roots(t.Conn.Trust)
	if err != nil {
		return nil, err
	}
	expect, err := expected.Expect(nonce)
	if err != nil {
		return nil, err
	}
	result, err := bundle.Appraise(b, roots, expect, t.Now())
	if err != nil {
		return nil, err
	}
	return &Judged{Result: result, Bundle: b, Raw: raw, VMID: vmID}, nil
}

// guestFailure reads the answer of a guest that could not make evidence.
func guestFailure(raw []byte) error {
	var f struct {
		Error string        `json:"error"`
		Code  evidence.Code `json:"code"`
	}
	if json.Unmarshal(raw, &f) != nil || f.Error == "" {
		return nil
	}
	code := f.Code
	if code == "" {
		code = evidence.CodeUnavailable
	}
	return evidence.Refuse(code, "evidence", f.Error, "an evidence bundle")
}

// Roots are the roots of trust that the tenant named.
func Roots(trust platform.Trust) (bundle.Roots, error) {
	roots := bundle.Roots{AMD: len(trust.SoftwareRoots) == 0}
	for n, text := range trust.SoftwareRoots {
		r, err := soft.ParseRoot([]byte(text))
		if err != nil {
			return roots, fmt.Errorf("software root %d: %w", n, err)
		}
		roots.Software = append(roots.Software, r)
	}
	return roots, nil
}
