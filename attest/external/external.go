// Package external has evidence judged by another verifier, in place of this service's own judgement: one that speaks
// the protocol of Microsoft Azure Attestation, or Intel Trust Authority's.
//
// What comes back is a token. It counts when one of the keys that were pinned for that verifier signed it, when it is
// about this very evidence, and when it carries the nonce of this very request where the protocol has one. No key is
// ever taken from where a token points to.
package external

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/token"
)

// Protocol is how a verifier is spoken to.
type Protocol string

// The protocols.
const (
	MAA            Protocol = "MAA"            // Microsoft Azure Attestation: SEV-SNP and TDX
	TrustAuthority Protocol = "TrustAuthority" // Intel Trust Authority: TDX
)

// maxReply bounds what is read of an answer, in bytes.
const maxReply = 1 << 20

// clockSlack is how far another verifier's clock may be ahead.
const clockSlack = time.Minute

// Options say who judges.
type Options struct {
	Protocol Protocol
	// URL is where it is called, without a final slash.
	URL string
	// Authority is whose tokens count: its issuer and pinned keys.
	Authority token.Authority
	// APIKey is sent to Intel Trust Authority.
	APIKey string
	HTTP   *http.Client
}

// Verifier calls one other verifier.
type Verifier struct {
	o    Options
	http *http.Client
}

// New makes a verifier. Without a pinned key there is none.
func New(o Options) (*Verifier, error) {
	u, err := url.Parse(o.URL)
	switch {
	case o.Protocol != MAA && o.Protocol != TrustAuthority:
		return nil, evidence.Refuse(evidence.CodePolicy, "external protocol", string(o.Protocol), "MAA or TrustAuthority")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(o.URL, "/"):
		return nil, evidence.Refuse(evidence.CodePolicy, "external URL", o.URL, "https://host[:port][/path]")
	case o.Authority.Issuer == "" || len(o.Authority.Keys) == 0:
		return nil, evidence.Refuse(evidence.CodePolicy, "external authority", "no issuer or no pinned key", "both")
	case o.HTTP == nil || o.HTTP.Timeout <= 0:
		return nil, evidence.Refuse(evidence.CodePolicy, "external HTTP client", "none, or without a time limit", "one with a time limit")
	}
	hc := *o.HTTP
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Verifier{o: o, http: &hc}, nil
}

// SevSnpVM has a SEV-SNP report judged.
func (v *Verifier) SevSnpVM(ctx context.Context, in *request.SevSnpVM, at time.Time) (*appraise.Result, error) {
	if v.o.Protocol != MAA {
		return nil, v.unsupported("SEV-SNP reports")
	}
	report, err := sevsnp.Parse(in.Report)
	if err != nil {
		return nil, err
	}
	wrapped, err := json.Marshal(client.WireReport{SnpReport: b64(in.Report), VcekCertChain: b64(in.Chain)})
	if err != nil {
		return nil, err
	}
	nonce := newNonce()
	body := client.WireSevSnpVM{Report: b64(wrapped), RuntimeData: wire(in.Runtime), InitTimeData: wire(in.InitTime), Nonce: nonce}
	t, err := v.token(ctx, "/attest/SevSnpVm?api-version="+client.VersionSevSnpVM, body, at)
	if err != nil {
		return nil, err
	}
	want := map[string]string{
		"nonce": nonce, "x-ms-attestation-type": "sevsnpvm",
		"x-ms-sevsnpvm-reportdata":        hex.EncodeToString(report.ReportData[:]),
		"x-ms-sevsnpvm-launchmeasurement": hex.EncodeToString(report.Measurement[:]),
		"x-ms-sevsnpvm-hostdata":          hex.EncodeToString(report.HostData[:]),
		"x-ms-sevsnpvm-reportid":          hex.EncodeToString(report.ReportID[:]),
	}
	if in.Runtime != nil {
		sum := hcl.ReportData(in.Runtime.Raw)
		want["x-ms-sevsnpvm-reportdata"] = hex.EncodeToString(sum[:])
	}
	if in.InitTime != nil {
		sum := initdata.SNPHostData(in.InitTime.Raw)
		want["x-ms-sevsnpvm-hostdata"] = hex.EncodeToString(sum[:])
	}
	if err := about(t, want); err != nil {
		return nil, err
	}
	return foreign(t, evidence.RootAMD, in.Runtime, in.InitTime)
}

