// Command cloister-attest is the attestation service alone: it judges evidence and issues tokens.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/attest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-attest:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "cloister-attest", Short: "Judge evidence of confidential VMs and issue tokens", SilenceUsage: true, SilenceErrors: true}
	var file string
	run := &cobra.Command{
		Use: "serve --config FILE", Aliases: []string{"run"}, Short: "Serve until SIGTERM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := attest.LoadConfig(file)
			if err != nil {
				return err
			}
			return attest.Run(cmd.Context(), c, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
		},
	}
	run.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	if err := run.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined one line above
	}
	config := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	config.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "Report all mistakes in a configuration file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := attest.LoadConfig(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), args[0]+": ok")
			return err
		},
	})
	root.AddCommand(run, config, &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "cloister-attest", version)
			return err
		},
	})
	return root
}
