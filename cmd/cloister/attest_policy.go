package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/strictjson"
)

const maxPolicyBytes = 1 << 20

// attestPolicy is the policy of --policy.
type attestPolicy struct {
	name   string
	parsed *policy.Policy
}

func policyFlag(cmd *cobra.Command) (*attestPolicy, error) {
	path, err := cmd.Flags().GetString("policy")
	if err != nil || !cmd.Flags().Changed("policy") {
		return nil, err
	}
	raw, err := readFile(path, maxPolicyBytes)
	if err != nil {
		return nil, usageError{fmt.Errorf("--policy: %w", err)}
	}
	p, err := policy.Parse(string(raw))
	if err != nil {
		return nil, usageError{fmt.Errorf("--policy %s: %w", path, err)}
	}
	return &attestPolicy{path, p}, nil
}

// decide evaluates the policy on the claims that an attestation token of the hardware would carry. Nothing is asked of a
// policy about evidence that is not authentic.
func (p *attestPolicy) decide(ev *envelope.Evidence, j evidence.Judgement) evidence.Check {
	const claim, want = "policy", "a rule that permits, and none that denies"
	failed := func(err error) evidence.Check { return evidence.Failed(claim, "attestation policy "+p.name, err) }
	if !j.Authentic {
		return failed(evidence.Refuse(evidence.CodeUnavailable, "", "evidence that is not shown to be authentic", want))
	}
	kind, set, err := tokenClaims(ev, j)
	if err != nil {
		return failed(err)
	}
	schema := claims.Schema(kind)
	if err := p.parsed.Check(schema); err != nil {
		return failed(err)
	}
	out, err := p.parsed.Evaluate(policy.Flatten(set), schema)
	if err != nil {
		return failed(err)
	}
	return evidence.Passed(claim, out.Permit, want, "attestation policy "+p.name)
}

// tokenClaims are the claims of a token of the hardware report (SevSnpVm), runtime claims included.
func tokenClaims(ev *envelope.Evidence, j evidence.Judgement) (claims.Kind, map[string]any, error) {
	if ev.SNP == nil {
		return "", nil, evidence.Refuse(evidence.CodeUnsupported, "", "evidence of the kind "+j.Kind, "SNP evidence")
	}
	out := snpClaims(ev.SNP)
	if ev.HCL != nil {
		runtime, err := strictjson.Object("runtime claims", ev.HCL.Claims)
		if err != nil {
			return "", nil, err
		}
		out[claims.Runtime] = runtime
	}
	claims.Root(out, j.Root)
	return claims.SevSnpVM, out, nil
}

func snpClaims(r *sevsnp.Report) map[string]any {
	return claims.SNP{
		AuthorKeyDigest: r.AuthorKeyDigest, IDKeyDigest: r.IDKeyDigest, Measurement: r.Measurement,
		FamilyID: r.FamilyID, ImageID: r.ImageID, HostData: r.HostData, ReportID: r.ReportID, ReportData: r.ReportData,
		BootLoader: r.ReportedTCB.BootLoader, TEE: r.ReportedTCB.TEE, Firmware: r.ReportedTCB.SNP, Microcode: r.ReportedTCB.Microcode,
		GuestSVN: r.GuestSVN, VMPL: r.VMPL, Debug: r.Policy.Debug(), MigrationAgent: r.Policy.MigrationAgent(), SMT: r.Policy.SMT(),
	}.Claims()
}
