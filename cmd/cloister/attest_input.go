package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/judge"
	"cloister.dev/cloister/evidence/soft"
)

// Bounds of what is read.
const (
	maxBesideBytes = 4 << 20 // one file of certificates or collateral
	maxBesideFiles = 8192    // files of a collateral folder
)

func addAttestFlags(cmd *cobra.Command) {
	addEvidenceFlags(cmd)
	required(cmd, "evidence")
	addOutput(cmd)
}

func addEvidenceFlags(cmd *cobra.Command) {
	cmd.Flags().String("evidence", "", "file with the evidence, or - for standard input")
	cmd.Flags().StringArray("certs", nil, "certificates or revocation lists, PEM or DER in any order (repeatable)")
	cmd.Flags().String("collateral", "", "folder with certificates, revocation lists and Intel's collateral")
	cmd.Flags().StringArray("root", nil, "root that counts: amd, intel, or software=FILE (repeatable; default: amd and intel)")
	cmd.Flags().String("at", "", "time to judge validity at: RFC 3339, a date, or seconds since 1970 (default: now)")
}

// attestInput reads everything that a judgement depends on. What the caller wrote wrongly is found before the evidence is
// looked at.
func attestInput(cmd *cobra.Command) (judge.Input, error) {
	var in judge.Input
	var err error
	if in.At, err = timeFlag(cmd); err != nil {
		return in, err
	}
	named := false
	if in.Roots, named, err = rootFlags(cmd); err != nil {
		return in, err
	}
	if in.Files, err = besideFlags(cmd); err != nil {
		return in, err
	}
	raw, err := readEvidence(cmd)
	if err != nil {
		return in, unreadable(err)
	}
	if in.Evidence, err = envelope.Open(raw); err != nil {
		return in, unreadable(err)
	}
	if in.Evidence.Form == envelope.FormBundle && !named {
		in.Roots.Software, err = installedRoots(cmd)
	}
	return in, err
}

func readEvidence(cmd *cobra.Command) ([]byte, error) {
	path, err := cmd.Flags().GetString("evidence")
	if err != nil {
		return nil, err
	}
	if path == "-" {
		return readBounded(cmd.InOrStdin(), envelope.MaxSize)
	}
	return readFile(path, envelope.MaxSize)
}

func readFile(path string, most int64) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readBounded(f, most)
}

func readBounded(r io.Reader, most int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return raw, err
}

func timeFlag(cmd *cobra.Command) (time.Time, error) {
	text, err := cmd.Flags().GetString("at")
	if err != nil || text == "" {
		return time.Now(), err
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 && n < 1<<40 {
		return time.Unix(n, 0).UTC(), nil
	}
	return time.Time{}, usageError{fmt.Errorf("--at %s: want RFC 3339, YYYY-MM-DD or seconds since 1970", text)}
}

// rootFlags reads the roots that are named, and tells whether any was.
func rootFlags(cmd *cobra.Command) (judge.Roots, bool, error) {
	list, err := cmd.Flags().GetStringArray("root")
	if err != nil {
		return judge.Roots{}, false, err
	}
	if len(list) == 0 {
		return judge.VendorRoots(), false, nil
	}
	var roots judge.Roots
	for _, text := range list {
		path, software := strings.CutPrefix(text, "software=")
		switch {
		case text == "amd":
			roots.AMD = true
		case text == "intel":
			roots.Intel = true
		case software && path != "":
			raw, err := readFile(path, maxBesideBytes)
			if err != nil {
				return roots, true, usageError{fmt.Errorf("--root %s: %w", text, err)}
			}
			r, err := soft.ParseRoot(raw)
			if err != nil {
				return roots, true, usageError{fmt.Errorf("--root %s: %w", text, err)}
			}
			roots.Software = append(roots.Software, r)
		default:
			return roots, true, usageError{fmt.Errorf("--root %s: want amd, intel or software=FILE", text)}
		}
	}
	return roots, true, nil
}

// installedRoots are the software roots of an installation whose state folder is here; none where there is none.
func installedRoots(cmd *cobra.Command) ([]soft.Root, error) {
	trust, err := trustOf(cmd)
	if errors.Is(err, platform.ErrNotUp) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	roots, err := tenant.Roots(trust)
	return roots.Software, err
}

// besideFlags reads --certs and --collateral. A file that is named must be of use; a folder may hold other files, which
// are passed over and said so.
func besideFlags(cmd *cobra.Command) ([]judge.File, error) {
	paths, err := cmd.Flags().GetStringArray("certs")
	if err != nil {
		return nil, err
	}
	var files []judge.File
	for _, path := range paths {
		raw, err := readFile(path, maxBesideBytes)
		if err != nil {
			return nil, usageError{fmt.Errorf("--certs: %w", err)}
		}
		f := judge.File{Name: path, Raw: raw}
		if err := judge.CheckFiles([]judge.File{f}); err != nil {
			return nil, usageError{fmt.Errorf("--certs: %w", err)}
		}
		files = append(files, f)
	}
	dir, err := cmd.Flags().GetString("collateral")
	if err != nil || dir == "" {
		return files, err
	}
	seen := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") {
			return nil // what the keeper of the folder notes for itself
		}
		if seen++; seen > maxBesideFiles {
			return fmt.Errorf("more than %d files", maxBesideFiles)
		}
		raw, err := readFile(path, maxBesideBytes)
		if err != nil {
			return err
		}
		f := judge.File{Name: path, Raw: raw}
		if err := judge.CheckFiles([]judge.File{f}); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "cloister: passed over: %s is no certificate, revocation list or collateral\n", path)
			return nil
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, usageError{fmt.Errorf("--collateral %s: %w", dir, err)}
	}
	return files, nil
}

