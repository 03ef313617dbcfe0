package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/strictjson"
)

const maxClaimsBytes = 4 << 20

func newAttestPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Try out attestation policies, with no service asked",
		Example: "  cloister attest policy check web.policy --type SevSnpVm\n  cloister attest policy explain web.policy --claims token.jwt",
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyExplain())
	return cmd
}

func policyCommand(use, short, example string, run func(*cobra.Command, *policy.Policy, claims.Kind) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		name, err := cmd.Flags().GetString("type")
		if err != nil {
			return err
		}
		for _, kind := range claims.Kinds {
			if string(kind) != name {
				continue
			}
			raw, err := readFile(args[0], maxPolicyBytes)
			if err != nil {
				return err
			}
			p, err := policy.Parse(string(raw))
			if err == nil {
				err = p.Check(claims.Schema(kind))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return run(cmd, p, kind)
		}
		return usageError{fmt.Errorf("--type %s: want one of %v", name, claims.Kinds)}
	}}
	cmd.Flags().String("type", string(claims.SevSnpVM), "attestation type: SevSnpVm, TdxVm or AzureGuest")
	return cmd
}

func newPolicyCheck() *cobra.Command {
	return policyCommand("check FILE", "Check a policy's syntax, and that the claims it asks for exist",
		"  cloister attest policy check web.policy --type TdxVm", func(cmd *cobra.Command, p *policy.Policy, kind claims.Kind) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: good, x-ms-policy-hash %s\n", kind, policy.Hash(p.Text()))
			return err
		})
}

func newPolicyExplain() *cobra.Command {
	cmd := policyCommand("explain FILE", "Tell what a policy decides for given claims, by which rule, and why",
		"  cloister attest policy explain web.policy --claims claims.json\n  cloister attest policy explain web.policy --claims token.jwt -o json", explainPolicy)
	cmd.Flags().String("claims", "", "claims: a JSON object, or a token (its signature is not checked)")
	_ = cmd.MarkFlagRequired("claims") // it exists: the line above made it
	addOutput(cmd)
	return cmd
}

func explainPolicy(cmd *cobra.Command, p *policy.Policy, kind claims.Kind) error {
	o, err := output(cmd)
	if err != nil {
		return err
	}
	path, err := cmd.Flags().GetString("claims")
	if err != nil {
		return err
	}
	set, err := readClaims(path)
	if err != nil {
		return fmt.Errorf("--claims %s: %s", path, err.Error()) // unreadable, not refused
	}
	t := p.Explain(policy.Flatten(set), claims.Schema(kind))
	out := cmd.OutOrStdout()
	if o == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(t)
	} else {
		decision := map[bool]string{true: "permitted", false: "denied"}[t.Permitted]
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintf(w, "%s by %s\n\nRULE\tAT\tACTION\tFIRED\tWHY\n", decision, t.By)
		for _, r := range t.Rules {
			fmt.Fprintf(w, "%s %d\t%d:%d\t%s\t%d\t%s\n", r.Section, r.Number, r.Line, r.Column, r.Action, r.Fired, r.Why())
		}
		err = w.Flush()
	}
	if err == nil && !t.Permitted {
		err = evidence.Refuse(evidence.CodePolicy, "policy", t.Why, "a rule that permits, and none that denies").By(t.By)
	}
	return err
}

// readClaims reads a JSON object, or the payload of a compact token.
func readClaims(path string) (map[string]any, error) {
	raw, err := readFile(path, maxClaimsBytes)
	if err != nil {
		return nil, err
	}
	if parts := strings.Split(strings.TrimSpace(string(raw)), "."); len(parts) == 3 && !strings.HasPrefix(parts[0], "{") {
		if raw, err = base64.RawURLEncoding.DecodeString(parts[1]); err != nil {
			return nil, err
		}
	}
	return strictjson.ObjectWithNumbers("claims", raw)
}
