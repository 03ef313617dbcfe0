package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newEncryptionSet() *cobra.Command {
	cmd := &cobra.Command{
		Use: "encryption-set", Short: "Disk encryption sets: disks of VMs under keys of your own",
		Example: "  cloister key create disks\n  cloister encryption-set create mine --key disks\n  cloister vm create web --encryption-set mine",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newEncryptionSetCreate(), newEncryptionSetShow(), newEncryptionSetDelete())
	return cmd
}

func printSets(out io.Writer, format string, sets []tenant.EncryptionSet) error {
	if format == "json" {
		return printJSON(out, sets)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKEY\tFOLLOWS NEW VERSIONS\tIDENTITY")
	for _, s := range sets {
		fmt.Fprintf(w, "%s\t%s\t%v\t%s\n", s.Name, s.KeyURL, s.Follow, s.Principal)
	}
	return w.Flush()
}

func newEncryptionSetCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an encryption set for a key, or change one", Args: cobra.ExactArgs(1),
		Long: `Make a disk encryption set, and let its identity wrap and unwrap with the key. The disks of VMs made with it are under that key:
disabling or deleting the key, or taking the role away, stops their next start; undoing it heals. From the first VM on, the
key unwraps for no caller and is never released.`,
		Example: "  cloister encryption-set create mine --key disks\n  cloister encryption-set create mine --key disks --follow",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			key, err := cmd.Flags().GetString("key")
			if err != nil {
				return err
			}
			vault, err := cmd.Flags().GetString("vault")
			if err != nil {
				return err
			}
			follow, err := cmd.Flags().GetBool("follow")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			set, err := t.MakeEncryptionSet(cmd.Context(), args[0], vault, key, follow)
			if err != nil {
				return err
			}
			return printSets(cmd.OutOrStdout(), o, []tenant.EncryptionSet{set})
		},
	}
	cmd.Flags().String("key", "", "name of the key, see: cloister key list")
	cmd.Flags().String("vault", "", "vault or HSM pool of the key (default: the platform's)")
	cmd.Flags().Bool("follow", false, "follow new versions of the key")
	required(cmd, "key")
	addOutput(cmd)
	return cmd
}

func newEncryptionSetShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show an encryption set", Args: cobra.ExactArgs(1), Example: "  cloister encryption-set show mine -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			set, err := t.EncryptionSet(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printSets(cmd.OutOrStdout(), o, []tenant.EncryptionSet{set})
		}),
	}
	addOutput(cmd)
	return cmd
}

func newEncryptionSetDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete an encryption set that no VM uses; the key stays", Args: cobra.ExactArgs(1), Example: "  cloister encryption-set delete mine",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			sets, err := t.EncryptionSets()
			if err != nil {
				return err
			}
			poller, err := sets.BeginDelete(cmd.Context(), t.Group, args[0], nil)
			if err != nil {
				return err
			}
			_, err = poller.PollUntilDone(cmd.Context(), nil)
			return err
		}),
	}
}

func newVMRewrap() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rewrap NAME", Short: "Put a VM's disk under the newest version of its key, or under another encryption set", Args: cobra.ExactArgs(1),
		Long:    "Put the key of a VM's guest state under the newest version of your key, or under the key of another encryption set. The guest state and the disk stay as they are, and the VM keeps running.",
		Example: "  cloister vm rewrap web\n  cloister vm rewrap web --encryption-set other",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := cmd.Flags().GetString("encryption-set")
			if err != nil {
				return err
			}
			t, err := tenantOf(cmd)
			if err != nil {
				return err
			}
			var set tenant.EncryptionSet
			if name != "" {
				if set, err = t.EncryptionSet(cmd.Context(), name); err != nil {
					return err
				}
			}
			key, err := t.Rewrap(cmd.Context(), args[0], set.KeyURL, set.Follow, set.Principal)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is under %s\n", args[0], key)
			return nil
		},
	}
	cmd.Flags().String("encryption-set", "", "another encryption set (default: the newest version of the present key)")
	return cmd
}
