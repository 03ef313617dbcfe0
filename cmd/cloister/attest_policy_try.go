package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/attest/claims"
	"cloister.dev/cloister/attest/policy"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/judge"
	"cloister.dev/cloister/evidence/strictjson"
)

const maxClaimsBytes = 4 << 20

func newAttestPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Try out attestation policies, with no service asked",
		Example: "  cloister attest policy check web.policy --type SevSnpVm\n  cloister attest policy explain web.policy --claims token.jwt\n  cloister attest policy test web.cases.yaml",
	}
	cmd.AddCommand(newPolicyCheck(), newPolicyExplain(), newPolicyTest())
	return cmd
}

const defaultKind = claims.SevSnpVM

func addKind(cmd *cobra.Command) {
	cmd.Flags().String("type", string(defaultKind), "attestation type: SevSnpVm, TdxVm or AzureGuest")
}

func kindFlag(cmd *cobra.Command) (claims.Kind, error) {
	name, err := cmd.Flags().GetString("type")
	if err != nil {
		return "", err
	}
	kind, err := kindNamed(name)
	if err != nil {
		return "", usageError{fmt.Errorf("--type: %w", err)}
	}
	return kind, nil
}

func kindNamed(name string) (claims.Kind, error) {
	for _, kind := range claims.Kinds {
		if string(kind) == name {
			return kind, nil
		}
	}
	return "", fmt.Errorf("attestation type %q: want one of %v", name, claims.Kinds)
}

// readPolicy reads a policy as the service takes it: it parses, and asks for claims that exist. What is wrong with a
// text is no verdict, so the refusal isn't wrapped.
func readPolicy(path string, kind claims.Kind) (*policy.Policy, error) {
	raw, err := readFile(path, maxPolicyBytes)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(string(raw))
	if err == nil {
		err = p.Check(claims.Schema(kind))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, err.Error())
	}
	return p, nil
}

func newPolicyCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Check a policy's syntax, and that the claims it asks for exist", Args: cobra.ExactArgs(1),
		Long: "Check a policy as the service does before it stores one: its syntax, and that each claim it asks for is one that the service\n" +
			"gives for this type or that a rule makes.\n\nExit status 0: good. 1: not, with line and column.",
		Example: "  cloister attest policy check web.policy --type TdxVm",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			kind, err := kindFlag(cmd)
			if err != nil {
				return err
			}
			p, err := readPolicy(args[0], kind)
			if err != nil {
				return err
			}
			if o == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]any{"type": kind, "x-ms-policy-hash": policy.Hash(p.Text())})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good, x-ms-policy-hash %s\n", kind, policy.Hash(p.Text()))
			return err
		},
	}
	addKind(cmd)
	addOutput(cmd)
	return cmd
}

func newPolicyExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain FILE", Short: "Tell what a policy decides for given claims or evidence, by which rule, and why", Args: cobra.ExactArgs(1),
		Long: `Tell what a policy decides, by which rule, and why each rule fired or did not.

The claims come from --claims, a JSON object or a token whose signature is not checked, or from --evidence with SNP or
TDX evidence, of which the claims are made that a token would have. Whether evidence is authentic is said and not
decided here: "attest verify --policy" gives the verdict.

Exit status 0: permitted. 3: denied. 1: unreadable.`,
		Example: "  cloister attest policy explain web.policy --claims claims.json\n  cloister attest policy explain web.policy --claims token.jwt -o json\n" +
			"  cloister attest policy explain web.policy --evidence report.bin --certs chain.pem",
		RunE: explainPolicy,
	}
	cmd.Flags().String("claims", "", "claims: a JSON object, or a token (its signature is not checked)")
	addKind(cmd)
	addEvidenceFlags(cmd)
	addOutput(cmd)
	cmd.MarkFlagsOneRequired("claims", "evidence")
	cmd.MarkFlagsMutuallyExclusive("claims", "evidence")
	return cmd
}

func explainPolicy(cmd *cobra.Command, args []string) error {
	o, err := output(cmd)
	if err != nil {
		return err
	}
	kind, set, err := givenClaims(cmd)
	if err != nil {
		return err
	}
	p, err := readPolicy(args[0], kind)
	if err != nil {
		return err
	}
	t := p.Explain(policy.Flatten(set), claims.Schema(kind))
	if o == "json" {
		err = printJSON(cmd.OutOrStdout(), t)
	} else {
		err = printTrace(cmd.OutOrStdout(), t)
	}
	if err == nil && !t.Permitted {
		err = evidence.Refuse(evidence.CodePolicy, "policy", t.Why, "a rule that permits, and none that denies").By(t.By)
	}
	return err
}

// decided says in words what was decided, and by which rule.
func decided(permitted bool, by string) string {
	switch {
	case permitted:
		return "permitted by " + by
	case by == "denied by default":
		return by
	}
	return "denied by " + by
}

func printTrace(out io.Writer, t policy.Trace) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n\nRULE\tAT\tACTION\tFIRED\tWHY\n", decided(t.Permitted, t.By))
	for _, r := range t.Rules {
		fmt.Fprintf(w, "%s %d\t%d:%d\t%s\t%d\t%s\n", r.Section, r.Number, r.Line, r.Column, r.Action, r.Fired, r.Why())
	}
	return w.Flush()
}

// givenClaims are the claims that --claims or --evidence give, and the type that they are of.
func givenClaims(cmd *cobra.Command) (claims.Kind, map[string]any, error) {
	kind, err := kindFlag(cmd)
	if err != nil {
		return "", nil, err
	}
	if path, err := cmd.Flags().GetString("claims"); err != nil {
		return "", nil, err
	} else if path != "" {
		set, err := readClaims(path)
		return kind, set, err
	}
	in, err := attestInput(cmd)
	if err != nil {
		return "", nil, err
	}
	found, set, j, err := judgedClaims(in)
	switch {
	case err != nil:
		return "", nil, err
	case cmd.Flags().Changed("type") && kind != found:
		return "", nil, usageError{fmt.Errorf("--type %s: the evidence is of the type %s", kind, found)}
	case !j.Authentic:
		fmt.Fprintln(cmd.ErrOrStderr(), "this evidence is not shown to be authentic: no policy would be asked about it (see attest inspect)")
	}
	return found, set, nil
}

func judgedClaims(in judge.Input) (claims.Kind, map[string]any, evidence.Judgement, error) {
	j, err := judge.Inspect(in)
	if err != nil {
		return "", nil, j, usageError{err}
	}
	kind, set, err := tokenClaims(in.Evidence, j)
	if err != nil {
		return "", nil, j, unreadable(err)
	}
	return kind, set, j, nil
}

// readClaims reads a JSON object, or the payload of a compact token. What can't be read is no verdict.
func readClaims(path string) (map[string]any, error) {
	raw, err := readFile(path, maxClaimsBytes)
	if err != nil {
		return nil, err
	}
	set, err := parseClaims(filepath.Base(path), raw)
	if err != nil {
		return nil, errors.New(err.Error())
	}
	return set, nil
}

func parseClaims(name string, raw []byte) (map[string]any, error) {
	if parts := strings.Split(strings.TrimSpace(string(raw)), "."); len(parts) == 3 && !strings.HasPrefix(parts[0], "{") {
		var err error
		if raw, err = base64.RawURLEncoding.DecodeString(parts[1]); err != nil {
			return nil, fmt.Errorf("%s: neither a JSON object nor a token: %w", name, err)
		}
	}
	return strictjson.ObjectWithNumbers(name, raw)
}

// beside finds a file that another file names: relative to that file's folder.
func beside(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(file), name)
}
