package tenant

import (
	"context"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"

	attest "cloister.dev/cloister/attest/client"
)

// policyKind is the attestation type whose policy judges running VMs.
const policyKind = "AzureGuest"

// The marks around a rule that the CLI wrote, so that it finds its own again and leaves the tenant's other rules alone.
const (
	ruleMark  = "// cloister image "
	emptyText = "version=1.0;\nauthorizationrules {\n};\nissuancerules {\n};\n"
)

// ImageRule is the rule that accepts VMs which booted an image: the PCRs are as predicted, and Secure Boot was on.
func ImageRule(digest string, pcrs map[int][32]byte) string {
	numbers := make([]int, 0, len(pcrs))
	for n := range pcrs {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	conditions := []string{`[type=="secureboot", value==true]`}
	for _, n := range numbers {
		v := pcrs[n]
		conditions = append(conditions, fmt.Sprintf(`[type=="x-cloister-pcr%d", value=="%s"]`, n, hex.EncodeToString(v[:])))
	}
	return fmt.Sprintf("  %s%s\n  %s => permit();\n", ruleMark, digest, strings.Join(conditions, " && "))
}

// AddRule puts a rule into a policy's authorization rules, unless it is there. A rule of the same image with other
// values is replaced.
func AddRule(policy, digest, rule string) (string, error) {
	if strings.Contains(policy, rule) {
		return policy, nil
	}
	const opening = "authorizationrules"
	at := strings.Index(policy, opening)
	if at < 0 {
		return "", fmt.Errorf("the attestation policy has no %s section; add this rule by hand:\n%s", opening, rule)
	}
	brace := strings.IndexByte(policy[at:], '{')
	if brace < 0 {
		return "", fmt.Errorf("the attestation policy's %s section does not open; add this rule by hand:\n%s", opening, rule)
	}
	if i := strings.Index(policy, ruleMark+digest+"\n"); i >= 0 {
		if end := strings.Index(policy[i:], "permit();\n"); end >= 0 {
			start := strings.LastIndexByte(policy[:i], '\n') + 1
			policy = policy[:start] + policy[i+end+len("permit();\n"):]
		}
	}
	i := at + brace + 1
	return policy[:i] + "\n" + rule + strings.TrimPrefix(policy[i:], "\n"), nil
}

// AcceptImage lets the tenant's attestation policy accept VMs that booted this image.
func (t *Tenant) AcceptImage(ctx context.Context, e *Expected) error {
	c := t.verifier()
	policy, err := c.Policy(ctx, policyKind)
	if err != nil {
		return fmt.Errorf("reading the attestation policy: %w", err)
	}
	if strings.TrimSpace(policy) == "" {
		policy = emptyText
	}
	changed, err := AddRule(policy, e.Image.Digest, ImageRule(e.Image.Digest, e.PCRs))
	if err != nil || changed == policy {
		return err
	}
	if err := c.SetPolicy(ctx, policyKind, changed); err != nil {
		return fmt.Errorf("writing the attestation policy: %w", err)
	}
	return nil
}

// attestAudience is whom a token for policy calls is for.
const attestAudience = "https://attest.azure.net"

func (t *Tenant) verifier() *attest.Client {
	return attest.New(attest.Options{URL: t.Conn.Trust.Attest.URL, HTTP: t.Conn.HTTP(), Bearer: func(ctx context.Context) (string, error) {
		return t.Conn.Bearer(ctx, attestAudience)
	}})
}
