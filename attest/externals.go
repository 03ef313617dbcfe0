package attest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"cloister.dev/cloister/attest/external"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
)

// External is an issuer whose evidence another verifier judges. This service then applies its own policy to what the
// other one said, and issues its own token, which names the other one.
type External struct {
	// Issuer is the URL under which tokens are issued and the API is served.
	Issuer string `json:"issuer"`
	// Protocol is "MAA" (Microsoft Azure Attestation) or "TrustAuthority" (Intel Trust Authority).
	Protocol string `json:"protocol"`
	// URL is where the other verifier is called: https, without a final slash.
	URL string `json:"url"`
	// TokenIssuer is the issuer in its tokens.
	TokenIssuer string `json:"tokenIssuer"`
	// Keys are the only ones whose tokens count; those that a token points to are never fetched.
	Keys []initdata.SigningKey `json:"keys"`
	// CA is a PEM file with the roots of its TLS certificate; empty: the system's.
	CA string `json:"ca,omitempty"`
	// APIKeyFile holds the key that Intel Trust Authority wants.
	APIKeyFile string `json:"apiKeyFile,omitempty"`
}

// externalTimeout bounds one call of another verifier.
const externalTimeout = 20 * time.Second

func (e *External) authority() (token.Authority, error) {
	return token.NewAuthority(initdata.Service{URL: e.TokenIssuer, SigningKeys: e.Keys})
}

func (e *External) validate(field string) (mistakes []error) {
	if e == nil {
		return nil
	}
	add := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(field+format, args...)) }
	a, err := e.authority()
	if err != nil {
		add(".external.keys: %w", err)
		return mistakes
	}
	if _, err := external.New(external.Options{Protocol: external.Protocol(e.Protocol), URL: e.URL, Authority: a, HTTP: &http.Client{Timeout: externalTimeout}}); err != nil {
		add(".external: %w", err)
	}
	if wants := e.Protocol == string(external.TrustAuthority); wants != (e.APIKeyFile != "") {
		add(".external.apiKeyFile: %q, want a file for TrustAuthority, and none else", e.APIKeyFile)
	}
	return mistakes
}

// verifier reads the files that the configuration names.
func (e *External) verifier() (*external.Verifier, error) {
	a, err := e.authority()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 64 << 10}
	if e.CA != "" {
		pem, err := os.ReadFile(e.CA)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", e.CA)
		}
	}
	o := external.Options{Protocol: external.Protocol(e.Protocol), URL: e.URL, Authority: a, HTTP: &http.Client{Transport: t, Timeout: externalTimeout}}
	if e.APIKeyFile != "" {
		key, err := os.ReadFile(e.APIKeyFile)
		if err != nil {
			return nil, err
		}
		if o.APIKey = strings.TrimSpace(string(key)); o.APIKey == "" {
			return nil, errors.New("the API key's file is empty")
		}
	}
	return external.New(o)
}
