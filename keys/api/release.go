package api

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/client/keywrap"
	"cloister.dev/cloister/keys/keystore"
	"cloister.dev/cloister/keys/release"
)

// maxNonce bounds a nonce, in bytes.
const maxNonce = 512

func (c *call) release(name, version string) (any, error) {
	e := c.entry("release", name)
	value, err := c.releaseKey(name, version, &e)
	if err != nil {
		return nil, c.refused(e, err)
	}
	if err := c.granted(e); err != nil {
		return nil, err
	}
	return client.ReleaseBody{Value: value}, nil
}

func (c *call) releaseKey(name, version string, e *audit.Entry) (string, error) {
	if err := c.may("release/action", name); err != nil {
		return "", err
	}
	var in releaseRequest
	if err := decodeBody(c.body, &in); err != nil {
		return "", err
	}
	e.TokenSHA256 = audit.Digest(in.Target)
	form, err := keywrap.ParseForm(in.Enc)
	if err != nil {
		return "", err
	}
	if len(in.Nonce) > maxNonce {
		return "", badParameter(fmt.Sprintf("nonce: at most %d bytes", maxNonce))
	}
	k, err := c.live(name)
	if err != nil {
		return "", err
	}
	if k.GuestState != nil {
		return "", evidence.Refuse(evidence.CodePolicy, "key "+name, "release", "open: a guest-state key is given for one generation only").By("guest-state key")
	}
	if k.Serves {
		return "", evidence.Refuse(evidence.CodePolicy, "key "+name, "release", "to stay here").By("a key that serves confidential VMs never leaves the key keeper")
	}
	v, err := c.usable(k, version, false)
	if err != nil {
		return "", err
	}
	e.Version = v.ID
	w, _, err := c.judge(k, in.Target, e)
	if err != nil {
		return "", unattested(err)
	}
	wrapped, err := c.Backend.Export(c.req.Context(), keystore.Address{Key: k.ID, Version: v.ID}, v.Material, form, w.key)
	if err != nil {
		return "", fmt.Errorf("wrapping %s: %w", k.ID, err)
	}
	a, err := c.answer(k, v, form, w, wrapped, in.Nonce)
	if err != nil {
		return "", err
	}
	return c.Signer.Sign(a)
}

// wrapTo is the key that verified evidence is bound to.
type wrapTo struct {
	key *rsa.PublicKey
	kid string
}

// judge verifies a token by the keys pinned in the configuration, evaluates the key's policy on its claims, and finds
// the key to wrap to. The policy in question is the key's own; a request cannot name another.
func (c *call) judge(k *keystore.Key, target string, e *audit.Entry) (wrapTo, *token.Token, error) {
	if k.Policy == nil || !k.Exportable {
		return wrapTo{}, nil, evidence.Refuse(evidence.CodePolicy, "key "+k.ID.Name, "no release policy", "an exportable key with a release policy")
	}
	t, err := token.Verify(target, c.Authorities, c.Now())
	if err != nil {
		return wrapTo{}, nil, err
	}
	e.TokenIssuer, e.TokenID = t.Issuer, t.ID
	if err := allows(k, t); err != nil {
		return wrapTo{}, nil, err
	}
	pub, kid, err := release.WrappingKey(t)
	return wrapTo{pub, kid}, t, err
}

// allows evaluates a key's policy on the claims of a verified token.
func allows(k *keystore.Key, t *token.Token) error {
	policy, err := release.Parse(k.Policy.Data)
	if err != nil {
		return fmt.Errorf("stored policy of %s: %w", k.ID, err)
	}
	return policy.Evaluate(t)
}

// answer puts a wrapped key into the form of Azure's answer.
func (c *call) answer(k *keystore.Key, v *keystore.Version, form keywrap.Form, w wrapTo, wrapped []byte, nonce string) (*client.Answer, error) {
	hsm, err := json.Marshal(client.KeyHSM{SchemaVersion: "1.0", Header: client.KeyHSMHeader{KID: w.kid, Alg: "dir", Enc: string(form)}, Ciphertext: encode(wrapped)})
	if err != nil {
		return nil, err
	}
	j, err := c.jwk(k, v)
	if err != nil {
		return nil, err
	}
	return &client.Answer{
		Request: client.AnswerRequest{APIVersion: c.version, Enc: string(form), KID: c.kid(k, v), Nonce: nonce},
		Response: client.AnswerResponse{Key: client.ReleasedKey{
			Key:        client.ReleasedJWK{KID: j.KID, Kty: j.Kty, KeyOps: j.KeyOps, N: j.N, E: j.E, Crv: j.Crv, X: j.X, Y: j.Y, KeyHSM: encode(hsm)},
			Attributes: client.ReleasedAttrs{Enabled: v.Enabled, Exportable: k.Exportable},
			Tags:       v.Tags, ReleasePolicy: wirePolicy(k.Policy),
		}},
	}, nil
}

func (c *call) entry(event, name string) audit.Entry {
	return audit.Entry{Event: event, RequestID: c.requestID, Vault: c.vault.Name, Key: name, Caller: c.caller.ObjectID, VMID: c.caller.VMID}
}

// granted writes the entry of a release. Its error keeps the answer back.
func (c *call) granted(e audit.Entry) error {
	e.Outcome = "granted"
	if err := c.Audit.Write(e); err != nil {
		c.releases.WithLabelValues(e.Event, "unavailable").Inc()
		return err
	}
	c.releases.WithLabelValues(e.Event, "granted").Inc()
	return nil
}

// refused writes the entry of a refusal, and gives the error that the caller is told.
func (c *call) refused(e audit.Entry, cause error) error {
	e.Outcome = "refused"
	var r *evidence.Refusal
	var f *failure
	switch {
	case errors.As(cause, &f):
		e.Refusal, e.Error = f.refusal, f.message
	case errors.As(cause, &r):
		e.Refusal = r
	default:
		e.Outcome, e.Error = "failed", cause.Error()
	}
	c.releases.WithLabelValues(e.Event, e.Outcome).Inc()
	if err := c.Audit.Write(e); err != nil {
		return fmt.Errorf("%w; while refusing: %v", err, cause)
	}
	return cause
}
