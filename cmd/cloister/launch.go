package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
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
	required(expect, "init-data")
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
