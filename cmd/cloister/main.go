// Command cloister is the tenant's and the operator's tool: it starts an installation, asks for confidential VMs
// through the Azure SDK, and judges their evidence.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/evidence"
)

// Exit statuses. Scripts rely on them.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitRefused   = 3 // by a rule or a verdict
	exitUndecided = 4 // something needed could not be had
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(os.Stderr, "cloister:", explain(err))
	return status(err)
}

// usageError marks a command that was written wrongly.
type usageError struct{ error }

// status maps an error to the exit status.
func status(err error) int {
	var usage usageError
	switch code := evidence.CodeOf(err); {
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "required flag"): // cobra has no type for it
		return exitUsage
	case code == evidence.CodeUnavailable:
		return exitUndecided
	case code != "", refusedByRule(err):
		return exitRefused
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "cloister",
		Short: "Confidential virtual machines on your own servers",
		Long: `Cloister runs Azure-compatible confidential virtual machines on your own servers.
A VM's disk key is released only to a VM that has proved, by evidence the CPU signed, what it is.

On a machine without SEV-SNP or TDX it runs in software mode: the same path with evidence of a
software root, which protects from nothing on its own host.`,
		Example: `  cloister quickstart              start everything and create the VM "hello"
  cloister up                      start the platform
  cloister vm create web --size Standard_DC2as_v5 --image debian-12
  cloister vm attest web           judge what the VM proves of itself`,
		SilenceUsage: true, SilenceErrors: true,
		Args: noArgs,
		// Without something to run, cobra would show help for a misspelt command too, as if all was well.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("state", "", "state folder (default $CLOISTER_STATE, else the XDG state directory)")
	root.AddCommand(newUp(), newDown(), newStatus(), newQuickstart(), newVM(), newImage(), newDoctor(), newConfig(), newHost(), newCompute(), newLaunch(), newAttest(), newKey(), newEncryptionSet(), newVault(), newDisk(), newSnapshot(), newDeployment())
	for _, c := range root.Commands() {
		checkArgs(c)
	}
	return root
}

// noArgs refuses arguments where a command takes none, and a subcommand that is none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%q: unknown command %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

// checkArgs makes cobra's complaints about arguments and missing flags usage errors, everywhere.
func checkArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			if err := errors.Join(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.Args = noArgs
		c.RunE = func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("a subcommand is needed; see " + cmd.CommandPath() + " --help")}
		}
	}
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
}
