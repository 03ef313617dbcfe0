// Package client talks to a verifier with the protocol of Microsoft Azure Attestation.
//
// It holds wire types and HTTP, nothing else. What comes back is a token as it came: the caller checks
// it with evidence/token against keys it pinned.
package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
)

// The api-versions that this client sends.
const (
	VersionSevSnpVM   = "2022-08-01"
	VersionTdxVM      = "2023-04-01-preview"
	VersionAzureGuest = "2020-10-01"
	VersionPolicy     = "2022-08-01"
	VersionCloister   = "2026-11-01"
)

// maxReply bounds what is read of an answer, in bytes.
const maxReply = 1 << 20

// Options say where the verifier is. URL is the issuer's URL, with or without a final slash.
type Options struct {
	URL    string
	HTTP   *http.Client                              // nil: http.DefaultClient's transport
	Bearer func(ctx context.Context) (string, error) // policy calls only; nil: none is sent
}

// Client calls one verifier.
type Client struct {
	base   string
	http   *http.Client
	bearer func(ctx context.Context) (string, error)
}

// New makes a client. Redirects are never followed.
func New(o Options) *Client {
	c := &Client{base: strings.TrimSuffix(o.URL, "/"), http: &http.Client{}, bearer: o.Bearer}
	if o.HTTP != nil {
		copied := *o.HTTP
		c.http = &copied
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// SevSnpVM is evidence of a VM without its vTPM.
type SevSnpVM struct {
	Report       []byte // 1184 bytes
	ChainPEM     []byte // leaf, intermediate, root
	RuntimeData  []byte // its SHA-256 is the first half of the report data; must be a JSON object
	InitTimeData []byte // its SHA-256 is HOST_DATA; nil: not sent
	Nonce        string // comes back in the token; "": not sent
	Challenge    string // a nonce of Challenge, which RuntimeData carry; "": not sent
}

// SevSnpVM gets a token for a hardware report.
func (c *Client) SevSnpVM(ctx context.Context, in SevSnpVM) (string, error) {
	report, err := json.Marshal(WireReport{SnpReport: b64url(in.Report), VcekCertChain: b64url(in.ChainPEM)})
	if err != nil {
		return "", err
	}
	body := WireSevSnpVM{Report: b64url(report), Nonce: in.Nonce}
	if in.RuntimeData != nil {
		body.RuntimeData = &WireData{Data: b64url(in.RuntimeData), DataType: "JSON"}
	}
	if in.InitTimeData != nil {
		body.InitTimeData = &WireData{Data: b64url(in.InitTimeData), DataType: "JSON"}
	}
	var out WireToken
	if err := c.callWith(ctx, in.Challenge, http.MethodPost, "/attest/SevSnpVm", VersionSevSnpVM, body, &out); err != nil {
		return "", fmt.Errorf("attesting SevSnpVm: %w", err)
	}
	return out.Token, nil
}

// TdxVM is evidence of a TD without its vTPM.
type TdxVM struct {
	Quote        []byte // version 4 or 5; zeros may follow
	RuntimeData  []byte // its SHA-256 is the first half of the report data; must be a JSON object
	InitTimeData []byte // its SHA-384 is MRCONFIGID; nil: not sent
	Nonce        string // comes back in the token; "": not sent
	Challenge    string // a nonce of Challenge, which RuntimeData carry; "": not sent
}

// TdxVM gets a token for a TD quote.
func (c *Client) TdxVM(ctx context.Context, in TdxVM) (string, error) {
	body := WireTdxVM{Quote: b64url(in.Quote), Nonce: in.Nonce}
	if in.RuntimeData != nil {
		body.RuntimeData = &WireData{Data: b64url(in.RuntimeData), DataType: "JSON"}
	}
	if in.InitTimeData != nil {
		body.InitTimeData = &WireData{Data: b64url(in.InitTimeData), DataType: "JSON"}
	}
	var out WireToken
	if err := c.callWith(ctx, in.Challenge, http.MethodPost, "/attest/TdxVm", VersionTdxVM, body, &out); err != nil {
		return "", fmt.Errorf("attesting TdxVm: %w", err)
	}
	return out.Token, nil
}

// AKRequest is evidence for an attestation-key certificate.
type AKRequest struct {
	HCLReport    []byte // from byte 0, padding allowed
	ChainPEM     []byte
	InitTimeData []byte // nil: not sent
	EKPublic     []byte // TPM2B_PUBLIC
	AKPublic     []byte // TPM2B_PUBLIC
}

// AKCertificate gets a certificate (DER) for the attestation key of a vTPM.
func (c *Client) AKCertificate(ctx context.Context, in AKRequest) ([]byte, error) {
	body := WireAKRequest{HCLReport: in.HCLReport, Chain: string(in.ChainPEM), InitTimeData: in.InitTimeData, EKPublic: in.EKPublic, AKPublic: in.AKPublic}
	var out WireAKReply
	if err := c.call(ctx, http.MethodPost, "/cloister/akcertificate", VersionCloister, body, &out); err != nil {
		return nil, fmt.Errorf("asking for an AK certificate: %w", err)
	}
	return out.Certificate, nil
}

// Challenge gets a nonce that one request may redeem, until it expires. The evidence must carry it: runtime data as
// their member "nonce", the claims of an HCL report by user data that begin with its SHA-256, a running guest as
// ClientPayload "nonce" with its SHA-256 as the quote's qualifying data.
func (c *Client) Challenge(ctx context.Context) (nonce string, expires time.Time, err error) {
	var out WireChallenge
	if err := c.send(ctx, http.MethodPost, "/cloister/challenges", VersionCloister, "", nil, nil, &out); err != nil {
		return "", time.Time{}, fmt.Errorf("asking for a challenge: %w", err)
	}
	expires, err = time.Parse(time.RFC3339, out.Expires)
	if err != nil || out.Nonce == "" {
		return "", time.Time{}, evidence.Refuse(evidence.CodeParse, "challenge", out.Expires, "a nonce with its end")
	}
	return out.Nonce, expires, nil
}

// callWith is call, with the challenge that the evidence carries.
func (c *Client) callWith(ctx context.Context, challenge, method, path, version string, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	header := http.Header{}
	if challenge != "" {
		header.Set(ChallengeHeader, challenge)
	}
	return c.send(ctx, method, path, version, "application/json", raw, header, out)
}

// call sends a request with a JSON body and reads a JSON answer.
func (c *Client) call(ctx context.Context, method, path, version string, body, out any) error {
	return c.callWith(ctx, "", method, path, version, body, out)
}

func (c *Client) send(ctx context.Context, method, path, version, contentType string, body []byte, header http.Header, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+"?api-version="+url.QueryEscape(version), bytes.NewReader(body))
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return evidence.Refuse(evidence.CodeUnavailable, "verifier "+c.base, err.Error(), "an answer")
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return evidence.Refuse(evidence.CodeUnavailable, "verifier "+c.base, err.Error(), "a whole answer")
	}
	if len(raw) > maxReply {
		return evidence.Refuse(evidence.CodeUnavailable, "verifier "+c.base, "an answer without end", fmt.Sprintf("at most %d bytes", maxReply))
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return evidence.Refuse(evidence.CodeUnavailable, "verifier "+c.base, "an answer that is no JSON", "JSON")
	}
	return nil
}

// refusal reads an error body: ours carries the refusal as innererror, Azure's only code and message.
func refusal(status int, raw []byte) error {
	var body WireError
	_ = json.Unmarshal(raw, &body) // a body that is no JSON leaves the fields empty, and the status still tells
	if in := body.Error.InnerError; in != nil && in.Code != "" {
		return in
	}
	code := evidence.CodePolicy
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		code = evidence.CodeAuthz
	case status == http.StatusTooManyRequests || status >= 500 || status == http.StatusRequestTimeout || status == http.StatusNotFound:
		code = evidence.CodeUnavailable
	case body.Error.Code == "InvalidParameter" || body.Error.Code == "PolicyParsingError":
		code = evidence.CodeParse
	}
	return evidence.Refuse(code, "verifier's answer", fmt.Sprintf("%d %s: %s", status, body.Error.Code, body.Error.Message), "200")
}

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
