// Package client speaks with a key keeper about the guest state of one VM, and trusts nobody in between.
//
// Answers are signed. A host that plays the key keeper has no pinned key; one that repeats an old answer
// has another nonce; one that gives another VM's answer has another VM id. TLS is transport only.
package client

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/keys/client/keywrap"
)

// APIVersion is the version of the guest-state calls.
const APIVersion = "2026-11-01"

// OperatorTrustedTag marks, at creation, a key whose policy the operator wrote for the tenant.
const OperatorTrustedTag = "cloister-operator-trusted"

// KeyName is the name of the guest-state key of a VM.
func KeyName(vmID string) string { return "gs-" + vmID }

// Options say which key keeper to speak with.
type Options struct {
	URL     string                                // of the vault, https://NAME.SUFFIX[:port]
	HTTP    *http.Client                          // nil: http.DefaultClient
	Bearer  func(context.Context) (string, error) // the caller's role
	Signers []initdata.SigningKey                 // who may sign answers
}

// Client asks one vault.
type Client struct{ o Options }

// New makes a client. Mistakes in the options show at the first call.
func New(o Options) *Client {
	if o.HTTP == nil {
		o.HTTP = http.DefaultClient
	}
	return &Client{o}
}

// OpenRequest asks for the key of a guest state.
type OpenRequest struct {
	VMID       string
	Generation uint64 // of the guest state at hand; 0 where there is none yet
	Session    string // 64 hex digits, made for this start
	Token      string // of the attestation service; its evidence holds the transfer key
	Nonce      string // fresh; comes back in the answer
}

// ConfirmRequest says that the promised generation was written.
type ConfirmRequest struct {
	VMID       string
	Generation uint64 // what Opened.Next was
	Session    string
	Token      string
	Nonce      string
}

// OpenBody is the body of open.
type OpenBody struct {
	Target     string `json:"target"`
	Generation uint64 `json:"generation"`
	Session    string `json:"session"`
	Nonce      string `json:"nonce"`
	Enc        string `json:"enc,omitempty"`
}

// ConfirmBody is the body of confirm.
type ConfirmBody struct {
	Target     string `json:"target"`
	Generation uint64 `json:"generation"`
	Session    string `json:"session"`
	Nonce      string `json:"nonce"`
}

// CountBits are the lower bits of a generation, which count inside an owner epoch. The upper ones are the epoch: it goes up
// when an owner approves a restore.
const CountBits = 24

// Follows tells whether a generation may be promised to who opens another: the one after it, or the first of a later owner
// epoch.
func Follows(next, generation uint64) bool {
	return next > generation && (next == generation+1 || next%(1<<CountBits) == 0)
}

// ApproveBody is the body of approve-restore, and of its answer.
type ApproveBody struct {
	Generation *uint64 `json:"generation"`
}

// Opened is an accepted open whose answer was signed by a pinned key and is about this question.
type Opened struct {
	Next            uint64 // the generation to write and confirm: the one after, or after an approved restore the first of a new owner epoch
	WrappedKey      []byte
	Enc             string
	OperatorTrusted bool // the operator wrote the key's policy: the tenant's tools must say so
}

// Unwrap takes the guest-state key out with the transfer key. Clear it after use.
func (o *Opened) Unwrap(key *rsa.PrivateKey) ([]byte, error) {
	form, err := keywrap.ParseForm(o.Enc)
	if err != nil {
		return nil, err
	}
	return keywrap.Unwrap(form, key, o.WrappedKey)
}

// Open asks for the key of a guest state.
func (c *Client) Open(ctx context.Context, r OpenRequest) (*Opened, error) {
	enc := string(keywrap.SHA256)
	payload, err := c.post(ctx, r.VMID, "open", OpenBody{Target: r.Token, Generation: r.Generation, Session: r.Session, Nonce: r.Nonce, Enc: enc})
	if err != nil {
		return nil, fmt.Errorf("opening guest state of VM %s at generation %d: %w", r.VMID, r.Generation, err)
	}
	a, err := parseAnswer(payload)
	if err != nil {
		return nil, err
	}
	if err := a.Cloister.about(r.VMID, r.Generation, r.Session, r.Nonce); err != nil {
		return nil, err
	}
	switch {
	case !same(a.Request.Nonce, r.Nonce):
		return nil, mismatch("request.nonce", a.Request.Nonce, r.Nonce)
	case a.Request.Enc != enc:
		return nil, mismatch("request.enc", a.Request.Enc, enc)
	case !Follows(a.Cloister.Next, r.Generation):
		return nil, mismatch("next", fmt.Sprint(a.Cloister.Next), fmt.Sprintf("%d, or the first generation of a later owner epoch", r.Generation+1))
	}
	wrapped, err := a.Response.Key.Key.wrapped()
	if err != nil {
		return nil, err
	}
	return &Opened{Next: a.Cloister.Next, WrappedKey: wrapped, Enc: enc, OperatorTrusted: a.Cloister.OperatorTrusted}, nil
}

// Confirm says that the promised generation was written. It may be called again with the same session when an answer was lost.
func (c *Client) Confirm(ctx context.Context, r ConfirmRequest) error {
	payload, err := c.post(ctx, r.VMID, "confirm", ConfirmBody{Target: r.Token, Generation: r.Generation, Session: r.Session, Nonce: r.Nonce})
	if err != nil {
		return fmt.Errorf("confirming generation %d of VM %s: %w", r.Generation, r.VMID, err)
	}
	var s GuestState
	if err := json.Unmarshal(payload, &s); err != nil {
		return evidence.Refuse(evidence.CodeParse, "answer of keys", err.Error(), "a confirmation")
	}
	if !s.Confirmed {
		return mismatch("confirmed", "false", "true")
	}
	return s.about(r.VMID, r.Generation, r.Session, r.Nonce)
}

