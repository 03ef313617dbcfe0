package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image"
	"cloister.dev/cloister/image/check"
)

// checked is what "image check -o json" prints. An image of our own has a name and a digest.
type checked struct {
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest,omitempty"`
	*check.Report
}

func newImageCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check FILE|FOLDER", Short: "Say whether an image fits confidential VMs, and why not", Args: cobra.ExactArgs(1),
		Long: `Say for each requirement whether a disk image (raw, qcow2 or VHD) meets it, with a reason and a remedy. The image is
read without root and without mounting it. In a folder that image build or image convert made, the files, the
signature and the command line are checked against the manifest too.

Exit status 0: it fits at least one TEE, or all that --tee names. 3: it does not. 4: the image does not tell.
1: it cannot be read, because it is damaged or not there.`,
		Example: "  cloister image check debian-13-genericcloud-amd64.qcow2\n  cloister image check ./debian-12 --tee software -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			names, err := cmd.Flags().GetStringSlice("tee")
			if err != nil {
				return err
			}
			var tees []check.TEE
			for _, n := range names {
				if !slices.Contains(check.TEEs, check.TEE(n)) {
					return usageError{fmt.Errorf("--tee %s: want software, sevsnp or tdx", n)}
				}
				tees = append(tees, check.TEE(n))
			}
			c, err := checkImage(cmd.Context(), args[0], slow(cmd.ErrOrStderr(), time.Now))
			if err != nil {
				return err
			}
			if o == "json" {
				err = printJSON(cmd.OutOrStdout(), c)
			} else {
				err = printChecked(cmd.OutOrStdout(), c)
			}
			return errors.Join(err, c.Err(tees...))
		},
	}
	cmd.Flags().StringSlice("tee", nil, "what it must fit: software, sevsnp, tdx (default: any one of them)")
	addOutput(cmd)
	return cmd
}

// slow prints steps once the work has taken two seconds.
func slow(w io.Writer, now func() time.Time) func(string) {
	begun := now()
	return func(step string) {
		if now().Sub(begun) > 2*time.Second {
			fmt.Fprintf(w, "  %s …\n", step)
		}
	}
}

// checkImage checks a disk image, or the folder of one of our own.
func checkImage(ctx context.Context, path string, progress func(string)) (*checked, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	c := new(checked)
	if info.IsDir() {
		m, err := image.Load(path)
		if err != nil {
			return nil, err
		}
		if err := m.Check(path); err != nil {
			return nil, err
		}
		c.Name, c.Digest, path = m.Name, m.Digest, m.Path(image.KindDisk)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if c.Report, err = check.Run(ctx, f, size, progress); err != nil {
		return nil, notRead(path, err)
	}
	return c, nil
}

// notRead is no verdict on an image, whatever code the error has.
func notRead(path string, err error) error {
	if evidence.CodeOf(err) == "" {
		return err
	}
	return fmt.Errorf("%s cannot be read: %s", path, check.Clean(err.Error()))
}

func printChecked(to io.Writer, c *checked) error {
	if c.Name != "" {
		fmt.Fprintf(to, "%s %s\n", c.Name, c.Digest)
	}
	fmt.Fprintf(to, "%s, %s, kernel %s\n\n", c.Container, or(c.Distribution, "no distribution"), or(c.Kernel, "none"))
	w := tabwriter.NewWriter(to, 0, 4, 2, ' ', 0)
	blind := 0
	for _, f := range c.Findings {
		if f.Reason == check.NoRoot {
			blind++
			continue
		}
		scope := ""
		if len(f.TEEs) < len(check.TEEs) {
			scope = fmt.Sprintf(" (%s)", strings.Join(strs(f.TEEs), ", "))
		}
		fmt.Fprintf(w, "%s\t%s\t%s: %s%s\n", f.Verdict, f.ID, f.Requirement, f.Reason, scope)
		if f.Remedy != "" && f.Verdict != check.Pass {
			fmt.Fprintf(w, "\t\t→ %s\n", f.Remedy)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if blind > 0 {
		fmt.Fprintf(to, "%d more could not be looked at: %s\n", blind, check.NoRoot)
	}
	fmt.Fprintln(to)
	for _, f := range c.Fits {
		switch f.Verdict {
		case check.Pass:
			fmt.Fprintf(to, "fits %s\n", f.TEE)
		case check.Fail:
			fmt.Fprintf(to, "does not fit %s: %s\n", f.TEE, strings.Join(f.Because, ", "))
		default:
			fmt.Fprintf(to, "may fit %s; unknown: %s\n", f.TEE, strings.Join(f.Because, ", "))
		}
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func strs(tees []check.TEE) (out []string) {
	for _, t := range tees {
		out = append(out, string(t))
	}
	return out
}
