package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/doctor"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image"
)

// converted is what "image convert -o json" prints: the manifest, and what evidence of its VMs must say.
type converted struct {
	*image.Manifest
	PCRs map[int]string `json:"pcrs"` // SHA-256 bank, in hex, of a running system
}

func newImageConvert() *cobra.Command {
	cmd := &cobra.Command{
		Use: "convert IMAGE [FOLDER]", Short: "Make a confidential image of an existing cloud image", Args: cobra.RangeArgs(1, 2),
		Long: `Make a confidential image of an existing cloud image (raw, qcow2 or VHD; GPT; its root on ext4). Its kernel, its modules
and all its files are taken as they are; blocks of deleted files are not. The kernel goes into a kernel image that the
installation's own Secure Boot keys sign, with Cloister's initial RAM disk; the root goes behind dm-verity.

Without a folder the image goes among the installation's own, by its --name, where vm create finds it.

An image that "image check" finds unfit is refused with the list. The same image and keys give the same bytes.`,
		Example: "  cloister image convert debian-12-genericcloud-amd64.qcow2 --name web\n  cloister image convert web.vhd ./web",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			name, err := cmd.Flags().GetString("name")
			if err != nil {
				return err
			}
			if len(args) == 1 && name == "" {
				return usageError{errors.New("give the image a folder, or a --name among the installation's images")}
			}
			if info, err := os.Stat(args[0]); err != nil {
				return err
			} else if info.IsDir() {
				return usageError{fmt.Errorf("%s is a folder: want a disk image", args[0])}
			}
			i, err := installation(cmd)
			if err != nil {
				return err
			}
			if err := doctor.Err(doctor.Look(doctor.ToConvertImages(i.Dir))); err != nil {
				return err
			}
			out := filepath.Join(i.Images(), name)
			if len(args) == 2 {
				out = args[1]
			}
			next, finish := steps(cmd.ErrOrStderr(), time.Now)
			m, err := image.Convert(cmd.Context(), image.ConvertOptions{In: args[0], Out: out, Name: name,
				GuestBinary: filepath.Join(i.Programs, "cloister-guest"), SecureBootKeys: i.SecureBootKeys(), Progress: next})
			var unfit *image.Unfit
			if errors.As(err, &unfit) {
				return errors.Join(printUnfit(cmd.OutOrStdout(), o, unfit), err)
			}
			if evidence.CodeOf(err) == evidence.CodeParse {
				return notRead(args[0], err)
			}
			if err != nil {
				return err
			}
			finish()
			return printConverted(cmd.OutOrStdout(), o, m)
		},
	}
	cmd.Flags().String("name", "", "name of the image (default: the folder's)")
	addOutput(cmd)
	return cmd
}

func printUnfit(w io.Writer, o string, u *image.Unfit) error {
	if o == "json" {
		return printJSON(w, u.Report)
	}
	return printChecked(w, &checked{Report: u.Report})
}

func printConverted(w io.Writer, o string, m *image.Manifest) error {
	values, _, err := tenant.ImagePCRs(m)
	if err != nil {
		return err
	}
	c := converted{m, map[int]string{}}
	var pcrs []int
	for n, v := range values {
		c.PCRs[n] = hex.EncodeToString(v[:])
		pcrs = append(pcrs, n)
	}
	if o == "json" {
		return printJSON(w, c)
	}
	fmt.Fprintf(w, "%s %s\n", m.Name, m.Digest)
	fmt.Fprintf(w, "  %s, kernel %s, %d MiB\n  dm-verity %s\n", m.Distribution, m.Kernel, m.Disk.Size>>20, m.Verity)
	slices.Sort(pcrs)
	for _, n := range pcrs {
		fmt.Fprintf(w, "  PCR %-2d %s\n", n, c.PCRs[n])
	}
	for _, g := range m.Guests {
		word := "can"
		if !g.Supported {
			word = "can't"
		}
		fmt.Fprintf(w, "  %s run in %s: %s\n", word, g.TEE, g.Reason)
	}
	return nil
}

// steps prints each step with its time, when the next one begins.
func steps(w io.Writer, now func() time.Time) (next func(string), finish func()) {
	last, step := now(), ""
	finish = func() {
		if step != "" {
			fmt.Fprintf(w, "  %-40s %6.1f s\n", step, now().Sub(last).Seconds())
		}
	}
	return func(s string) { finish(); step, last = s, now() }, finish
}
