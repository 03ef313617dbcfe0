// Command cloister-softchip is the software "CPU", the only holder of the software root's leaf key.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/softchip"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cloister-softchip:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "cloister-softchip", Short: "Sign evidence of a software root; it protects from nothing on its host", SilenceUsage: true, SilenceErrors: true}
	var dir, file string
	initialise := &cobra.Command{Use: "init", Short: "Make a chip and its root", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return softchip.Init(dir, time.Now())
	}}
	initialise.Flags().StringVar(&dir, "dir", "", "directory of the chip")
	run := &cobra.Command{Use: "run", Short: "Serve in the foreground", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := softchip.Load(file)
		if err != nil {
			return err
		}
		return softchip.Run(cmd.Context(), c, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}}
	run.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	for cmd, flag := range map[*cobra.Command]string{initialise: "dir", run: "config"} {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flag is defined above
		}
	}
	config := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	config.AddCommand(&cobra.Command{Use: "check FILE", Short: "Report all mistakes of a configuration", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := softchip.Load(args[0])
		if err != nil {
			return err
		}
		if err := c.Validate(); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}})
	root.AddCommand(initialise, run, config)
	return root
}
