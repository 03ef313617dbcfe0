package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/judge"
)

func newAttest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "attest", Short: "Judge evidence that is in a file, with no service asked",
		Example: "  cloister attest inspect --evidence report.bin --certs chain.pem\n  cloister attest verify --evidence e.json --expect x.json --nonce …",
	}
	cmd.AddCommand(newAttestInspect(), newAttestVerify(), newAttestCollateral(), newAttestPolicy())
	return cmd
}

const evidenceKinds = `What the evidence is, is told by its content: an SNP report (raw, hex digits, or with its certificate table), a TD quote,
an SGX quote, a TDREPORT, an HCL report, a vTPM quote, JSON evidence of Azure CVMs, what Linux's configfs-tsm gives
(JSON or CBOR), or our own bundle. No platform, no state folder and no network is needed.

Roots: the keys of AMD and Intel are pinned and count unless --root names others. A software root counts only when
--root names it; for our own bundle, those of an installation's trust.json in the state folder count too, where --root
is not given. Certificates and collateral (--certs, --collateral, or inside the evidence) never become roots.`

func newAttestInspect() *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect", Short: "Tell everything that evidence says, and whether it is authentic", Args: cobra.NoArgs,
		Long:    "Tell everything that evidence says, and whether it is authentic.\n\n" + evidenceKinds + "\n\nExit status 0: authentic. 3: not. 1: unreadable.",
		Example: "  cloister attest inspect --evidence report.bin --certs vcek.der --certs ask_ark.pem\n  cloister attest inspect --evidence - -o json < td-quote.bin",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			in, err := attestInput(cmd)
			if err != nil {
				return err
			}
			j, err := judge.Inspect(in)
			if err != nil {
				return usageError{err}
			}
			if o == "json" {
				err = printJSON(cmd.OutOrStdout(), inspection{j.Kind, j.Root, j.Authentic, j.Checks, j.Claims})
			} else {
				err = printInspection(cmd.OutOrStdout(), j)
			}
			if err != nil || j.Authentic {
				return err
			}
			return notAuthentic(j)
		},
	}
	addAttestFlags(cmd)
	return cmd
}

// inspection is what attest inspect prints as JSON: a judgement without a verdict.
type inspection struct {
	Kind      string            `json:"kind"`
	Root      evidence.RootKind `json:"root"`
	Authentic bool              `json:"authentic"`
	Checks    []evidence.Check  `json:"checks"`
	Claims    map[string]any    `json:"claims"`
}

// notAuthentic says why, in one line.
func notAuthentic(j evidence.Judgement) error {
	for _, result := range []evidence.Result{evidence.NotMet, evidence.NotHad} {
		for _, c := range j.Checks {
			if c.Result == result {
				return evidence.Refuse(evidence.CodeChain, c.Claim, c.Got, c.Want).By(c.Rule)
			}
		}
	}
	return evidence.Refuse(evidence.CodeChain, "evidence", "not authentic", "a signature under a root that was named")
}

func newAttestVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Give the verdict on evidence", Args: cobra.NoArgs,
		Long: "Give the verdict on evidence: authentic, and what is expected.\n\n" + evidenceKinds + `

What is expected comes from you: --expect, --report-data, --nonce, --policy. A claim that says what was started must be
said something of, or be named by --any; with nothing expected the verdict is refused. --any all waives them all, and
also provisional-firmware. Judged by safe defaults in any case: debugging, migration, VMPL, the kind of the signing
key, a TCB floor or Intel's TCB status, and the validity of certificates and collateral.

--expect reads what "cloister launch expect" prints, or a document of the form ` + judge.DocumentVersion + `:
  {"version": "` + judge.DocumentVersion + `", "kind": "sevsnpvm", "roots": ["amd"],
   "claims": {"measurement": {"oneOf": ["…"]}, "reported-tcb": {"atLeast": {"snp": 24}}, "host-data": "any", …}}

--any takes: all, ` + wrapNames(judge.AnyNames()) + `

Exit status 0: accepted. 3: refused. 4: something needed for a verdict could not be had. 1: unreadable evidence.`,
		Example: `  cloister attest verify --evidence web.evidence.json --expect web.expect.json --nonce BASE64
  cloister attest verify --evidence report.bin --certs chain.pem --report-data HEX --any measurement,host-data
  cloister attest verify --evidence td-quote.bin --collateral intel/ --expect td.expect.json --at 2026-02-20`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			expect, policy, err := attestExpect(cmd) // before any evidence is read
			if err != nil {
				return err
			}
			in, err := attestInput(cmd)
			if err != nil {
				return err
			}
			j, err := judge.Verify(in, expect)
			if err != nil {
				return usageError{err}
			}
			if policy != nil {
				j = judge.Decide(j, policy.decide(in.Evidence, j))
			}
			if o == "json" {
				err = printJSON(cmd.OutOrStdout(), j)
			} else {
				err = printVerdict(cmd.OutOrStdout(), j)
			}
			if err != nil {
				return err
			}
			return verdictError(j)
		},
	}
	addAttestFlags(cmd)
	cmd.Flags().String("expect", "", "what is expected: what launch expect prints, or "+judge.DocumentVersion)
	cmd.Flags().String("report-data", "", "exactly these 64 bytes as the hardware report's data, 128 hex digits")
	cmd.Flags().String("nonce", "", "the challenge that the evidence must answer, hex digits or base64")
	cmd.Flags().String("policy", "", "attestation policy that must permit")
	cmd.Flags().StringSlice("any", nil, "accept whatever these claims are: all, or names")
	return cmd
}

// verdictError is nil for an accepted verdict. Its code is that of the first claim that was not met.
func verdictError(j evidence.Judgement) error {
	code := evidence.CodePolicy
	for _, c := range j.Checks {
		if c.Result == evidence.NotMet {
			code = judge.CodeFor(c.Claim)
			break
		}
	}
	return evidence.Appraisal{Verdict: j.Verdict, Checks: j.Checks}.Err(code)
}

// wrapNames breaks a list of names into lines.
func wrapNames(names []string) string {
	const width = 100
	var b strings.Builder
	line := 20
	for i, n := range names {
		if line+len(n) > width {
			b.WriteString("\n  ")
			line = 2
		}
		if i > 0 && line > 2 {
			b.WriteByte(' ')
		}
		b.WriteString(n)
		if i < len(names)-1 {
			b.WriteByte(',')
		}
		line += len(n) + 2
	}
	return b.String()
}

// unreadable marks evidence that can't be read: not a verdict, and not the caller's mistake.
func unreadable(err error) error {
	return fmt.Errorf("evidence: %s", err.Error()) // not wrapped: a refusal's code would make it a verdict
}
