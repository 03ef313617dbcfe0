package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"cloister.dev/cloister/evidence"
)

// maxAnswer bounds answers, in bytes.
const maxAnswer = 1 << 20

// Client talks to one paravisor.
type Client struct{ http *http.Client }

// Dial makes a client for RunDir/control.sock. It connects with each request.
func Dial(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Status asks where the paravisor is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Wait returns when the phase is no longer `than` or the number of events is no longer `events`, or after the server's time of at most 25 s.
func (c *Client) Wait(ctx context.Context, than Phase, events int) (*Status, error) {
	var s Status
	return &s, c.do(ctx, http.MethodGet, fmt.Sprintf("/v1/status?unlike=%s&events=%d", than, events), nil, &s)
}

// PutIdentity hands over the VM's managed-identity token, the first or a renewed one.
func (c *Client) PutIdentity(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodPut, "/v1/identity", Identity{Token: token}, nil)
}

// Evidence gives the second report; refused before phase ready.
func (c *Client) Evidence(ctx context.Context) (*Evidence, error) {
	var e Evidence
	return &e, c.do(ctx, http.MethodGet, "/v1/evidence", nil, &e)
}

// Stop makes the guest state durable and ends the paravisor. It returns when everything is durable.
func (c *Client) Stop(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/stop", nil, nil)
}

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	var payload io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://paravisor"+path, payload)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the paravisor: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the paravisor's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var r evidence.Refusal
		if json.Unmarshal(raw, &r) == nil && r.Code != "" {
			return fmt.Errorf("%s %s: %w", method, path, &r)
		}
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("reading the paravisor's answer: %w", err)
	}
	return nil
}
