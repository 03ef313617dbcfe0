package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
)

func newVMAttest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "attest NAME", Short: "Judge what a VM proves of itself, check by check", Args: cobra.ExactArgs(1),
		Long: `Ask the VM for evidence under a fresh challenge and judge it here, by what was computed when the VM was created.
Exit status 3 when it is refused, 4 when it can't be had.`,
		Example: "  cloister vm attest web\n  cloister vm attest web -o json --evidence-out web.evidence.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			file, err := cmd.Flags().GetString("evidence-out")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			nonce, err := challenge(cmd)
			if err != nil {
				return err
			}
			j, err := t.AttestUnder(cmd.Context(), args[0], nonce)
			if err != nil {
				return err
			}
			if file != "" {
				if err := os.WriteFile(file, j.Raw, 0o600); err != nil {
					return err
				}
			}
			if err := printResult(cmd.OutOrStdout(), o, j.Result); err != nil {
				return err
			}
			return j.Err()
		},
	}
	cmd.Flags().String("evidence-out", "", "also write the evidence bundle to a file")
	cmd.Flags().String("nonce", "", "challenge, base64 of 16 to 64 bytes (default: a fresh one)")
	addOutput(cmd)
	return cmd
}

// Sizes of a challenge, in bytes: fewer can be guessed, more are not taken.
const minChallenge, maxChallenge, freshChallenge = 16, 64, 32

// challenge reads --nonce, or makes one.
func challenge(cmd *cobra.Command) ([]byte, error) {
	text, err := cmd.Flags().GetString("nonce")
	if err != nil {
		return nil, err
	}
	if text == "" {
		nonce := make([]byte, freshChallenge)
		_, err := rand.Read(nonce)
		return nonce, err
	}
	nonce, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(nonce) < minChallenge || len(nonce) > maxChallenge {
		return nil, usageError{fmt.Errorf("--nonce: want base64 of %d to %d bytes", minChallenge, maxChallenge)}
	}
	return nonce, nil
}

func newVMInitData() *cobra.Command {
	return &cobra.Command{
		Use: "init-data NAME", Short: "Print the exact init data that a VM was asked for with", Args: cobra.ExactArgs(1),
		Example: "  cloister vm init-data web > web.json && cloister launch expect --init-data web.json > web.expect.json",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			raw, err := t.InitData(args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}),
	}
}

func printResult(out io.Writer, format string, r evidence.Judgement) error {
	if format == "json" {
		return printJSON(out, r)
	}
	fmt.Fprintf(out, "verdict    %s\nkind       %s\nroot       %s\nauthentic  %v\n\n", r.Verdict, r.Kind, r.Root, r.Authentic)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "RESULT\tCLAIM\tGOT\tWANT\tRULE")
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", c.Result, c.Claim, cut(c.Got), cut(c.Want), c.Rule)
	}
	return w.Flush()
}

// cut keeps table cells short; -o json has all of it.
func cut(s string) string {
	const most = 34
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func newVMMeasure() *cobra.Command {
	cmd := &cobra.Command{
		Use: "measure NAME", Short: "Predicted against reported measurements", Args: cobra.ExactArgs(1), Example: "  cloister vm measure web",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			j, err := t.Attest(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			e, _, err := t.Recall(args[0])
			if err != nil {
				return err
			}
			rows := measurements(e, j.Result)
			if o == "json" {
				if err := printJSON(cmd.OutOrStdout(), rows); err != nil {
					return err
				}
				return j.Err()
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "MEASUREMENT\tPREDICTED\tREPORTED\tSAME")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%v\n", r.Name, cut(r.Predicted), cut(r.Reported), r.Same)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return j.Err()
		}),
	}
	addOutput(cmd)
	return cmd
}

type measurement struct {
	Name      string `json:"name"`
	Predicted string `json:"predicted"`
	Reported  string `json:"reported"`
	Same      bool   `json:"same"`
}

// measurements puts what was predicted beside what the evidence says.
func measurements(e *tenant.Expected, r evidence.Judgement) []measurement {
	var rows []measurement
	add := func(name, predicted, reported string) {
		rows = append(rows, measurement{name, predicted, reported, predicted == reported})
	}
	claim := func(name string) string { s, _ := r.Claims[name].(string); return s }
	add("launch digest", hex.EncodeToString(e.Measurement[:]), claim(bundle.ClaimMeasurement))
	add("host data", hex.EncodeToString(e.HostData[:]), claim(bundle.ClaimHostData))
	for _, n := range []int{4, 7, 11, 12, 13} {
		v := e.PCRs[n]
		add(fmt.Sprintf("PCR %d", n), hex.EncodeToString(v[:]), claim(bundle.ClaimPCR(n)))
	}
	return rows
}
