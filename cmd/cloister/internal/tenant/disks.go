package tenant

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"cloister.dev/cloister/evidence"
)

// Disks is the client for disks, Snapshots that for snapshots.
func (t *Tenant) Disks() (*armcompute.DisksClient, error) {
	return armcompute.NewDisksClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// Snapshots is the client for snapshots.
func (t *Tenant) Snapshots() (*armcompute.SnapshotsClient, error) {
	return armcompute.NewSnapshotsClient(t.Conn.SubscriptionID, t.Conn.Credential(), t.Conn.ARMOptions())
}

// NewDisk is a data disk to be made.
type NewDisk struct {
	Name    string
	SizeGiB int32 // 0: as large as its source
	SKU     string
	Zone    string
	// Disk or Snapshot names what it is a copy of; both empty: an empty disk.
	Disk, Snapshot string
}

// MakeDisk makes a data disk.
func (t *Tenant) MakeDisk(ctx context.Context, d NewDisk) (armcompute.Disk, error) {
	if err := t.MakeGroup(ctx); err != nil {
		return armcompute.Disk{}, err
	}
	disks, err := t.Disks()
	if err != nil {
		return armcompute.Disk{}, err
	}
	creation := &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionEmpty)}
	if source, err := t.source(ctx, d.Disk, d.Snapshot); err != nil {
		return armcompute.Disk{}, err
	} else if source != nil {
		creation = &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: source}
	}
	body := armcompute.Disk{Location: &t.Conn.Location, SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypes(d.SKU))}, Properties: &armcompute.DiskProperties{CreationData: creation}}
	if d.SizeGiB != 0 {
		body.Properties.DiskSizeGB = &d.SizeGiB
	}
	if d.Zone != "" {
		body.Zones = []*string{&d.Zone}
	}
	poller, err := disks.BeginCreateOrUpdate(ctx, t.Group, d.Name, body, nil)
	if err != nil {
		return armcompute.Disk{}, err
	}
	made, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	return made.Disk, err
}

// source is the id of a disk or a snapshot of the group; nil when neither is named.
func (t *Tenant) source(ctx context.Context, disk, snapshot string) (*string, error) {
	switch {
	case disk != "":
		disks, err := t.Disks()
		if err != nil {
			return nil, err
		}
		d, err := disks.Get(ctx, t.Group, disk, nil)
		return d.ID, err
	case snapshot != "":
		snapshots, err := t.Snapshots()
		if err != nil {
			return nil, err
		}
		s, err := snapshots.Get(ctx, t.Group, snapshot, nil)
		return s.ID, err
	}
	return nil, nil
}

// MakeSnapshot keeps what a data disk holds now.
func (t *Tenant) MakeSnapshot(ctx context.Context, name, disk string) (armcompute.Snapshot, error) {
	snapshots, err := t.Snapshots()
	if err != nil {
		return armcompute.Snapshot{}, err
	}
	source, err := t.source(ctx, disk, "")
	if err != nil {
		return armcompute.Snapshot{}, err
	}
	poller, err := snapshots.BeginCreateOrUpdate(ctx, t.Group, name, armcompute.Snapshot{Location: &t.Conn.Location,
		Properties: &armcompute.SnapshotProperties{CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: source}}}, nil)
	if err != nil {
		return armcompute.Snapshot{}, err
	}
	made, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	return made.Snapshot, err
}

// ResizeDisk grows a data disk.
func (t *Tenant) ResizeDisk(ctx context.Context, name string, gib int32) (armcompute.Disk, error) {
	disks, err := t.Disks()
	if err != nil {
		return armcompute.Disk{}, err
	}
	poller, err := disks.BeginUpdate(ctx, t.Group, name, armcompute.DiskUpdate{Properties: &armcompute.DiskUpdateProperties{DiskSizeGB: &gib}}, nil)
	if err != nil {
		return armcompute.Disk{}, err
	}
	grown, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	return grown.Disk, err
}

// AttachDisk gives a VM a data disk of its group; lun -1 is the lowest that is free. It returns the LUN.
func (t *Tenant) AttachDisk(ctx context.Context, vm, name string, lun int32, deleteWithVM bool) (int32, error) {
	disk, err := t.source(ctx, name, "")
	if err != nil {
		return 0, err
	}
	err = t.changeDisks(ctx, vm, func(have []*armcompute.DataDisk) ([]*armcompute.DataDisk, error) {
		if lun < 0 {
			lun = freeLUN(have)
		}
		option := armcompute.DiskDeleteOptionTypesDetach
		if deleteWithVM {
			option = armcompute.DiskDeleteOptionTypesDelete
		}
		return append(have, &armcompute.DataDisk{Lun: &lun, CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), DeleteOption: &option, ManagedDisk: &armcompute.ManagedDiskParameters{ID: disk}}), nil
	})
	return lun, err
}

// freeLUN is the lowest one that no disk has.
func freeLUN(disks []*armcompute.DataDisk) int32 {
	for lun := int32(0); ; lun++ {
		if !slices.ContainsFunc(disks, func(d *armcompute.DataDisk) bool { return d.Lun != nil && *d.Lun == lun }) {
			return lun
		}
	}
}

// DetachDisk takes a data disk from a VM. The disk stays.
func (t *Tenant) DetachDisk(ctx context.Context, vm, name string) error {
	return t.changeDisks(ctx, vm, func(have []*armcompute.DataDisk) ([]*armcompute.DataDisk, error) {
		left := slices.DeleteFunc(slices.Clone(have), func(d *armcompute.DataDisk) bool { return d.Name != nil && strings.EqualFold(*d.Name, name) })
		if len(left) == len(have) {
			return nil, evidence.Refuse(evidence.CodePolicy, "disk "+name, "not attached to VM "+vm, "one of its data disks")
		}
		return left, nil
	})
}

// changeDisks changes a VM's list of data disks, unless somebody else changed the VM meanwhile.
func (t *Tenant) changeDisks(ctx context.Context, vm string, change func([]*armcompute.DataDisk) ([]*armcompute.DataDisk, error)) error {
	vms, err := t.VMs()
	if err != nil {
		return err
	}
	now, err := vms.Get(ctx, t.Group, vm, nil)
	if err != nil {
		return err
	}
	if now.Properties == nil || now.Properties.StorageProfile == nil {
		return fmt.Errorf("VM %s: the control plane's answer has no storage profile", vm)
	}
	disks, err := change(now.Properties.StorageProfile.DataDisks)
	if err != nil {
		return err
	}
	if disks == nil {
		disks = []*armcompute.DataDisk{}
	}
	poller, err := vms.BeginUpdate(ctx, t.Group, vm, armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{StorageProfile: &armcompute.StorageProfile{DataDisks: disks}}},
		&armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: now.Etag})
	if err != nil {
		return err
	}
	_, err = poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollEvery})
	return err
}
