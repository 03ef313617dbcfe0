package main

import (
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

// asTenant is a command that needs the tenant's connection.
func asTenant(do func(cmd *cobra.Command, t *tenant.Tenant, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		t, err := tenantOf(cmd)
		if err != nil {
			return err
		}
		return do(cmd, t, args)
	}
}

// shown is asTenant for a command with the flag --output; a wrong one is told before anything is opened.
func shown(do func(cmd *cobra.Command, t *tenant.Tenant, args []string, format string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		o, err := output(cmd)
		if err != nil {
			return err
		}
		return asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error { return do(cmd, t, args, o) })(cmd, args)
	}
}

// required marks flags of a command that was just made.
func required(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined where this is called
		}
	}
}
