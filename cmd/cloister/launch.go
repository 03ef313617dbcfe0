package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/image"
)

func newLaunch() *cobra.Command {
	cmd := &cobra.Command{Use: "launch", Short: "Compute what evidence must say, before a VM exists", Example: "  cloister launch expect --init-data web.json"}
	expect := &cobra.Command{
		Use: "expect", Short: "Compute expected measurements from files alone", Args: cobra.NoArgs,
		Long:    "Compute the launch digest, HOST_DATA and PCR 4, 7, 11 from firmware, image and init data files. What it prints is what \"attest verify --expect\" reads.",
		Example: "  cloister launch expect --size Standard_DC2as_v5 --image debian-12 --init-data web.json > web.expect.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			size, err := cmd.Flags().GetString("size")
			if err != nil {
				return err
			}
			img, err := cmd.Flags().GetString("image")
			if err != nil {
				return err
			}
			file, err := cmd.Flags().GetString("init-data")
			if err != nil {
				return err
			}
			trust, err := trustOf(cmd)
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				return usageError{fmt.Errorf("--init-data: %w", err)}
			}
			e, err := tenant.Expect(trust, size, img, raw)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), e.Document())
		},
	}
	expect.Flags().String("size", defaultSize, "size, with Azure's names")
	expect.Flags().String("image", image.Default, "name of an image, or its folder")
	expect.Flags().String("init-data", "", "file with the VM's init data, the exact bytes")
	if err := expect.MarkFlagRequired("init-data"); err != nil {
		panic(err) // the flag is defined one line above
	}
	cmd.AddCommand(expect)
	return cmd
}

func trustOf(cmd *cobra.Command) (platform.Trust, error) {
	state, err := stateDir(cmd)
	if err != nil {
		return platform.Trust{}, err
	}
	return platform.ReadTrust(state)
}

func newAttest() *cobra.Command {
	cmd := &cobra.Command{Use: "attest", Short: "Judge evidence that is in a file", Example: "  cloister attest verify --evidence e.json --expect x.json --nonce …"}
	verify := &cobra.Command{
		Use: "verify", Short: "Judge an evidence bundle, with no service asked", Args: cobra.NoArgs,
		Example: "  cloister attest verify --evidence web.evidence.json --expect web.expect.json --nonce BASE64",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			var files [2][]byte
			for n, flag := range []string{"evidence", "expect"} {
				path, err := cmd.Flags().GetString(flag)
				if err != nil {
					return err
				}
				if files[n], err = os.ReadFile(path); err != nil {
					return usageError{fmt.Errorf("--%s: %w", flag, err)}
				}
			}
			nonce, err := challenge(cmd)
			if err != nil {
				return err
			}
			trust, err := trustOf(cmd)
			if err != nil {
				return err
			}
			b, err := bundle.Parse(files[0])
			if err != nil {
				return err
			}
			want, err := launch.ParseExpected(files[1])
			if err != nil {
				return err
			}
			expect, err := bundle.ExpectFrom(want, nonce)
			if err != nil {
				return err
			}
			roots, err := tenant.Roots(trust)
			if err != nil {
				return err
			}
			r, err := bundle.Appraise(b, roots, expect, time.Now())
			if err != nil {
				return err
			}
			if err := printResult(cmd.OutOrStdout(), o, r); err != nil {
				return err
			}
			return evidence.Appraisal{Verdict: r.Verdict, Checks: r.Checks}.Err(evidence.CodePolicy)
		},
	}
	for _, f := range [][2]string{{"evidence", "evidence bundle, as vm attest --evidence-out writes it"}, {"expect", "expectations, as launch expect writes them"},
		{"nonce", "the challenge that the evidence must answer, base64"}} {
		verify.Flags().String(f[0], "", f[1])
		if err := verify.MarkFlagRequired(f[0]); err != nil {
			panic(err) // the flag is defined one line above
		}
	}
	addOutput(verify)
	cmd.AddCommand(verify)
	return cmd
}
