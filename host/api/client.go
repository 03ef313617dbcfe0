package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"cloister.dev/cloister/evidence"
)

const (
	maxReply = 4 << 20  // bytes of one answer
	maxLine  = 64 << 20 // bytes of one line of the watch stream: a snapshot of a full host
)

// Client speaks to the control plane for one host.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a client. The HTTP client brings the TLS set-up: roots, and (except for Join) the client
// certificate. It must have no overall timeout, since Watch stays open: use contexts.
func NewClient(base string, h *http.Client) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), http: h}
}

// Join trades a one-time token for a client certificate.
func (c *Client) Join(ctx context.Context, r JoinRequest) (*JoinResponse, error) {
	var out JoinResponse
	return &out, c.call(ctx, PathJoin, r, &out)
}

// Renew asks for a new certificate.
func (c *Client) Renew(ctx context.Context, r RenewRequest) (*JoinResponse, error) {
	var out JoinResponse
	return &out, c.call(ctx, PathRenew, r, &out)
}

// Report sends facts, statuses and events. After an error send the same events again: they are told apart by
// VM, time, step and state.
func (c *Client) Report(ctx context.Context, r Report) (*ReportResponse, error) {
	var out ReportResponse
	return &out, c.call(ctx, PathReport, r, &out)
}

// Identity gets a VM's managed-identity token.
func (c *Client) Identity(ctx context.Context, vmID, audience string) (string, error) {
	var out IdentityResponse
	err := c.call(ctx, PathVMs+url.PathEscape(vmID)+"/identity", IdentityRequest{Audience: audience}, &out)
	return out.Token, err
}

// Answer hands over the answer to a request.
func (c *Client) Answer(ctx context.Context, vmID, id string, a Answer) error {
	return c.call(ctx, PathVMs+url.PathEscape(vmID)+"/answers/"+url.PathEscape(id), a, nil)
}

// Watch calls handle for each message until the stream ends, handle fails or the context is done. A stream
// always begins with a snapshot. The caller opens a new one when it ends.
func (c *Client) Watch(ctx context.Context, handle func(Message) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+PathWatch, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("opening the watch stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusalOf(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for first := true; lines.Scan(); first = false {
		var m Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("reading the watch stream: %w", err)
		}
		if first != (m.Kind == MessageSnapshot) {
			return evidence.Refuse(evidence.CodeParse, "watch stream", m.Kind, "one snapshot, at the beginning")
		}
		if err := handle(m); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the watch stream: %w", err)
	}
	return io.EOF
}

func (c *Client) call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("calling the control plane: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return refusalOf(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(out); err != nil {
		return fmt.Errorf("reading the control plane's answer: %w", err)
	}
	return nil
}

// refusalOf reads an answer that is no success.
func refusalOf(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("reading the control plane's answer: %w", err)
	}
	var e ErrorResponse
	if json.Unmarshal(raw, &e) == nil && e.Error.Code != "" {
		return &e.Error
	}
	return evidence.Refuse(evidence.CodeUnavailable, "control plane", resp.Status, "an answer")
}
