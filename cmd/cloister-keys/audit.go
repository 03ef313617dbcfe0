package main

import (
	"bufio"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/audit"
	"cloister.dev/cloister/keys/client"
)

func newAudit() *cobra.Command {
	var dir, pinned, format string
	var verify bool
	cmd := &cobra.Command{
		Use: "audit", Short: "Read the audit log, or check that nothing was changed in it", Args: cobra.NoArgs,
		Long: `Print who was given which key, for which VM, by which evidence and rule. With --verify, check instead that each line follows the
one before and that every signed head is about a line that is still there. A log that was cut off together with its
latest heads can't be told from a shorter one: keep a line of audit.heads elsewhere.`,
		Example: "  cloister-keys audit --state-dir /var/lib/cloister/keys\n  cloister-keys audit --state-dir /var/lib/cloister/keys --verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("-o %s: want table or json", format)
			}
			log, err := os.Open(filepath.Join(dir, keys.AuditFile))
			if err != nil {
				return err
			}
			defer log.Close()
			if verify {
				if pinned == "" {
					pinned = filepath.Join(dir, keys.SigningKeysFile)
				}
				return verifyAudit(cmd.OutOrStdout(), log, dir, pinned, format)
			}
			return printAudit(cmd.OutOrStdout(), log, format)
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", "", "the key keeper's state folder")
	cmd.Flags().BoolVar(&verify, "verify", false, "check the chain of lines and the signed heads")
	cmd.Flags().StringVar(&pinned, "signing-keys", "", "signing keys that you kept (default: signing-keys.json of the state folder, which proves less)")
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	if err := cmd.MarkFlagRequired("state-dir"); err != nil {
		panic(err) // the flag is defined four lines above
	}
	return cmd
}

func printAudit(out io.Writer, log io.Reader, format string) error {
	if format == "json" {
		enc := json.NewEncoder(out)
		return audit.Read(log, func(e audit.Entry) error { return enc.Encode(e) })
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tEVENT\tOUTCOME\tKEY\tCALLER\tWHY")
	err := audit.Read(log, func(e audit.Entry) error {
		why := e.Error
		if e.Refusal != nil {
			why = e.Refusal.Error()
		}
		_, err := fmt.Fprintf(w, "%.19s\t%s\t%s\t%s/%s\t%s\t%s\n", e.Time, e.Event, e.Outcome, e.Vault, e.Key, e.Caller, why)
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

func verifyAudit(out io.Writer, log io.Reader, dir, pinned, format string) error {
	raw, err := os.ReadFile(pinned)
	if err != nil {
		return err
	}
	var file keys.SigningKeys
	if err := json.Unmarshal(raw, &file); err != nil {
		return fmt.Errorf("%s: %w", pinned, err)
	}
	authority, err := token.NewAuthority(initdata.Service{URL: "https://key-keeper", SigningKeys: file.SigningKeys})
	if err != nil {
		return fmt.Errorf("%s: %w", pinned, err)
	}
	var signers []*rsa.PublicKey
	for _, k := range authority.Keys {
		signers = append(signers, k)
	}
	heads, err := os.Open(filepath.Join(dir, keys.AuditHeadsFile))
	if err != nil {
		return err
	}
	defer heads.Close()
	report, err := audit.Verify(log, bufio.NewReader(heads), func(jws string) ([]byte, error) { return client.VerifyAnswer(jws, signers) })
	if err != nil {
		return err
	}
	if format == "json" {
		return json.NewEncoder(out).Encode(report)
	}
	_, err = fmt.Fprintf(out, "intact: %d entries, %d lines cut by a crash, %d signed heads; the last one is about entry %d, of %s\n", report.Entries, report.Cut, report.Heads, report.Last.Entries, report.Last.Time)
	return err
}
