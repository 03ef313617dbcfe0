package attestation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"time"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

// VerifierAddress is where the host forwards to the verifier. Who answers there is not believed for the address: the
// token's signing keys are pinned in the init data.
const VerifierAddress = "169.254.169.252:443"

const callTimeout = 30 * time.Second

// clockSlack is how far this VM's clock may be behind the verifier's: a real-time clock counts whole seconds, and drifts.
const clockSlack = time.Minute

// ServiceHTTP reaches a service of the init data at a fixed address. The name in its URL is what its certificate must have.
func ServiceHTTP(s initdata.Service, address string) (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.TLSCA)) {
		return nil, evidence.Refuse(evidence.CodeParse, "init data tlsCA", "no certificate", "a PEM certificate")
	}
	dialer := &net.Dialer{}
	return &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}, nil
}

// System names the distribution in a request; it informs only.
type System struct {
	Distro       string
	Build        string
	Major, Minor int
}

// Token sends evidence to the verifier and checks the token that comes back: by the keys in the init data, and that it
// answers this challenge. It returns the compact token too.
func Token(ctx context.Context, c *client.Client, pinned initdata.Service, e *Evidence, rawInit []byte, sys System, now time.Time) (*token.Token, string, error) {
	authority, err := token.NewAuthority(pinned)
	if err != nil {
		return nil, "", err
	}
	challenge := e.Bundle.Nonce
	compact, err := c.AzureGuest(ctx, client.Guest{
		OSType: "Linux", OSDistro: sys.Distro, OSBuild: sys.Build, OSVersionMajor: sys.Major, OSVersionMinor: sys.Minor,
		EventLog: e.Bundle.EventLog, ClientPayload: map[string][]byte{"nonce": challenge},
		AKCertificate: e.Bundle.AKCertificate, AKPublic: e.Bundle.AKPublic, Quote: e.Bundle.Quote, QuoteSignature: e.Bundle.Signature, PCRs: e.PCRs,
		Report: e.Report.Hardware, ChainPEM: []byte(e.Bundle.Chain), RuntimeClaims: e.Report.Claims, InitTimeData: rawInit,
	})
	if err != nil {
		return nil, "", err
	}
	t, err := token.VerifyBehind(compact, []token.Authority{authority}, now, clockSlack)
	if err != nil {
		return nil, "", fmt.Errorf("checking the verifier's token: %w", err)
	}
	got, _ := t.Lookup("x-ms-runtime.client-payload.nonce")
	text, _ := got.(string)
	if back, err := base64.StdEncoding.DecodeString(text); err != nil || !bytes.Equal(back, challenge) {
		return nil, "", evidence.Refuse(evidence.CodeBinding, "token nonce", fmt.Sprintf("%q", text), base64.StdEncoding.EncodeToString(challenge))
	}
	return t, compact, nil
}