// attestExpect reads what is expected. Every mistake is one of the caller's.
func attestExpect(cmd *cobra.Command) (judge.Expect, *attestPolicy, error) {
	var e judge.Expect
	text := func(name string) (string, error) { return cmd.Flags().GetString(name) }
	path, err := text("expect")
	if err != nil {
		return e, nil, err
	}
	if path != "" {
		raw, err := readFile(path, maxBesideBytes)
		if err != nil {
			return e, nil, usageError{fmt.Errorf("--expect: %w", err)}
		}
		if e, err = judge.ParseExpect(raw); err != nil {
			return e, nil, usageError{fmt.Errorf("--expect %s: %w", path, err)}
		}
	} else if cmd.Flags().Changed("expect") {
		return e, nil, usageError{errors.New("--expect: want a file")}
	}
	if cmd.Flags().Changed("report-data") {
		value, err := text("report-data")
		if err != nil {
			return e, nil, err
		}
		data, err := hex.DecodeString(value)
		if err != nil || len(data) != 64 {
			return e, nil, usageError{fmt.Errorf("--report-data: %d characters; want 128 hex digits, all 64 bytes", len(value))}
		}
		if err := e.ReportData(data); err != nil {
			return e, nil, usageError{fmt.Errorf("--report-data: %w", err)}
		}
	}
	if cmd.Flags().Changed("nonce") {
		value, err := text("nonce")
		if err != nil {
			return e, nil, err
		}
		nonce, err := readNonce(value)
		if err == nil {
			err = e.Nonce(nonce)
		}
		if err != nil {
			return e, nil, usageError{fmt.Errorf("--nonce: %w", err)}
		}
	}
	any, err := cmd.Flags().GetStringSlice("any")
	if err != nil {
		return e, nil, err
	}
	if cmd.Flags().Changed("any") && len(any) == 0 {
		return e, nil, usageError{errors.New("--any: want all, or names")}
	}
	if err := e.Any(any...); err != nil {
		return e, nil, usageError{fmt.Errorf("--any: %w", err)}
	}
	policy, err := policyFlag(cmd)
	if err != nil {
		return e, nil, err
	}
	if policy != nil {
		e.LeaveToPolicy()
	}
	return e, policy, nil
}

// readNonce reads hex digits or base64, in either alphabet. What consists of hex digits only is never taken as base64.
func readNonce(text string) ([]byte, error) {
	digits := strings.Trim(text, "0123456789abcdefABCDEF") == ""
	if b, err := hex.DecodeString(text); err == nil && len(b) > 0 {
		return b, nil
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := enc.Strict().DecodeString(text); err == nil && len(b) > 0 && !digits {
			return b, nil
		}
	}
	return nil, errors.New("want hex digits or base64 of 1 to 64 bytes")
}
