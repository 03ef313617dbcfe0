package vm

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/rules"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/store"
)

// dataDiskShape is a data disk as clients send it. diskSizeGB of a disk that is there is what was read, and ignored.
var dataDiskShape = arm.Shape{
	"lun": arm.Number, "name": arm.Text, "createOption": arm.OneOf("Empty", "Attach", "FromImage", "Copy", "Restore"), "caching": arm.OneOf("None", "ReadOnly", "ReadWrite"),
	"diskSizeGB": arm.Number, "deleteOption": arm.OneOf("Delete", "Detach"), "toBeDetached": arm.Flag,
	"diskIOPSReadWrite": arm.ReadOnly, "diskMBpsReadWrite": arm.ReadOnly,
	"managedDisk": arm.Object(arm.Shape{"id": arm.Text, "storageAccountType": arm.OneOf(disk.StorageTypes...)}),
}

type dataDiskBody struct {
	LUN          *int   `json:"lun"`
	Name         string `json:"name"`
	CreateOption string `json:"createOption"`
	Caching      string `json:"caching"`
	SizeGB       int    `json:"diskSizeGB"`
	DeleteOption string `json:"deleteOption"`
	ToBeDetached bool   `json:"toBeDetached"`
	ManagedDisk  struct {
		ID          string `json:"id"`
		StorageType string `json:"storageAccountType"`
	} `json:"managedDisk"`
}

// dataDisksWire are the data disks as clients read them.
func (v VM) dataDisksWire() []any {
	out := []any{}
	for _, d := range v.DataDisks {
		option, remove := "Attach", "Detach"
		if d.Made {
			option = "Empty"
		}
		if d.Delete {
			remove = "Delete"
		}
		out = append(out, map[string]any{"lun": d.LUN, "name": d.ID.Name, "createOption": option, "caching": d.Caching, "deleteOption": remove, "toBeDetached": false, "diskSizeGB": d.SizeGiB,
			"managedDisk": map[string]any{"id": d.ID.String(), "storageAccountType": d.StorageType}})
	}
	return out
}

// dataDisk is one data disk of a request, and what is there of it.
type dataDisk struct {
	want DataDisk
	kept bool
	item *store.Item[disk.Disk] // to be attached; nil when it is to be made
}

// dataDisks looks up the data disks that a request names, for a VM that has some already, and puts them before the rules.
func (s *Service) dataDisks(ctx context.Context, p *identity.Principal, vm arm.ID, bodies []dataDiskBody, have []DataDisk) ([]rules.DataDisk, []dataDisk, error) {
	var asked []rules.DataDisk
	var found []dataDisk
	for _, b := range bodies {
		id := arm.ID{Subscription: vm.Subscription, Group: vm.Group, Type: disk.Type, Name: b.Name}
		if b.ManagedDisk.ID != "" {
			var err error
			if id, err = arm.ParseID(b.ManagedDisk.ID, disk.Type); err != nil {
				return nil, nil, err
			}
		}
		i := slices.IndexFunc(have, func(d DataDisk) bool {
			return d.ID.Key() == id.Key() || id.Name == "" && b.CreateOption != "Attach" && b.LUN != nil && d.LUN == *b.LUN
		})
		rule := rules.DataDisk{LUN: b.LUN, Name: id.Name, CreateOption: b.CreateOption, SizeGiB: b.SizeGB, Kept: i >= 0, Detach: b.ToBeDetached}
		d := dataDisk{kept: rule.Kept}
		switch {
		case rule.Kept:
			d.want = have[i]
			d.want.Caching = orElse(b.Caching, d.want.Caching)
			if b.DeleteOption != "" {
				d.want.Delete = b.DeleteOption == "Delete"
			}
		default:
			if id.Name == "" && b.CreateOption == "Empty" {
				id.Name = shortened(vm.Name + "_disk_" + strings.ReplaceAll(uuid.NewString(), "-", ""))
				rule.Name = id.Name
			}
			if id.Name == "" {
				break // the rules refuse it
			}
			if err := arm.CheckName(id.Name); err != nil {
				return nil, nil, err
			}
			d.want = DataDisk{ID: id, StorageType: orElse(b.ManagedDisk.StorageType, "Standard_LRS"), Caching: orElse(b.Caching, "None"), Made: b.CreateOption == "Empty", Delete: b.DeleteOption == "Delete", SizeGiB: b.SizeGB}
			if b.CreateOption == "Attach" {
				if err := s.Disks.MayUse(p, disk.Type+"/write", id); err != nil {
					return nil, nil, err
				}
			}
			it, err := s.Disks.Store.Get(ctx, id.Key())
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, nil, err
			}
			if err == nil && arm.Key(id.Subscription) == arm.Key(vm.Subscription) {
				v := it.Value
				rule.Found, rule.OS, rule.UsedBy, rule.Busy, rule.Zone, rule.Host = true, v.OS(), v.VM, v.Busy(), v.Zone, v.Host
				d.item, d.want.ID, d.want.UniqueID, d.want.StorageType, d.want.SizeGiB = &it, v.Meta.ID, v.UniqueID, v.StorageType, v.SizeGiB
			}
		}
		if b.LUN != nil {
			d.want.LUN = *b.LUN
		}
		asked = append(asked, rule)
		if !b.ToBeDetached {
			found = append(found, d)
		}
	}
	return asked, found, nil
}

