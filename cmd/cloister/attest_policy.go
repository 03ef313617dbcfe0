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
	"cloister.dev/cloister/evidence/tdx"
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

// tokenClaims are the claims of a token of the hardware (SevSnpVm, TdxVm), runtime claims included.
func tokenClaims(ev *envelope.Evidence, j evidence.Judgement) (claims.Kind, map[string]any, error) {
	var kind claims.Kind
	var out map[string]any
	switch {
	case ev.SNP != nil:
		kind, out = claims.SevSnpVM, snpClaims(ev.SNP)
	case ev.TDQuote != nil:
		kind, out = claims.TdxVM, tdxClaims(&ev.TDQuote.Body, j)
	default:
		return "", nil, evidence.Refuse(evidence.CodeUnsupported, "", "evidence of the kind "+j.Kind, "SNP or TDX evidence")
	}
	if ev.HCL != nil {
		runtime, err := strictjson.Object("runtime claims", ev.HCL.Claims)
		if err != nil {
			return "", nil, err
		}
		out[claims.Runtime] = runtime
	}
	claims.Root(out, j.Root)
	return kind, out, nil
}

// tdxClaims takes what collateral says of the platform from the judgement; without collateral a token would say nothing.
func tdxClaims(b *tdx.Body, j evidence.Judgement) map[string]any {
	a := b.TDAttributes
	d := claims.TDX{
		TEETCBSVN: b.TEETCBSVN, MRSeam: b.MRSeam, MRSignerSeam: b.MRSignerSeam, SeamAttributes: b.SeamAttributes, Attributes: uint64(a), XFAM: b.XFAM,
		MRTD: b.MRTD, MRConfigID: b.MRConfigID, MROwner: b.MROwner, MROwnerConfig: b.MROwnerConfig, RTMR: b.RTMR, ReportData: b.ReportData,
		Debug: a.Has(tdx.Debug), SEPTVEDisable: a.Has(tdx.SEPTVEDisable), PKS: a.Has(tdx.PKS), KeyLocker: a.Has(tdx.KeyLocker), Perfmon: a.Has(tdx.Perfmon),
		Migratable: a.Has(tdx.Migratable), MRServiceTD: b.MRServiceTD,
	}
	if status, ok := j.Claims["tcb-status"].(string); ok {
		advisories, _ := j.Claims["advisories"].([]string)
		number, _ := j.Claims["tcb-evaluation"].(uint32)
		d.TCB = &claims.TCB{Status: status, Advisories: advisories, EvaluationNumber: number}
	}
	return d.Claims()
}

func snpClaims(r *sevsnp.Report) map[string]any {
	return claims.SNP{
		AuthorKeyDigest: r.AuthorKeyDigest, IDKeyDigest: r.IDKeyDigest, Measurement: r.Measurement,
		FamilyID: r.FamilyID, ImageID: r.ImageID, HostData: r.HostData, ReportID: r.ReportID, ReportData: r.ReportData,
		BootLoader: r.ReportedTCB.BootLoader, TEE: r.ReportedTCB.TEE, Firmware: r.ReportedTCB.SNP, Microcode: r.ReportedTCB.Microcode,
		GuestSVN: r.GuestSVN, VMPL: r.VMPL, Debug: r.Policy.Debug(), MigrationAgent: r.Policy.MigrationAgent(), SMT: r.Policy.SMT(),
	}.Claims()
}
