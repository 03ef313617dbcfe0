// Package disk keeps managed disks. Here a disk is made with its VM: the OS disk, whose blocks lie on the VM's host.
package disk

import (
	"context"
	"errors"
	"net/http"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/store"
)

// Type is the resource type.
const Type = "Microsoft.Compute/disks"

// Disk is an OS disk.
type Disk struct {
	Meta        tracked.Meta `json:"meta"`
	UniqueID    string       `json:"uniqueId"`
	SizeGiB     int          `json:"sizeGiB"`
	StorageType string       `json:"storageType"`
	Encryption  string       `json:"encryption"` // mode of the VM it was made for
	ImageID     string       `json:"imageId"`
	// EncryptionSet is the id of the disk encryption set whose key the disk is under; empty without one.
	EncryptionSet string `json:"encryptionSet,omitempty"`
	VM            string `json:"vm,omitempty"` // id of the VM that uses it
}

// Service serves disks.
type Service struct {
	DB     *store.DB
	Store  store.Store[Disk]
	Groups *resources.Groups
}

func (s *Service) kind() tracked.Kind[Disk] {
	return tracked.Kind[Disk]{Type: Type, Store: s.Store, Meta: func(d *Disk) *tracked.Meta { return &d.Meta },
		Render: func(_ context.Context, d Disk, _ *arm.Request) (any, error) { return d.wire(), nil }}
}

// Routes: reads, tags, delete. A PUT can only repeat what is there: blank and data disks are not supported.
func (s *Service) Routes() []arm.Route {
	const one = "/subscriptions/{sub}/resourceGroups/{group}/providers/" + Type + "/{name}"
	return append(s.kind().Routes(), s.kind().TagsRoute(),
		arm.Route{Method: http.MethodPut, Pattern: one, Action: Type + "/write", Handle: s.put},
		arm.Route{Method: http.MethodDelete, Pattern: one, Action: Type + "/delete", Handle: s.delete})
}

// securityTypes maps an encryption mode to what Azure calls such a disk.
var securityTypes = map[string]string{
	"DiskWithVMGuestState": "ConfidentialVM_DiskEncryptedWithPlatformKey",
	"VMGuestStateOnly":     "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey",
	"NonPersistedTPM":      "ConfidentialVM_NonPersistedTPM",
}

func (d Disk) wire() any {
	state := "Unattached"
	if d.VM != "" {
		state = "Reserved"
	}
	out := d.Meta.Wire(map[string]any{
		"provisioningState": "Succeeded", "diskState": state, "osType": "Linux", "hyperVGeneration": "V2", "diskSizeGB": d.SizeGiB, "diskSizeBytes": int64(d.SizeGiB) << 30,
		"uniqueId": d.UniqueID, "timeCreated": d.Meta.Created, "creationData": map[string]any{"createOption": "FromImage", "imageReference": map[string]any{"id": d.ImageID}},
		"encryption": map[string]any{"type": "EncryptionAtRestWithPlatformKey"}, "networkAccessPolicy": "DenyAll", "publicNetworkAccess": "Disabled",
		"securityProfile": d.security()})
	out["sku"] = map[string]any{"name": d.StorageType, "tier": "Premium"}
	if d.VM != "" {
		out["managedBy"] = d.VM
	}
	return out
}

// security is what Azure calls such a disk, and whose key it is under.
func (d Disk) security() map[string]any {
	if d.EncryptionSet != "" {
		return map[string]any{"securityType": "ConfidentialVM_DiskEncryptedWithCustomerKey", "secureVMDiskEncryptionSetId": d.EncryptionSet}
	}
	return map[string]any{"securityType": securityTypes[d.Encryption]}
}

func (s *Service) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "Disk '%s' can't be written by itself: only OS disks, made with their VM, are supported here.", r.ID().Name).At("properties.creationData.createOption")
}

func (s *Service) delete(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	it, err := s.Store.Get(ctx, r.ID().Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.NoContent(), nil
	} else if err != nil {
		return nil, err
	}
	if it.Value.VM != "" {
		return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "Disk %s is attached to VM %s.", it.Value.Meta.ID.Name, it.Value.VM)
	}
	if err := s.Store.Delete(ctx, it); err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusOK}, nil
}

// Resources lists the disks of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	return s.kind().Metas(ctx, sub, group)
}

// Clear removes the disks of a group that no VM uses.
func (s *Service) Clear(ctx context.Context, sub, group string) error {
	return s.kind().Clear(ctx, sub, group, func(d Disk) bool { return d.VM == "" })
}
