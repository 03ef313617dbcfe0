package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/attest/collateral"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/sevsnp"
)

func newAttestCollateral() *cobra.Command {
	cmd := &cobra.Command{
		Use: "collateral", Short: "Keep certificates, revocation lists and Intel's collateral in a folder",
		Long: `Keep what a verdict needs besides the evidence in a folder of plain files: AMD's certificates and revocation lists, Intel's
TCB info, enclave identities and revocation lists. "attest verify --collateral DIR" reads the folder, and so does the
attestation service. Everything is checked up to the pinned roots of AMD and Intel before it is kept.`,
		Example: `  cloister attest collateral fetch --dir collateral --evidence report.bin
  cloister attest collateral export --dir collateral --out collateral.json
  cloister attest collateral import --dir offline collateral.json`,
	}
	cmd.AddCommand(newCollateralFetch(), newCollateralImport(), newCollateralExport(), newCollateralList())
	return cmd
}

func addCollateralFlags(cmd *cobra.Command) {
	cmd.Flags().String("dir", "", "the folder")
	cmd.Flags().String("at", "", "time to judge validity at: RFC 3339, a date, or seconds since 1970 (default: now)")
	required(cmd, "dir")
	addOutput(cmd)
}

// openCollateral opens the folder. Without addresses in o nobody is asked.
func openCollateral(cmd *cobra.Command, o collateral.Options) (*collateral.Cache, error) {
	dir, err := cmd.Flags().GetString("dir")
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, usageError{errors.New("--dir: want a folder")}
	}
	if cmd.Flags().Changed("at") {
		at, err := timeFlag(cmd)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		o.Now = func() time.Time { return at.Add(time.Since(start)) } // it moves: turns at a service are waited for by it
	}
	o.Dir = dir
	return collateral.Open(o)
}

func newCollateralFetch() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fetch", Short: "Get what a platform needs from AMD or Intel", Args: cobra.NoArgs,
		Long: `Get what a platform needs from AMD or Intel: for evidence that you have (--evidence), for all processors of a product
(--product), or for a family of Intel platforms (--fmspc). AMD's service takes one request in 10 seconds, so a report of a
new chip takes about 20. What the folder has and holds is not asked for again, other than with --renew.

A chip's VCEK is asked for by its id and TCB; nobody but the named services learns of them. A VLEK can't be had from AMD: import it
from your cloud provider.`,
		Example: `  cloister attest collateral fetch --dir collateral --evidence report.bin
  cloister attest collateral fetch --dir collateral --product Milan --product Genoa
  cloister attest collateral fetch --dir collateral --fmspc 00806f050000 --tee tdx --ca platform`,
		RunE: fetchCollateral,
	}
	addCollateralFlags(cmd)
	cmd.Flags().StringArray("evidence", nil, "evidence whose platform is meant (repeatable)")
	cmd.Flags().StringArray("product", nil, "AMD product: Milan, Genoa or Turin (repeatable)")
	cmd.Flags().StringArray("fmspc", nil, "family of Intel platforms, 12 hex digits (repeatable)")
	cmd.Flags().String("tee", "tdx", "with --fmspc: tdx or sgx")
	cmd.Flags().String("ca", "platform", "with --fmspc: platform or processor, the CA of the PCK certificates")
	cmd.Flags().Bool("renew", false, "also what is in the folder and still holds")
	cmd.Flags().String("amd-url", collateral.AMDURL, "AMD's key distribution service, or a mirror of it")
	cmd.Flags().String("intel-url", collateral.IntelURL, "Intel's provisioning certification service, or a caching one")
	cmd.Flags().String("intel-certificates-url", collateral.IntelCertificatesURL, "where Intel's root revocation list is")
	return cmd
}

