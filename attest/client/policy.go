package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"cloister.dev/cloister/evidence"
)

// Policy reads the policy of an attestation type ("SevSnpVm", "AzureGuest"): its text. The answer's
// signature is not checked here: what counts is the policy hash in tokens.
func (c *Client) Policy(ctx context.Context, kind string) (string, error) {
	claims, err := c.policyCall(ctx, http.MethodGet, "/policies/"+kind, "")
	if err != nil {
		return "", fmt.Errorf("reading the policy of %s: %w", kind, err)
	}
	return PolicyText(claims.Policy)
}

// SetPolicy stores a policy, as an unsigned JWS.
func (c *Client) SetPolicy(ctx context.Context, kind, text string) error {
	jws, err := PolicyJWS(text)
	if err != nil {
		return err
	}
	claims, err := c.policyCall(ctx, http.MethodPut, "/policies/"+kind, jws)
	if err != nil {
		return fmt.Errorf("setting the policy of %s: %w", kind, err)
	}
	if claims.Result != "Updated" {
		return fmt.Errorf("setting the policy of %s: %w", kind, evidence.Refuse(evidence.CodePolicy, "x-ms-policy-result", claims.Result, "Updated"))
	}
	return nil
}

// ResetPolicy brings the default policy back.
func (c *Client) ResetPolicy(ctx context.Context, kind string) error {
	claims, err := c.policyCall(ctx, http.MethodPost, "/policies/"+kind+":reset", unsignedHeader+"..")
	if err != nil {
		return fmt.Errorf("resetting the policy of %s: %w", kind, err)
	}
	if claims.Result != "Removed" {
		return fmt.Errorf("resetting the policy of %s: %w", kind, evidence.Refuse(evidence.CodePolicy, "x-ms-policy-result", claims.Result, "Removed"))
	}
	return nil
}

// unsignedHeader is {"alg":"none"}.
const unsignedHeader = "eyJhbGciOiJub25lIn0"

// PolicyJWS wraps a policy's text as an unsigned JWS, the form in which policies are stored.
func PolicyJWS(text string) (string, error) {
	payload, err := json.Marshal(map[string]string{"AttestationPolicy": b64url([]byte(text))})
	if err != nil {
		return "", err
	}
	return unsignedHeader + "." + b64url(payload) + ".", nil
}

func badPolicy(got string) error {
	return evidence.Refuse(evidence.CodeParse, "policy JWS", got, "three parts, with AttestationPolicy in the payload")
}

// PolicyText takes the policy's text out of a JWS. It checks no signature.
func PolicyText(jws string) (string, error) {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		return "", badPolicy(fmt.Sprintf("%d parts", len(parts)))
	}
	payload, err := unb64(parts[1])
	if err != nil {
		return "", badPolicy("a payload that is no base64url")
	}
	return PayloadPolicy(payload)
}

// PayloadPolicy takes the policy's text out of the payload of a JWS: who has checked a signature has its payload, and reads
// nothing else.
func PayloadPolicy(payload []byte) (string, error) {
	var body struct {
		AttestationPolicy *string `json:"AttestationPolicy"`
	}
	if err := json.Unmarshal(payload, &body); err != nil || body.AttestationPolicy == nil {
		return "", badPolicy("a payload without AttestationPolicy")
	}
	text, err := unb64(*body.AttestationPolicy)
	if err != nil {
		return "", badPolicy("a policy that is no base64url")
	}
	return string(text), nil
}

type policyClaims struct {
	Policy string `json:"x-ms-policy"`
	Result string `json:"x-ms-policy-result"`
}

func (c *Client) policyCall(ctx context.Context, method, path, body string) (*policyClaims, error) {
	var out WireToken
	header := http.Header{}
	if c.bearer != nil {
		token, err := c.bearer(ctx)
		if err != nil {
			return nil, fmt.Errorf("signing in: %w", err)
		}
		header.Set("Authorization", "Bearer "+token)
	}
	if err := c.send(ctx, method, path, VersionPolicy, "text/plain", []byte(body), header, &out); err != nil {
		return nil, err
	}
	parts := strings.Split(out.Token, ".")
	if len(parts) != 3 {
		return nil, evidence.Refuse(evidence.CodeParse, "answer", "no compact JWS", "a compact JWS")
	}
	payload, err := unb64(parts[1])
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer", "no compact JWS", "a compact JWS")
	}
	var claims policyClaims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "answer", "claims that are no JSON", "JSON")
	}
	return &claims, nil
}

// unb64 reads base64url with or without padding.
func unb64(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}
