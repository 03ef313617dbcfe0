// Package client asks the software chip for launches and reports, over its unix socket.
//
// The protocol is HTTP/1.1 with JSON. The firmware's descriptor travels with the first bytes of the launch
// request (SCM_RIGHTS).
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
)

// Paths of the calls, all POST.
const (
	PathLaunch  = "/v1/launch"
	PathReport  = "/v1/report"
	PathDestroy = "/v1/destroy"
)

// LaunchRequest is the wire form of Launch; the descriptor is not in it.
type LaunchRequest struct {
	VCPUs    int    `json:"vcpus"`
	CPUModel string `json:"cpuModel"`
	Policy   uint64 `json:"policy"`
	HostData string `json:"hostData"` // 64 hexadecimal digits
}

// LaunchResponse carries the handle, 64 hexadecimal digits. It is a capability: keep it out of logs.
type LaunchResponse struct {
	Handle string `json:"handle"`
}

// ReportRequest asks for a report about a launch.
type ReportRequest struct {
	Handle     string `json:"handle"`
	ReportData string `json:"reportData"` // 128 hexadecimal digits
}

// ReportResponse carries the report (1184 bytes) and the chain: VCEK, ASK, ARK in PEM.
type ReportResponse struct {
	Report []byte `json:"report"`
	Chain  []byte `json:"chain"`
}

// DestroyRequest forgets a launch.
type DestroyRequest struct {
	Handle string `json:"handle"`
}

// Failure is the body of every answer that is not 200.
type Failure struct {
	Refusal *evidence.Refusal `json:"refusal,omitempty"`
	Message string            `json:"message,omitempty"`
}

// Launch describes what is to run.
type Launch struct {
	Firmware *os.File // a memfd sealed against every change
	VCPUs    int
	CPUModel string
	Policy   uint64
	HostData [32]byte
}

// Client talks to one chip. Each call uses a connection of its own.
type Client struct{ socket string }

// Dial names the chip's socket; nothing is opened before the first call.
func Dial(socket string) *Client { return &Client{socket} }

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 1 << 20

// Launch has the chip measure a launch and gives its handle.
func (c *Client) Launch(ctx context.Context, l Launch) (string, error) {
	if l.Firmware == nil {
		return "", evidence.Refuse(evidence.CodeConfig, "firmware", "no descriptor", "a sealed memfd")
	}
	var out LaunchResponse
	err := c.call(ctx, PathLaunch, l.Firmware, LaunchRequest{l.VCPUs, l.CPUModel, l.Policy, hex.EncodeToString(l.HostData[:])}, &out)
	if err != nil {
		return "", fmt.Errorf("launching on the software chip: %w", err)
	}
	return out.Handle, nil
}

// Report asks for a report about a launch, and its chain in PEM.
func (c *Client) Report(ctx context.Context, handle string, reportData [64]byte) (report, chainPEM []byte, err error) {
	var out ReportResponse
	if err := c.call(ctx, PathReport, nil, ReportRequest{handle, hex.EncodeToString(reportData[:])}, &out); err != nil {
		return nil, nil, fmt.Errorf("getting a report of the software chip: %w", err)
	}
	return out.Report, out.Chain, nil
}

// Destroy forgets a launch.
func (c *Client) Destroy(ctx context.Context, handle string) error {
	if err := c.call(ctx, PathDestroy, nil, DestroyRequest{handle}, &struct{}{}); err != nil {
		return fmt.Errorf("forgetting a launch of the software chip: %w", err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, path string, file *os.File, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn, ok := raw.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://softchip"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	var text bytes.Buffer
	if err := req.Write(&text); err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	n, _, err := conn.WriteMsgUnix(text.Bytes(), rights, nil)
	if err == nil && n < text.Len() {
		_, err = conn.Write(text.Bytes()[n:])
	}
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return errors.Join(ctx.Err(), err)
	case len(answer) > maxAnswer:
		return errors.New("an answer that is too long")
	case resp.StatusCode != http.StatusOK:
		var f Failure
		if err := json.Unmarshal(answer, &f); err != nil {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		if f.Refusal != nil {
			return f.Refusal
		}
		return fmt.Errorf("status %d: %s", resp.StatusCode, f.Message)
	}
	return json.Unmarshal(answer, out)
}
