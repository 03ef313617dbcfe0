package main

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newSnapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Snapshots of data disks",
		Example: "  cloister snapshot create monday --disk data\n  cloister disk create again --from-snapshot monday",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newSnapshotCreate(), newSnapshotList(), newSnapshotDelete())
	return cmd
}

func rowOfSnapshot(s armcompute.Snapshot) diskRow {
	r := diskRow{Name: text(s.Name)}
	if s.SKU != nil {
		r.SKU = text(s.SKU.Name)
	}
	if p := s.Properties; p != nil {
		r.Provisioning = text(p.ProvisioningState)
		if p.DiskSizeGB != nil {
			r.SizeGiB = *p.DiskSizeGB
		}
		if p.CreationData != nil {
			r.Source = baseOf(p.CreationData.SourceResourceID)
		}
	}
	return r
}

func newSnapshotCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Keep what a data disk holds now", Args: cobra.ExactArgs(1),
		Long:    "Keep what a data disk holds now, while no VM has it or its VM is deallocated. The OS disk of a confidential VM has no snapshots: its key lies in the guest state, which is never copied.",
		Example: "  cloister snapshot create monday --disk data",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			disk, err := cmd.Flags().GetString("disk")
			if err != nil {
				return err
			}
			var made armcompute.Snapshot
			if err := withProgress(cmd, args[0]+": create", func(ctx context.Context) (err error) {
				made, err = t.MakeSnapshot(ctx, args[0], disk)
				return err
			}); err != nil {
				return err
			}
			return printDisks(cmd.OutOrStdout(), o, []diskRow{rowOfSnapshot(made)})
		}),
	}
	cmd.Flags().String("disk", "", "name of the data disk")
	required(cmd, "disk")
	addOutput(cmd)
	return cmd
}

func newSnapshotList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List snapshots", Args: cobra.NoArgs, Example: "  cloister snapshot list -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, _ []string, o string) error {
			snapshots, err := t.Snapshots()
			if err != nil {
				return err
			}
			rows := []diskRow{}
			for pages := snapshots.NewListByResourceGroupPager(t.Group, nil); pages.More(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				for _, s := range page.Value {
					rows = append(rows, rowOfSnapshot(*s))
				}
			}
			return printDisks(cmd.OutOrStdout(), o, rows)
		}),
	}
	addOutput(cmd)
	return cmd
}

func newSnapshotDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a snapshot; disks made from it stay", Args: cobra.ExactArgs(1), Example: "  cloister snapshot delete monday",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			snapshots, err := t.Snapshots()
			if err != nil {
				return err
			}
			return withProgress(cmd, args[0]+": delete", func(ctx context.Context) error {
				poller, err := snapshots.BeginDelete(ctx, t.Group, args[0], nil)
				if err != nil {
					return err
				}
				_, err = poller.PollUntilDone(ctx, nil)
				return err
			})
		}),
	}
}
