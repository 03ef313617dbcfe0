package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newVMApproveRestore() *cobra.Command {
	var generation uint64
	cmd := &cobra.Command{
		Use: "approve-restore NAME", Short: "Let a VM start once from a guest state that was restored from a backup", Args: cobra.ExactArgs(1),
		Long: `Let a VM start once from a guest state that the key keeper refuses: one that you restored from a backup of the disk, or any
after the key keeper itself was restored. The refusal names the generation; approve it only if that is the state you restored: whoever
holds your disks could have put an older one there. The approval is logged, and what follows it shuts out every other copy.`,
		Example: "  cloister vm approve-restore web --generation 2",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			if err := t.ApproveRestore(cmd.Context(), args[0], generation); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s may start once from generation %d\n", args[0], generation)
			return err
		}),
	}
	cmd.Flags().Uint64Var(&generation, "generation", 0, "the generation of the restored guest state, as the refusal names it")
	required(cmd, "generation")
	return cmd
}
