package main

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/platform"
	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Keys of your own, in the vault", Example: "  cloister key create disks\n  cloister key disable disks"}
	cmd.PersistentFlags().String("vault", "", "vault or HSM pool (default: the platform's; see: cloister vault list)")
	cmd.AddCommand(newKeyCreate(), newKeyList(), newKeyShow(),
		newKeySwitch("enable", "Enable a key again: VMs under it start again", true), newKeySwitch("disable", "Disable a key: VMs under it don't start any more", false),
		newKeyRotate(), newKeyDelete(), newKeyRecover())
	return cmd
}

// vaultOf opens the tenant's vault.
func vaultOf(cmd *cobra.Command) (*azkeys.Client, error) {
	state, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	conn, err := platform.Open(state)
	if err != nil {
		return nil, err
	}
	name, err := cmd.Flags().GetString("vault")
	if err != nil {
		return nil, err
	}
	return tenant.New(conn, "", state).KeysIn(cmd.Context(), name)
}

// keyRow is a key as it is shown.
type keyRow struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Kind    string    `json:"kind,omitempty"`
	Enabled bool      `json:"enabled"`
	Created time.Time `json:"created"`
}

func keyRowOf(kid *azkeys.ID, kind *azkeys.KeyType, a *azkeys.KeyAttributes) (keyRow, error) {
	if kid == nil || a == nil || a.Enabled == nil || a.Created == nil {
		return keyRow{}, errors.New("the key keeper's answer lacks the key's name or state")
	}
	r := keyRow{Name: kid.Name(), Version: kid.Version(), Enabled: *a.Enabled, Created: *a.Created}
	if kind != nil {
		r.Kind = string(*kind)
	}
	return r, nil
}

func keyRowOfBundle(b azkeys.KeyBundle) (keyRow, error) {
	if b.Key == nil {
		return keyRow{}, errors.New("the key keeper's answer holds no key")
	}
	return keyRowOf(b.Key.KID, b.Key.Kty, b.Attributes)
}

func printKeys(out io.Writer, format string, rows []keyRow) error {
	if format == "json" {
		return printJSON(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tKIND\tENABLED\tCREATED")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\n", r.Name, r.Version, r.Kind, r.Enabled, r.Created.UTC().Format(time.RFC3339))
	}
	return w.Flush()
}

func newKeyCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a key, or a new version of one", Args: cobra.ExactArgs(1), Example: "  cloister key create disks\n  cloister key create disks --size 3072",
		Long: "Make a key in your vault. It can't be exported. For disks of VMs, RSA-HSM is what Azure's clients expect; oct-HSM of 256 bits works too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			kty, err := cmd.Flags().GetString("kty")
			if err != nil {
				return err
			}
			size, err := cmd.Flags().GetInt32("size")
			if err != nil {
				return err
			}
			kind := azkeys.KeyType(kty)
			p := azkeys.CreateKeyParameters{Kty: &kind}
			switch {
			case size != 0:
				p.KeySize = &size
			case kind == azkeys.KeyTypeOctHSM:
				size = 256
				p.KeySize = &size
			}
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			made, err := v.CreateKey(cmd.Context(), args[0], p, nil)
			if err != nil {
				return err
			}
			row, err := keyRowOfBundle(made.KeyBundle)
			if err != nil {
				return err
			}
			return printKeys(cmd.OutOrStdout(), o, []keyRow{row})
		},
	}
	cmd.Flags().String("kty", "RSA-HSM", "kind: RSA-HSM or oct-HSM")
	cmd.Flags().Int32("size", 0, "bits (default: 2048 for RSA, 256 for oct)")
	addOutput(cmd)
	return cmd
}

func newKeyList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys of the vault", Args: cobra.NoArgs, Example: "  cloister key list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			rows := []keyRow{}
			for pager := v.NewListKeyPropertiesPager(nil); pager.More(); {
				page, err := pager.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				for _, k := range page.Value {
					row, err := keyRowOf(k.KID, nil, k.Attributes)
					if err != nil {
						return err
					}
					rows = append(rows, row)
				}
			}
			sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
			return printKeys(cmd.OutOrStdout(), o, rows)
		},
	}
	addOutput(cmd)
	return cmd
}

func newKeyShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show the versions of a key, newest last", Args: cobra.ExactArgs(1), Example: "  cloister key show disks",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			var rows []keyRow
			for pager := v.NewListKeyPropertiesVersionsPager(args[0], nil); pager.More(); {
				page, err := pager.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				for _, k := range page.Value {
					got, err := v.GetKey(cmd.Context(), args[0], k.KID.Version(), nil)
					if err != nil {
						return err
					}
					row, err := keyRowOfBundle(got.KeyBundle)
					if err != nil {
						return err
					}
					rows = append(rows, row)
				}
			}
			return printKeys(cmd.OutOrStdout(), o, rows)
		},
	}
	addOutput(cmd)
	return cmd
}

func newKeySwitch(verb, short string, on bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1), Example: "  cloister key " + verb + " disks",
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := cmd.Flags().GetString("version")
			if err != nil {
				return err
			}
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			_, err = v.UpdateKey(cmd.Context(), args[0], version, azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: &on}}, nil)
			return err
		},
	}
	cmd.Flags().String("version", "", "version (default: the newest)")
	return cmd
}

func newKeyRotate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate NAME", Short: "Make a new version of a key", Args: cobra.ExactArgs(1), Example: "  cloister key rotate disks",
		Long: "Make a new version of a key. VMs whose encryption set follows new versions are put under it at their next start; others by: cloister vm rewrap.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := output(cmd)
			if err != nil {
				return err
			}
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			made, err := v.RotateKey(cmd.Context(), args[0], nil)
			if err != nil {
				return err
			}
			row, err := keyRowOfBundle(made.KeyBundle)
			if err != nil {
				return err
			}
			return printKeys(cmd.OutOrStdout(), o, []keyRow{row})
		},
	}
	addOutput(cmd)
	return cmd
}

func newKeyDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a key; it can be recovered until it is purged", Args: cobra.ExactArgs(1), Example: "  cloister key delete disks",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			_, err = v.DeleteKey(cmd.Context(), args[0], nil)
			return err
		},
	}
}

func newKeyRecover() *cobra.Command {
	return &cobra.Command{
		Use: "recover NAME", Short: "Take back the deletion of a key", Args: cobra.ExactArgs(1), Example: "  cloister key recover disks",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := vaultOf(cmd)
			if err != nil {
				return err
			}
			_, err = v.RecoverDeletedKey(cmd.Context(), args[0], nil)
			return err
		},
	}
}
