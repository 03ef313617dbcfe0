package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/event"
)

// MetadataURL is the host's service for this VM. Everything it says is the host's word.
const MetadataURL = "http://169.254.169.254"

const (
	maxAnswer   = 1 << 20 // bytes
	waitSeconds = 25
)

// Metadata is the way to the host.
type Metadata struct {
	URL  string
	HTTP *http.Client
}

func (m Metadata) call(ctx context.Context, method, path string, body any, out any) (status int, err error) {
	var send io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		send = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.URL+path, send)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Metadata", "true")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := m.HTTP.Do(req)
	if err != nil {
		return 0, evidence.Refuse(evidence.CodeUnavailable, "metadata "+path, err.Error(), "an answer")
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return 0, evidence.Refuse(evidence.CodeUnavailable, "metadata "+path, err.Error(), "a whole answer")
	case resp.StatusCode/100 != 2:
		return resp.StatusCode, evidence.Refuse(evidence.CodeUnavailable, "metadata "+path, resp.Status, "200")
	case out != nil && resp.StatusCode != http.StatusNoContent:
		if err := json.Unmarshal(raw, out); err != nil {
			return 0, evidence.Refuse(evidence.CodeParse, "metadata "+path, err.Error(), "JSON")
		}
	}
	return resp.StatusCode, nil
}

// Chain is the certificate chain of the hardware report, PEM, leaf first.
func (m Metadata) Chain(ctx context.Context) (string, error) {
	var out struct {
		VCEKCert         string `json:"vcekCert"`
		CertificateChain string `json:"certificateChain"`
	}
	if _, err := m.call(ctx, http.MethodGet, "/metadata/THIM/amd/certification", nil, &out); err != nil {
		return "", err
	}
	if out.VCEKCert == "" || out.CertificateChain == "" {
		return "", evidence.Refuse(evidence.CodeUnavailable, "certificate chain", "nothing", "leaf and issuers")
	}
	return strings.TrimRight(out.VCEKCert, "\n") + "\n" + out.CertificateChain, nil
}

// Event tells the host of a step.
func (m Metadata) Event(ctx context.Context, e event.Event) error {
	_, err := m.call(ctx, http.MethodPost, "/cloister/v1/events", e, nil)
	return err
}

// Request is something the host passes on from a tenant.
type Request struct {
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	Nonce []byte `json:"nonce"`
}

// Next waits for a request; nil when none came.
func (m Metadata) Next(ctx context.Context) (*Request, error) {
	ctx, cancel := context.WithTimeout(ctx, (waitSeconds+10)*time.Second)
	defer cancel()
	var r Request
	status, err := m.call(ctx, http.MethodGet, fmt.Sprintf("/cloister/v1/requests?wait=%d", waitSeconds), nil, &r)
	if err != nil || status == http.StatusNoContent {
		return nil, err
	}
	return &r, nil
}

// Answer answers a request.
func (m Metadata) Answer(ctx context.Context, id string, body any) error {
	_, err := m.call(ctx, http.MethodPost, "/cloister/v1/requests/"+url.PathEscape(id), body, nil)
	return err
}
