package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"cloister.dev/cloister/cmd/cloister/internal/install"
	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/identity/provider"
)

func newCompute() *cobra.Command {
	cmd := &cobra.Command{Use: "compute", Short: "The control plane", Example: "  cloister compute run --config compute.yaml"}
	run := &cobra.Command{
		Use: "run --config FILE", Short: "Serve the ARM API, the agents' API and the embedded sign-in until SIGTERM", Args: cobra.NoArgs, Example: "  cloister compute run --config compute.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			c, err := readComputeConfig(path)
			if err != nil {
				return err
			}
			return runCompute(cmd.Context(), c)
		},
	}
	run.Flags().String("config", "", "configuration file (YAML)")
	required(run, "config")
	cmd.AddCommand(run)
	return cmd
}

func readComputeConfig(path string) (install.ComputeConfig, error) {
	var c install.ComputeConfig
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if err := errors.Join(c.Compute.Validate(), c.SignIn.Validate(), c.Vault.Validate()); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func runCompute(ctx context.Context, c install.ComputeConfig) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	key, err := install.ReadKey[*rsa.PrivateKey](c.SignIn.KeyFile)
	if err != nil {
		return err
	}
	signIn, err := provider.New(provider.Config{Authority: c.Compute.Authority, TenantID: c.Compute.TenantID, Clients: c.SignIn.Clients, Key: key, KeyID: c.SignIn.KeyID, Now: time.Now})
	if err != nil {
		return err
	}
	destroyer, maker, vaults, err := openVault(c, signIn)
	if err != nil {
		return err
	}
	etcd, stop, err := compute.OpenEtcd(ctx, c.Compute)
	if err != nil {
		return err
	}
	defer stop()
	server, err := compute.New(c.Compute, compute.Deps{Etcd: etcd, MintVM: signIn.MintVM, Keys: destroyer, Maker: maker, Vaults: vaults, SignIn: signIn, Now: time.Now, Log: log})
	if err != nil {
		return err
	}
	log.Info(server.Describe())
	return server.Serve(ctx, nil)
}
