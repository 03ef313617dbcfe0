package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"text/tabwriter"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/spf13/cobra"

	"cloister.dev/cloister/cmd/cloister/internal/tenant"
)

func newDisk() *cobra.Command {
	cmd := &cobra.Command{
		Use: "disk", Short: "Data disks: make, grow and delete them",
		Example: "  cloister disk create data --size-gib 64\n  cloister vm disk attach web --disk data",
	}
	cmd.PersistentFlags().StringP("resource-group", "g", defaultGroup, "resource group")
	cmd.AddCommand(newDiskCreate(), newDiskList(), newDiskShow(), newDiskResize(), newDiskDelete())
	return cmd
}

// diskRow is a disk or a snapshot as programs show it.
type diskRow struct {
	Name         string `json:"name"`
	SizeGiB      int32  `json:"sizeGiB"`
	SKU          string `json:"sku,omitempty"`
	Zone         string `json:"zone,omitempty"`
	State        string `json:"state,omitempty"`
	VM           string `json:"vm,omitempty"`
	Source       string `json:"source,omitempty"`
	SecurityType string `json:"securityType,omitempty"` // of OS disks
	Provisioning string `json:"provisioningState"`
}

func rowOfDisk(d armcompute.Disk) diskRow {
	r := diskRow{Name: text(d.Name), VM: baseOf(d.ManagedBy)}
	if d.SKU != nil {
		r.SKU = text(d.SKU.Name)
	}
	if len(d.Zones) > 0 {
		r.Zone = text(d.Zones[0])
	}
	if p := d.Properties; p != nil {
		r.State, r.Provisioning = text(p.DiskState), text(p.ProvisioningState)
		if p.DiskSizeGB != nil {
			r.SizeGiB = *p.DiskSizeGB
		}
		if p.CreationData != nil {
			r.Source = baseOf(p.CreationData.SourceResourceID)
		}
		if p.SecurityProfile != nil {
			r.SecurityType = text(p.SecurityProfile.SecurityType)
		}
	}
	return r
}

// baseOf is the name in a resource's id.
func baseOf(id *string) string {
	if id == nil {
		return ""
	}
	return path.Base(*id)
}

func printDisks(out io.Writer, format string, rows []diskRow) error {
	if format == "json" {
		return printJSON(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tGIB\tSTATE\tVM\tSOURCE\tSECURITY TYPE")
	for _, r := range rows {
		state := r.State
		if r.Provisioning != "Succeeded" || state == "" {
			state = r.Provisioning
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", r.Name, r.SizeGiB, state, r.VM, r.Source, r.SecurityType)
	}
	return w.Flush()
}

func newDiskCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a data disk: empty, or a copy of a disk or a snapshot", Args: cobra.ExactArgs(1),
		Long: `Make a data disk. An empty one takes room only where it is written. A copy lies on the host of its source, which no VM
may write to meanwhile. What a VM writes to a data disk is not encrypted unless the VM does that itself.`,
		Example: "  cloister disk create data --size-gib 64\n  cloister disk create again --from-snapshot monday",
	}
	var d tenant.NewDisk
	cmd.Flags().Int32Var(&d.SizeGiB, "size-gib", 0, "size in GiB, 4 to 32767 (default: that of the source)")
	cmd.Flags().StringVar(&d.Disk, "from-disk", "", "data disk that it is a copy of")
	cmd.Flags().StringVar(&d.Snapshot, "from-snapshot", "", "snapshot that it is a copy of")
	cmd.Flags().StringVar(&d.SKU, "sku", "Premium_LRS", "Premium_LRS, StandardSSD_LRS or Standard_LRS")
	cmd.Flags().StringVar(&d.Zone, "zone", "", "availability zone: that of the VM that it is for")
	addOutput(cmd)
	cmd.MarkFlagsMutuallyExclusive("from-disk", "from-snapshot")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if d.Disk == "" && d.Snapshot == "" && d.SizeGiB == 0 {
			return usageError{fmt.Errorf("--size-gib is needed for a disk that is no copy")}
		}
		return shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			d.Name = args[0]
			var made armcompute.Disk
			if err := withProgress(cmd, d.Name+": create", func(ctx context.Context) (err error) { made, err = t.MakeDisk(ctx, d); return err }); err != nil {
				return err
			}
			return printDisks(cmd.OutOrStdout(), o, []diskRow{rowOfDisk(made)})
		})(cmd, args)
	}
	return cmd
}

func newDiskList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List disks, those of VMs' systems too", Args: cobra.NoArgs, Example: "  cloister disk list -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, _ []string, o string) error {
			disks, err := t.Disks()
			if err != nil {
				return err
			}
			rows := []diskRow{}
			for pages := disks.NewListByResourceGroupPager(t.Group, nil); pages.More(); {
				page, err := pages.NextPage(cmd.Context())
				if err != nil {
					return err
				}
				for _, d := range page.Value {
					rows = append(rows, rowOfDisk(*d))
				}
			}
			return printDisks(cmd.OutOrStdout(), o, rows)
		}),
	}
	addOutput(cmd)
	return cmd
}

func newDiskShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a disk", Args: cobra.ExactArgs(1), Example: "  cloister disk show data -o json",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			disks, err := t.Disks()
			if err != nil {
				return err
			}
			d, err := disks.Get(cmd.Context(), t.Group, args[0], nil)
			if err != nil {
				return err
			}
			return printDisks(cmd.OutOrStdout(), o, []diskRow{rowOfDisk(d.Disk)})
		}),
	}
	addOutput(cmd)
	return cmd
}

func newDiskResize() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resize NAME", Short: "Make a data disk larger; it never shrinks", Args: cobra.ExactArgs(1),
		Long:    "Make a data disk larger while no VM has it, or its VM is deallocated. The file system on it is grown by the VM.",
		Example: "  cloister disk resize data --size-gib 128",
		RunE: shown(func(cmd *cobra.Command, t *tenant.Tenant, args []string, o string) error {
			gib, err := cmd.Flags().GetInt32("size-gib")
			if err != nil {
				return err
			}
			var d armcompute.Disk
			if err := withProgress(cmd, args[0]+": resize", func(ctx context.Context) (err error) { d, err = t.ResizeDisk(ctx, args[0], gib); return err }); err != nil {
				return err
			}
			return printDisks(cmd.OutOrStdout(), o, []diskRow{rowOfDisk(d)})
		}),
	}
	cmd.Flags().Int32("size-gib", 0, "new size in GiB")
	required(cmd, "size-gib")
	addOutput(cmd)
	return cmd
}

func newDiskDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a data disk that no VM has: the area of its keys first, then all of it", Args: cobra.ExactArgs(1), Example: "  cloister disk delete data",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			disks, err := t.Disks()
			if err != nil {
				return err
			}
			return withProgress(cmd, args[0]+": delete", func(ctx context.Context) error {
				poller, err := disks.BeginDelete(ctx, t.Group, args[0], nil)
				if err != nil {
					return err
				}
				_, err = poller.PollUntilDone(ctx, nil)
				return err
			})
		}),
	}
}

func newVMDisk() *cobra.Command {
	cmd := &cobra.Command{
		Use: "disk", Short: "Attach data disks to a VM that is deallocated, and detach them",
		Example: "  cloister vm deallocate web\n  cloister vm disk attach web --disk data\n  cloister vm start web",
	}
	cmd.AddCommand(newVMDiskAttach(), newVMDiskDetach())
	return cmd
}

func newVMDiskAttach() *cobra.Command {
	cmd := &cobra.Command{
		Use: "attach VM", Short: "Attach a data disk to a VM that is deallocated", Args: cobra.ExactArgs(1),
		Long:    "Attach a data disk to a VM that is deallocated. From its next start on the VM has it as /dev/disk/by-id/virtio-cloister-lunN.",
		Example: "  cloister vm disk attach web --disk data\n  cloister vm disk attach web --disk data --lun 3 --delete-with-vm",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			name, err := cmd.Flags().GetString("disk")
			if err != nil {
				return err
			}
			lun, err := cmd.Flags().GetInt32("lun")
			if err != nil {
				return err
			}
			with, err := cmd.Flags().GetBool("delete-with-vm")
			if err != nil {
				return err
			}
			if lun, err = t.AttachDisk(cmd.Context(), args[0], name, lun, with); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has %s at LUN %d: /dev/disk/by-id/virtio-cloister-lun%d\n", args[0], name, lun, lun)
			return nil
		}),
	}
	cmd.Flags().String("disk", "", "name of the data disk")
	cmd.Flags().Int32("lun", -1, "logical unit number, 0 to 63 (default: the lowest that is free)")
	cmd.Flags().Bool("delete-with-vm", false, "delete the disk when the VM is deleted")
	required(cmd, "disk")
	return cmd
}

func newVMDiskDetach() *cobra.Command {
	cmd := &cobra.Command{
		Use: "detach VM", Short: "Detach a data disk from a VM that is deallocated; the disk stays", Args: cobra.ExactArgs(1), Example: "  cloister vm disk detach web --disk data",
		RunE: asTenant(func(cmd *cobra.Command, t *tenant.Tenant, args []string) error {
			name, err := cmd.Flags().GetString("disk")
			if err != nil {
				return err
			}
			return t.DetachDisk(cmd.Context(), args[0], name)
		}),
	}
	cmd.Flags().String("disk", "", "name of the data disk")
	required(cmd, "disk")
	return cmd
}
