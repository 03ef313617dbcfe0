// Command cloister-keys is the key keeper alone.
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

	"cloister.dev/cloister/keys"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-keys:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "cloister-keys", Short: "Keep keys, and release them to attested VMs", SilenceUsage: true, SilenceErrors: true}
	var file string
	run := &cobra.Command{Use: "serve", Aliases: []string{"run"}, Short: "Serve in the foreground", Example: "  cloister-keys serve --config keys.yaml", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := keys.Load(file)
		if err != nil {
			return err
		}
		return keys.Run(cmd.Context(), c, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}}
	run.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	if err := run.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined one line above
	}
	config := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	config.AddCommand(&cobra.Command{Use: "check FILE", Short: "Report all mistakes of a configuration", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := keys.Load(args[0])
		if err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return nil
	}})
	root.AddCommand(newInit(), run, newAudit(), newBackup(), newRestore(), newSealPassphrase(), config, &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		version := "unknown"
		if info, ok := debug.ReadBuildInfo(); ok {
			version = info.Main.Version
		}
		fmt.Fprintln(cmd.OutOrStdout(), version)
	}})
	return root
}