// shortened cuts a name that is longer than names may be, at its beginning.
func shortened(name string) string {
	if len(name) > 80 {
		name = strings.TrimLeft(name[len(name)-80:], ".-")
	}
	return name
}

// attachIn makes and attaches, in a transaction, the disks that a VM gets, and sets its list. The blocks of a disk that has none yet
// will lie on the VM's host.
func (s *Service) attachIn(tx *store.Txn, v *VM, disks []dataDisk) {
	v.DataDisks = nil
	for _, d := range disks {
		switch {
		case d.kept:
		case d.item == nil:
			d.want.UniqueID = uuid.NewString()
			s.Disks.Store.CreateIn(tx, d.want.ID.Key(), disk.Disk{
				Meta:     tracked.Meta{ID: d.want.ID, Location: s.Location, Tags: v.Meta.Tags, Etag: tracked.NewEtag(), Created: s.Now().UTC()},
				UniqueID: d.want.UniqueID, SizeGiB: d.want.SizeGiB, StorageType: d.want.StorageType, Zone: v.Zone, Option: disk.Empty, VM: v.Meta.ID.String(), Host: v.Host, Generation: 1})
		default:
			it := *d.item
			it.Value.VM, it.Value.Meta.Etag = v.Meta.ID.String(), tracked.NewEtag()
			if it.Value.Host == "" {
				it.Value.Host = v.Host
				it.Value.Generation++
			}
			s.Disks.Store.UpdateIn(tx, it)
		}
		v.DataDisks = append(v.DataDisks, d.want)
	}
	slices.SortFunc(v.DataDisks, func(a, b DataDisk) int { return a.LUN - b.LUN })
}

// leaveIn detaches disks in a transaction; with the VM, those that go with it are deleted.
func (s *Service) leaveIn(ctx context.Context, tx *store.Txn, disks []DataDisk, withVM bool) error {
	for _, d := range disks {
		it, err := s.Disks.Store.Get(ctx, d.ID.Key())
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if withVM && d.Delete {
			if _, err := s.Disks.DeleteIn(ctx, tx, &it); err != nil {
				return err
			}
			continue
		}
		it.Value.VM, it.Value.Meta.Etag = "", tracked.NewEtag()
		s.Disks.Store.UpdateIn(tx, it)
	}
	return nil
}