func fetchCollateral(cmd *cobra.Command, _ []string) error {
	format, err := output(cmd)
	if err != nil {
		return err
	}
	ids, err := wantedCollateral(cmd)
	if err != nil {
		return err
	}
	renew, err := cmd.Flags().GetBool("renew")
	if err != nil {
		return err
	}
	o := collateral.Options{Patience: 2 * time.Minute}
	for name, to := range map[string]*string{"amd-url": &o.AMD, "intel-url": &o.Intel, "intel-certificates-url": &o.IntelCertificates} {
		if *to, err = cmd.Flags().GetString(name); err != nil {
			return err
		}
	}
	if err := (collateral.Config{AMD: &collateral.AMD{URL: o.AMD}, Intel: &collateral.Intel{URL: o.Intel, CertificatesURL: o.IntelCertificates}}).Validate(); err != nil {
		return usageError{err}
	}
	o.Progress = func(id collateral.ID, what string) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", shortID(id.String()), what)
	}
	c, err := openCollateral(cmd, o)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range ids {
		get := func() error { return c.Prefetch(cmd.Context(), id) }
		if renew {
			get = func() error { return c.Renew(cmd.Context(), id) }
		}
		if err := get(); err != nil {
			failed = append(failed, err)
		}
		if cmd.Context().Err() != nil {
			return fmt.Errorf("stopped; what was fetched before is kept: %w", errors.Join(failed...))
		}
	}
	rows, err := c.List(cmd.Context())
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(r collateral.Row) bool {
		return !slices.ContainsFunc(ids, func(id collateral.ID) bool { return id.String() == r.ID })
	})
	if err := printRows(cmd.OutOrStdout(), format, rows); err != nil {
		return err
	}
	return worst(failed)
}

// worst puts a refusal before what merely could not be had, because the exit status is that of the first.
func worst(failed []error) error {
	slices.SortStableFunc(failed, func(a, b error) int {
		down := func(err error) int {
			if evidence.CodeOf(err) == evidence.CodeUnavailable {
				return 1
			}
			return 0
		}
		return down(a) - down(b)
	})
	return errors.Join(failed...)
}

// wantedCollateral names what the flags mean, each once, in an order in which the first serve to check the rest.
func wantedCollateral(cmd *cobra.Command) ([]collateral.ID, error) {
	var ids []collateral.ID
	add := func(more ...collateral.ID) {
		for _, id := range more {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	list := func(name string) []string {
		out, err := cmd.Flags().GetStringArray(name)
		if err != nil {
			panic(err) // the flag is defined beside this
		}
		return out
	}
	for _, path := range list("evidence") {
		raw, err := readFile(path, envelope.MaxSize)
		if err != nil {
			return nil, err
		}
		more, err := collateralFor(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		add(more...)
	}
	for _, name := range list("product") {
		for _, key := range []sevsnp.SigningKey{sevsnp.SignedByVCEK, sevsnp.SignedByVLEK} {
			authorities, crl, err := collateral.ForProduct(sevsnp.Product(name), key)
			if err != nil {
				return nil, usageError{fmt.Errorf("--product %s: want Milan, Genoa or Turin", name)}
			}
			add(authorities, crl)
		}
	}
	tee, err := cmd.Flags().GetString("tee")
	if err != nil {
		return nil, err
	}
	ca, err := cmd.Flags().GetString("ca")
	if err != nil {
		return nil, err
	}
	for _, text := range list("fmspc") {
		id, err := hex.DecodeString(text)
		if err != nil || len(id) != 6 {
			return nil, usageError{fmt.Errorf("--fmspc %s: want 12 hex digits", text)}
		}
		more, err := collateral.ForPlatform(tee, [6]byte(id), ca)
		if err != nil {
			return nil, usageError{fmt.Errorf("--tee %s, --ca %s: want tdx or sgx, and platform or processor", tee, ca)}
		}
		add(more[:]...)
	}
	if len(ids) == 0 {
		return nil, usageError{errors.New("want --evidence, --product or --fmspc")}
	}
	return ids, nil
}

// collateralFor names what evidence needs.
func collateralFor(raw []byte) ([]collateral.ID, error) {
	ev, err := envelope.Open(raw)
	if err != nil {
		return nil, unreadable(err)
	}
	switch {
	case ev.SNP != nil:
		p, err := ev.SNP.Product()
		if err != nil {
			return nil, err
		}
		if p == "" {
			p = sevsnp.Milan // version 2 does not tell; such reports are of Milan nearly always
		}
		leaf, err := collateral.Leaf(p, ev.SNP)
		if err != nil {
			return nil, err
		}
		authorities, crl, err := collateral.ForProduct(p, ev.SNP.KeyInfo.SigningKey)
		return []collateral.ID{authorities, leaf, crl}, err
	case ev.TDQuote != nil:
		pck, err := ev.TDQuote.PCK()
		if err != nil {
			return nil, err
		}
		ids, err := collateral.ForPlatform("tdx", pck.FMSPC, pck.CA)
		return ids[:], err
	case ev.SGXQuote != nil:
		pck, err := sgxPlatform(ev.SGXQuote)
		if err != nil {
			return nil, err
		}
		ids, err := collateral.ForPlatform("sgx", pck.FMSPC, pck.CA)
		return ids[:], err
	}
	return nil, evidence.Refuse(evidence.CodeUnsupported, "evidence", ev.Kind, "an SNP report, a TD quote or an SGX quote")
}

// sgxPlatform reads the platform out of an SGX quote of version 3: header and body, 48 and 384 bytes, then a size and the
// signature section.
func sgxPlatform(raw []byte) (*dcap.PCK, error) {
	const signed = 48 + 384
	if len(raw) < signed+4 || uint64(binary.LittleEndian.Uint32(raw[signed:])) > uint64(len(raw)-signed-4) {
		return nil, evidence.Refuse(evidence.CodeParse, "SGX quote", fmt.Sprintf("%d bytes", len(raw)), "a whole signature section")
	}
	n := int(binary.LittleEndian.Uint32(raw[signed:]))
	s, err := dcap.ParseSignatureData(3, raw[signed+4:signed+4+n])
	if err != nil {
		return nil, err
	}
	return s.UnverifiedPCK()
}

func newCollateralImport() *cobra.Command {
	cmd := &cobra.Command{
		Use: "import FILE…", Short: "Take a bundle, or files from elsewhere, into the folder", Args: cobra.MinimumNArgs(1),
		Long: `Take a bundle that "export" wrote, or files from elsewhere, into the folder: certificates and revocation lists in PEM or DER,
Intel's documents as served, the JSON forms of quoting libraries, what Azure's THIM answers, or folders of these. All is
checked up to the pinned roots first; if one thing does not hold up, nothing is taken. What is out of date is left out.`,
		Example: "  cloister attest collateral import --dir offline collateral.json\n  cloister attest collateral import --dir offline thim.json milan.crl",
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := output(cmd)
			if err != nil {
				return err
			}
			files, passed, err := collateral.ReadFiles(args...)
			if err != nil {
				return err
			}
			for _, name := range passed {
				fmt.Fprintf(cmd.ErrOrStderr(), "cloister: passed over: %s is no certificate, revocation list or collateral\n", name)
			}
			c, err := openCollateral(cmd, collateral.Options{})
			if err != nil {
				return err
			}
			rows, err := c.Import(cmd.Context(), files...)
			if err != nil {
				return err
			}
			return printRows(cmd.OutOrStdout(), format, rows)
		},
	}
	addCollateralFlags(cmd)
	return cmd
}

func newCollateralExport() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Write all that holds now as one portable file", Args: cobra.NoArgs,
		Long:    "Write all that is in the folder and holds now as one portable file, with dates and digests: the same bytes for the same folder.",
		Example: "  cloister attest collateral export --dir collateral --out collateral.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := output(cmd)
			if err != nil {
				return err
			}
			path, err := cmd.Flags().GetString("out")
			if err != nil {
				return err
			}
			c, err := openCollateral(cmd, collateral.Options{})
			if err != nil {
				return err
			}
			raw, rows, err := c.Export(cmd.Context())
			if err != nil {
				return err
			}
			if err := writeWhole(path, raw); err != nil {
				return err
			}
			return printRows(cmd.OutOrStdout(), format, rows)
		},
	}
	addCollateralFlags(cmd)
	cmd.Flags().String("out", "", "file to write")
	required(cmd, "out")
	return cmd
}

