package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	attest "cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	keys "cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/paravisor"
	"cloister.dev/cloister/paravisor/client"
	softchip "cloister.dev/cloister/softchip/client"
)

// serviceTimeout bounds one call to a service.
const serviceTimeout = 60 * time.Second

type cpu struct {
	chip   *softchip.Client
	handle string
}

func softwareCPU(c client.Config) paravisor.Hardware {
	return cpu{softchip.Dial(c.SoftchipSocket), c.SoftchipHandle}
}

func (c cpu) Report(ctx context.Context, reportData [64]byte) (report, chainPEM []byte, err error) {
	return c.chip.Report(ctx, c.handle, reportData)
}

type attestation struct{ c *attest.Client }

func verifier(c client.Config) func(initdata.Service) (paravisor.Verifier, error) {
	return func(s initdata.Service) (paravisor.Verifier, error) {
		h, err := httpClient(c, s)
		if err != nil {
			return nil, err
		}
		return attestation{attest.New(attest.Options{URL: s.URL, HTTP: h})}, nil
	}
}

func (a attestation) Token(ctx context.Context, e paravisor.HostEvidence) (string, error) {
	return a.c.SevSnpVM(ctx, attest.SevSnpVM{Report: e.Report, ChainPEM: e.ChainPEM, RuntimeData: e.RuntimeData, InitTimeData: e.InitialData, Nonce: e.Nonce})
}

func (a attestation) AKCertificate(ctx context.Context, r paravisor.AKRequest) ([]byte, error) {
	return a.c.AKCertificate(ctx, attest.AKRequest{HCLReport: r.HCLReport, ChainPEM: r.ChainPEM, InitTimeData: r.InitialData, EKPublic: r.EKPublic, AKPublic: r.AKPublic})
}

type vault struct{ c *keys.Client }

func keyKeeper(c client.Config) func(initdata.Service, func(context.Context) (string, error)) (paravisor.KeyKeeper, error) {
	return func(s initdata.Service, bearer func(context.Context) (string, error)) (paravisor.KeyKeeper, error) {
		h, err := httpClient(c, s)
		if err != nil {
			return nil, err
		}
		return vault{keys.New(keys.Options{URL: s.URL, HTTP: h, Bearer: bearer, Signers: s.SigningKeys})}, nil
	}
}

func (v vault) Open(ctx context.Context, r paravisor.KeyRequest) (paravisor.Release, error) {
	o, err := v.c.Open(ctx, keys.OpenRequest{VMID: r.VMID, Generation: r.Generation, Session: r.Session, Token: r.Token, Nonce: r.Nonce})
	if err != nil {
		return paravisor.Release{}, err
	}
	return paravisor.Release{Next: o.Next, OperatorTrusted: o.OperatorTrusted, Unwrap: o.Unwrap}, nil
}

func (v vault) Confirm(ctx context.Context, r paravisor.KeyRequest) error {
	return v.c.Confirm(ctx, keys.ConfirmRequest{VMID: r.VMID, Generation: r.Generation, Session: r.Session, Token: r.Token, Nonce: r.Nonce})
}

// httpClient reaches a service that the init data name. TLS is checked with the CA that the init data
// carry; it protects the transport only. What answers say is believed by their own signatures. The
// environment's proxies are the host's and are not used; redirects are not followed.
func httpClient(c client.Config, s initdata.Service) (*http.Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(s.TLSCA)) {
		return nil, evidence.Refuse(evidence.CodeParse, "tlsCA of "+s.URL, "no certificate", "the PEM certificate of the service's CA")
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{
		Timeout:       serviceTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:             nil,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if other := c.Connect[address]; other != "" {
					address = other
				}
				return dialer.DialContext(ctx, network, address)
			},
		},
	}, nil
}