// changeDataDisks brings a VM's data disks to what a request lists. Nil bodies change nothing.
func (s *Service) changeDataDisks(ctx context.Context, p *identity.Principal, tx *store.Txn, v *VM, bodies []dataDiskBody) error {
	if bodies == nil {
		return nil
	}
	asked, found, err := s.dataDisks(ctx, p, v.Meta.ID, bodies, v.DataDisks)
	if err != nil {
		return err
	}
	if err := violations(rules.CheckDataDisks(rules.VM{Size: v.Size, DataDisks: asked, Host: v.Host, Zone: v.Zone})); err != nil {
		return err
	}
	before := v.DataDisks
	var gone []DataDisk
	moved := false
	for _, d := range before {
		i := slices.IndexFunc(found, func(f dataDisk) bool { return f.kept && f.want.ID.Key() == d.ID.Key() })
		if i < 0 {
			gone = append(gone, d)
		} else if found[i].want.LUN != d.LUN {
			moved = true
		}
	}
	if (moved || len(gone) > 0 || len(found) > len(before)-len(gone)) && !v.Released {
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "Data disks of VM '%s' can be attached and detached only while it is deallocated: the machine of a confidential VM has no hot-plug here, so a change takes effect at a start. Deallocate the VM first.", v.Meta.ID.Name).At("properties.storageProfile.dataDisks")
	}
	if err := s.leaveIn(ctx, tx, gone, false); err != nil {
		return err
	}
	s.attachIn(tx, v, found)
	return nil
}

// readyIn refuses a start while a host has yet to copy or to resize one of the VM's disks, and holds the transaction to that.
func (s *Service) readyIn(ctx context.Context, tx *store.Txn, v *VM) error {
	for _, d := range v.DataDisks {
		it, err := s.Disks.Store.Get(ctx, d.ID.Key())
		if err != nil {
			return err
		}
		if why := it.Value.Busy(); why != "" {
			return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' can't be started now: of its disk '%s', %s.", v.Meta.ID.Name, d.ID.Name, why)
		}
		s.Disks.Store.UnchangedIn(tx, it)
	}
	return nil
}

// idle reads a VM that is deallocated, or says why it is not.
func (s *Service) idle(ctx context.Context, vmKey string) (store.Item[VM], error) {
	it, err := s.VMs.Get(ctx, vmKey)
	if err == nil && (!it.Value.Released || it.Value.Deleting) {
		err = arm.Errorf(http.StatusConflict, "OperationNotAllowed", "The disk is attached to VM '%s', which is not deallocated: what it writes meanwhile would be torn. Deallocate the VM, or detach the disk, first.", it.Value.Meta.ID.Name)
	}
	return it, err
}

// Idle is for disk.Service: whether a VM is deallocated.
func (s *Service) Idle(ctx context.Context, tx *store.Txn, vmKey string) error {
	it, err := s.idle(ctx, vmKey)
	if err != nil {
		return err
	}
	s.VMs.UnchangedIn(tx, it)
	return nil
}

// Grown is for disk.Service: it is Idle, and notes the new size of a disk.
func (s *Service) Grown(ctx context.Context, tx *store.Txn, vmKey, uniqueID string, gib int) error {
	it, err := s.idle(ctx, vmKey)
	if err != nil {
		return err
	}
	it.Value.DataDisks = slices.Clone(it.Value.DataDisks)
	for i, d := range it.Value.DataDisks {
		if d.UniqueID == uniqueID {
			it.Value.DataDisks[i].SizeGiB = gib
		}
	}
	it.Value.Generation++
	it.Value.Meta.Etag = tracked.NewEtag()
	s.VMs.UpdateIn(tx, it)
	return nil
}

// holding leaves of the hosts those that have the blocks of a VM's disks; all, when there are none yet.
func holding(hosts []scheduler.Candidate, disks []dataDisk) []scheduler.Candidate {
	for _, d := range disks {
		if d.item != nil && d.item.Value.Host != "" {
			return slices.DeleteFunc(slices.Clone(hosts), func(c scheduler.Candidate) bool { return c.Host.Name != d.item.Value.Host })
		}
	}
	return hosts
}