// TdxVM has a TD quote judged. The quote's body is not parsed here: the digests that bind data to it, and the nonce
// where the protocol has one, tell that the token is about it; so runtime data are needed.
func (v *Verifier) TdxVM(ctx context.Context, in *request.TdxVM, at time.Time) (*appraise.Result, error) {
	if in.Runtime == nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "runtimeData", "none", "data that the quote is about")
	}
	sum := hcl.ReportData(in.Runtime.Raw)
	want := map[string]string{"tdx_report_data": hex.EncodeToString(sum[:])}
	if in.InitTime != nil {
		id := initdata.TDXConfigID(in.InitTime.Raw)
		want["tdx_mrconfigid"] = hex.EncodeToString(id[:])
	}
	path, body := "", any(nil)
	switch v.o.Protocol {
	case MAA:
		// MAA reads init-time data by a digest of its own, so they stay here and MRCONFIGID is compared above.
		nonce := newNonce()
		want["nonce"], want["x-ms-attestation-type"] = nonce, "tdxvm"
		path, body = "/attest/TdxVm?api-version="+client.VersionTdxVM, client.WireTdxVM{Quote: b64(in.Quote), RuntimeData: wire(in.Runtime), Nonce: nonce}
	case TrustAuthority:
		path, body = "/appraisal/v1/attest", wireTrustAuthority{Quote: in.Quote, Algorithm: "RS256"}
	}
	t, err := v.token(ctx, path, body, at)
	if err != nil {
		return nil, err
	}
	if err := about(t, want); err != nil {
		return nil, err
	}
	return foreign(t, evidence.RootIntel, in.Runtime, in.InitTime)
}

// foreign takes a token over. One of a verifier like this one says which root it found: a software root is none that
// anybody named here.
func foreign(t *token.Token, root evidence.RootKind, runtime, init *request.Data) (*appraise.Result, error) {
	if said, there := t.Claims["x-cloister-root"]; there && said != string(root) {
		return nil, evidence.Refuse(evidence.CodePolicy, "external token x-cloister-root", fmt.Sprint(said), string(root)).By("another verifier's software root is not believed")
	}
	return appraise.Foreign(t, root, runtime, init), nil
}

// wireTrustAuthority is the body of Intel Trust Authority's attest call, version 1. Without runtime data it compares
// nothing with the report data, whose digest is another one there; it is compared here.
type wireTrustAuthority struct {
	Quote     []byte `json:"quote"`
	Algorithm string `json:"token_signing_alg"`
}

// Guest is refused: the answer to a guest is encrypted to its vTPM, so nobody between can read the token.
func (v *Verifier) Guest(context.Context, *request.Guest, time.Time) (*appraise.Result, error) {
	return nil, v.unsupported("evidence of running guests")
}

// AK is refused: another verifier's token names no keys of a vTPM.
func (v *Verifier) AK(context.Context, *request.AK, time.Time) (*appraise.AK, error) {
	return nil, v.unsupported("keys of vTPMs")
}

func (v *Verifier) unsupported(what string) error {
	return evidence.Refuse(evidence.CodeUnsupported, "external verifier", what, "evidence that "+string(v.o.Protocol)+" judges in the place of this service")
}

// about compares a token's claims with what was sent.
func about(t *token.Token, want map[string]string) error {
	for name, value := range want {
		got, _ := t.Claims[name].(string)
		if subtle.ConstantTimeCompare([]byte(strings.ToLower(got)), []byte(strings.ToLower(value))) != 1 {
			return evidence.Refuse(evidence.CodeBinding, "external token "+name, got, value).By("the token is about the evidence that was sent, and of this request")
		}
	}
	return nil
}

// token sends a request, reads the answer, and checks the token.
func (v *Verifier) token(ctx context.Context, path string, body any, at time.Time) (*token.Token, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.o.URL+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if v.o.Protocol == TrustAuthority {
		req.Header.Set("x-api-key", v.o.APIKey)
	}
	resp, err := v.http.Do(req)
	if err != nil {
		return nil, v.unavailable(err.Error())
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, v.unavailable(err.Error())
	case len(answer) > maxReply:
		return nil, v.unavailable(fmt.Sprintf("more than %d bytes", maxReply))
	case resp.StatusCode == http.StatusBadRequest:
		return nil, evidence.Refuse(evidence.CodePolicy, "external verifier "+v.o.URL, said(answer), "a token").By("the other verifier refused")
	case resp.StatusCode != http.StatusOK:
		return nil, v.unavailable(fmt.Sprintf("status %d", resp.StatusCode))
	}
	var out client.WireToken
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, v.unavailable("an answer that is no JSON")
	}
	return token.VerifyBehind(out.Token, []token.Authority{v.o.Authority}, at, clockSlack)
}

func (v *Verifier) unavailable(got string) error {
	return evidence.Refuse(evidence.CodeUnavailable, "external verifier "+v.o.URL, got, "an answer")
}

// said is the other verifier's reason, cut.
func said(answer []byte) string {
	var body client.WireError
	if err := json.Unmarshal(answer, &body); err != nil || body.Error.Code == "" {
		return "a refusal without a reason"
	}
	text := body.Error.Code + ": " + body.Error.Message
	return text[:min(len(text), 512)]
}

func newNonce() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(raw[:])
}

func wire(d *request.Data) *client.WireData {
	switch {
	case d == nil:
		return nil
	case d.Object == nil:
		return &client.WireData{Data: b64(d.Raw), DataType: "Binary"}
	}
	return &client.WireData{Data: b64(d.Raw), DataType: "JSON"}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