// writeWhole leaves the old file or the new one, never a part.
func writeWhole(path string, raw []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(raw); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func newCollateralList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Tell what the folder has, and until when it holds", Args: cobra.NoArgs,
		Example: "  cloister attest collateral list --dir collateral",
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := output(cmd)
			if err != nil {
				return err
			}
			c, err := openCollateral(cmd, collateral.Options{})
			if err != nil {
				return err
			}
			rows, err := c.List(cmd.Context())
			if err != nil {
				return err
			}
			return printRows(cmd.OutOrStdout(), format, rows)
		},
	}
	addCollateralFlags(cmd)
	return cmd
}

func printRows(out io.Writer, format string, rows []collateral.Row) error {
	if format == "json" {
		if rows == nil {
			rows = []collateral.Row{}
		}
		return printJSON(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ENDORSEMENT\tFROM\tUNTIL\tNUMBER\tSTATE")
	for _, r := range rows {
		number := r.CRLNumber
		if r.Evaluation != 0 {
			number = fmt.Sprint(r.Evaluation)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", shortID(r.ID), day(r.From), day(r.Until), number, r.State)
	}
	return w.Flush()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// shortID cuts a chip's id, so that a row fits a line; -o json has all of it.
func shortID(id string) string {
	parts := strings.Split(id, "/")
	for i, p := range parts {
		if len(p) > 16 {
			parts[i] = p[:16] + "…"
		}
	}
	return strings.Join(parts, "/")
}
