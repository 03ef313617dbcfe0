package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newVault() *cobra.Command {
	cmd := &cobra.Command{
		Use: "vault", Short: "Vaults and HSM pools of your own", Args: cobra.NoArgs,
		Long: `Vaults and HSM pools of your own at the platform's key keeper. Who made one may give access to its keys; so may nobody else,
the operator included. A deleted one can be recovered until it is purged or its time is over.`,
		Example: "  cloister vault create team\n  cloister key create disks --vault team\n  cloister encryption-set create mine --vault team --key disks",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newVaultCreate(), newVaultList(), newVaultAllow(),
		newVaultChange("delete", "Delete a vault; it can be recovered", (*tenant.Tenant).DeleteVault),
		newVaultChange("recover", "Take back the deletion of a vault", (*tenant.Tenant).RecoverVault),
		newVaultChange("purge", "Destroy a deleted vault and all its keys", (*tenant.Tenant).PurgeVault))
	return cmd
}

func printVaults(out io.Writer, format string, rows []tenant.VaultRow) error {
	if format == "json" {
		return printJSON(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tURL\tDAYS\tPURGE PROTECTION")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%v\n", r.Name, r.Kind, r.URL, r.RetentionDays, r.Protected)
	}
	return w.Flush()
}

func newVaultCreate() *cobra.Command {
	var pool, protect bool
	var days int32
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a vault or an HSM pool, and give yourself Key Vault Crypto Officer there", Args: cobra.ExactArgs(1),
		Example: "  cloister vault create team\n  cloister vault create team-hsm --pool --purge-protection",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			row, err := t.MakeVault(cmd.Context(), args[0], pool, days, protect)
			if err != nil {
				return err
			}
			if err := t.Assign(cmd.Context(), args[0], "Key Vault Crypto Officer", "me"); err != nil {
				return err
			}
			return printVaults(cmd.OutOrStdout(), o, []tenant.VaultRow{row})
		}),
	}
	cmd.Flags().BoolVar(&pool, "pool", false, "an HSM pool: AES keys too")
	cmd.Flags().BoolVar(&protect, "purge-protection", false, "nobody can purge it, or keys in it, before their time; can't be undone")
	cmd.Flags().Int32Var(&days, "retention-days", 90, "how long what was deleted can be recovered: 7 to 90")
	addOutput(cmd)
	return cmd
}

func newVaultList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List vaults and HSM pools", Args: cobra.NoArgs, Example: "  cloister vault list -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, _ []string, o string) error {
			rows, err := t.ListVaults(cmd.Context())
			if err != nil {
				return err
			}
			return printVaults(cmd.OutOrStdout(), o, rows)
		}),
	}
	addOutput(cmd)
	return cmd
}

func newVaultAllow() *cobra.Command {
	var role, principal string
	cmd := &cobra.Command{
		Use: "allow NAME", Short: "Give somebody a role on the keys of a vault", Args: cobra.ExactArgs(1), Example: "  cloister vault allow team --role 'Key Vault Crypto User' --principal 22222222-2222-4222-8222-222222222222",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			return t.Assign(cmd.Context(), args[0], role, principal)
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "built-in role on keys, with Azure's name")
	cmd.Flags().StringVar(&principal, "principal", "me", "object id")
	required(cmd, "role")
	return cmd
}

func newVaultChange(verb, short string, do func(t *tenant.Tenant, ctx context.Context, name string, pool bool) error) *cobra.Command {
	var pool bool
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: "  cloister vault " + verb + " team",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			return do(t, cmd.Context(), args[0], pool)
		}),
	}
	cmd.Flags().BoolVar(&pool, "pool", false, "an HSM pool")
	return cmd
}