// same compares in constant time what must not be guessed step by step.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// about compares an answer with the question. An empty nonce or session is refused: it would match old answers.
func (s *GuestState) about(vmID string, generation uint64, session, nonce string) error {
	switch {
	case s.VMID != vmID || vmID == "":
		return mismatch("vmId", s.VMID, vmID)
	case s.Generation != generation:
		return mismatch("generation", fmt.Sprint(s.Generation), fmt.Sprint(generation))
	case !same(s.Session, session) || session == "":
		return mismatch("session", "another session", "the session that asked")
	case !same(s.Nonce, nonce) || nonce == "":
		return mismatch("nonce", s.Nonce, nonce+" (not empty)")
	}
	return nil
}

func mismatch(field, got, want string) error {
	return evidence.Refuse(evidence.CodeBinding, "answer of keys: "+field, got, want)
}

func (k ReleasedJWK) wrapped() ([]byte, error) {
	raw, err := base64.RawURLEncoding.DecodeString(k.KeyHSM)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys: key_hsm", err.Error(), "base64url")
	}
	var h KeyHSM
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys: key_hsm", err.Error(), "JSON")
	}
	out, err := base64.RawURLEncoding.DecodeString(h.Ciphertext)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys: ciphertext", err.Error(), "base64url")
	}
	return out, nil
}

// ReleaseBody is the answer of release, open and confirm.
type ReleaseBody struct {
	Value string `json:"value"` // compact JWS
}

// ErrorBody is a refusal in Key Vault's form. Our explanation is an additional member of the inner error.
type ErrorBody struct {
	Error Error `json:"error"`
}

// Error is the outer error.
type Error struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Inner   *InnerError `json:"innererror,omitempty"`
}

// InnerError says more.
type InnerError struct {
	Code     string            `json:"code"`
	Cloister *evidence.Refusal `json:"cloister,omitempty"`
}

func (c *Client) post(ctx context.Context, vmID, verb string, body any) ([]byte, error) {
	signers, err := parseSigners(c.o.Signers)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	u := strings.TrimSuffix(c.o.URL, "/") + "/gueststate/" + url.PathEscape(vmID) + "/" + verb + "?api-version=" + APIVersion
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.o.Bearer != nil {
		bearer, err := c.o.Bearer(ctx)
		if err != nil {
			return nil, fmt.Errorf("getting the caller's sign-in token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := c.o.HTTP.Do(req)
	if err != nil {
		return nil, unavailable(err.Error())
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, unavailable(err.Error())
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusalOf(resp.StatusCode, answer)
	}
	var rb ReleaseBody
	if err := json.Unmarshal(answer, &rb); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer of keys", err.Error(), `{"value": JWS}`)
	}
	return VerifyAnswer(rb.Value, signers)
}

// refusalOf reads a refusal. Refusals are not signed: a host can always refuse, and gains nothing by it.
func refusalOf(status int, body []byte) error {
	var e ErrorBody
	if err := json.Unmarshal(body, &e); err == nil && e.Error.Inner != nil && e.Error.Inner.Cloister != nil {
		return e.Error.Inner.Cloister
	}
	text := fmt.Sprintf("HTTP %d %s: %s", status, e.Error.Code, e.Error.Message)
	if status == http.StatusTooManyRequests || status >= 500 {
		return unavailable(text)
	}
	return evidence.Refuse(evidence.CodeAuthz, "keys", text, "HTTP 200")
}

func unavailable(got string) error {
	return evidence.Refuse(evidence.CodeUnavailable, "keys", got, "an answer")
}

type condition struct {
	Claim  string `json:"claim"`
	Equals any    `json:"equals"`
}

type anyOf struct {
	AnyOf []condition `json:"anyOf"`
}

// GuestStatePolicy is the release policy of a guest-state key on the software root: one of the launch digests, exactly these init data,
// no debugging, VMPL 0. It names the software root, without which evidence of that root is refused.
func GuestStatePolicy(issuer string, measurements [][48]byte, hostData [32]byte) []byte {
	digests := make([]condition, len(measurements))
	for i, m := range measurements {
		digests[i] = condition{"x-ms-sevsnpvm-launchmeasurement", hex.EncodeToString(m[:])}
	}
	var launch any = anyOf{digests}
	if len(digests) == 1 {
		launch = digests[0]
	}
	type authority struct {
		Authority string `json:"authority"`
		AllOf     []any  `json:"allOf"`
	}
	doc := struct {
		Version string      `json:"version"`
		AnyOf   []authority `json:"anyOf"`
	}{"1.0.0", []authority{{issuer, []any{
		condition{"x-ms-attestation-type", "sevsnpvm"},
		condition{"x-cloister-root", string(evidence.RootSoftware)},
		condition{"x-cloister-vtpm-isolation", "process"},
		launch,
		condition{"x-ms-sevsnpvm-hostdata", hex.EncodeToString(hostData[:])},
		condition{"x-ms-sevsnpvm-is-debuggable", false},
		condition{"x-ms-sevsnpvm-vmpl", 0},
	}}}}
	raw, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings, booleans and numbers only: cannot fail
	}
	return raw
}
