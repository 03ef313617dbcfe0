// Package agent is what runs beside the distribution: it attests the guest once, then answers attestation requests.
//
// The agent holds no secret and unlocks nothing: PCR 11 was extended before it started.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/guest/attestation"
	"cloister.dev/cloister/guest/event"
)

// KindAttest asks for an evidence bundle that answers the request's nonce.
const KindAttest = "attest"

const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	nonceSize  = 32 // of our own challenges, in bytes
)

// Result is what the last attestation came to; Check reads it.
type Result struct {
	Token    string    `json:"token"`
	IssuedAt time.Time `json:"issuedAt"` // by the verifier's clock, signed
	Local    time.Time `json:"local"`    // by the guest's clock at the same moment
}

// Agent is one guest's agent.
type Agent struct {
	Metadata Metadata
	Collect  func(ctx context.Context, challenge []byte) (*attestation.Evidence, error)
	Token    func(ctx context.Context, e *attestation.Evidence) (*token.Token, string, error)
	Result   string // path of the result
	Now      func() time.Time
	Wait     func(ctx context.Context, d time.Duration) error
	Log      *slog.Logger
}

// Run works until ctx ends.
func (a Agent) Run(ctx context.Context) error {
	a.retry(ctx, "distribution", func() error { return a.tell(ctx, "distribution", event.Done, nil) })
	a.retry(ctx, "guest attestation", func() error { return a.attest(ctx) })
	delay := retryFirst
	for ctx.Err() == nil {
		r, err := a.Metadata.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			a.Log.Warn("no requests", "error", err)
			if a.Wait(ctx, delay) != nil {
				break
			}
			delay = min(2*delay, retryMost)
			continue
		}
		delay = retryFirst
		if r != nil {
			a.serve(ctx, *r)
		}
	}
	return nil
}

// retry repeats what could not be done, and stops at a refusal: asking again would get the same answer.
func (a Agent) retry(ctx context.Context, what string, do func() error) {
	for delay := retryFirst; ctx.Err() == nil; delay = min(2*delay, retryMost) {
		err := do()
		if err == nil {
			return
		}
		a.Log.Warn(what+" failed", "error", err)
		if evidence.CodeOf(err) != evidence.CodeUnavailable || a.Wait(ctx, delay) != nil {
			return
		}
	}
}

func (a Agent) tell(ctx context.Context, step, state string, detail map[string]string) error {
	return a.Metadata.Event(ctx, event.Event{Time: a.Now().UTC(), Step: step, State: state, Detail: detail})
}

// attest attests the guest under a challenge of its own and tells the outcome.
func (a Agent) attest(ctx context.Context) error {
	const step = "guest-attestation"
	if err := a.tell(ctx, step, event.Started, nil); err != nil {
		return err
	}
	detail, err := a.Attest(ctx)
	if err != nil {
		if evidence.CodeOf(err) != evidence.CodeUnavailable {
			if e := a.tell(ctx, step, event.Failed, map[string]string{"code": string(evidence.CodeOf(err)), "error": err.Error()}); e != nil {
				a.Log.Warn("event lost", "error", e)
			}
		}
		return err
	}
	return a.tell(ctx, step, event.Done, detail)
}

// Attest gets a token under a fresh challenge, keeps the result, and returns what an event tells of it.
func (a Agent) Attest(ctx context.Context) (map[string]string, error) {
	challenge := make([]byte, nonceSize)
	if _, err := rand.Read(challenge); err != nil {
		return nil, err
	}
	e, err := a.Collect(ctx, challenge)
	if err != nil {
		return nil, err
	}
	t, compact, err := a.Token(ctx, e)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(Result{Token: compact, IssuedAt: t.IssuedAt.UTC(), Local: a.Now().UTC()})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.Result, raw, 0o600); err != nil {
		return nil, err
	}
	detail := map[string]string{"issuer": t.Issuer, "sshHostKeySHA256": bundle.Fingerprint(e.Bundle.SSHHostKey)}
	for n, v := range e.PCRs {
		detail["pcr"+strconv.Itoa(n)] = hex.EncodeToString(v[:])
	}
	for name, v := range t.Claims {
		switch v := v.(type) { // the nested claims are in the token
		case string, bool, float64:
			detail["claim "+name] = fmt.Sprint(v)
		}
	}
	return detail, nil
}

// failure answers a request that could not be met.
type failure struct {
	Error string        `json:"error"`
	Code  evidence.Code `json:"code"`
}

func (a Agent) serve(ctx context.Context, r Request) {
	var body any
	switch {
	case r.Kind != KindAttest:
		body = failure{Error: fmt.Sprintf("unknown kind of request %q", r.Kind), Code: evidence.CodeUnsupported}
	default:
		e, err := a.Collect(ctx, r.Nonce)
		if err != nil {
			a.Log.Warn("attestation request failed", "id", r.ID, "error", err)
			body = failure{Error: err.Error(), Code: evidence.CodeOf(err)}
		} else {
			body = e.Bundle
		}
	}
	if err := a.Metadata.Answer(ctx, r.ID, body); err != nil {
		a.Log.Warn("answer lost", "id", r.ID, "error", err)
	}
}
