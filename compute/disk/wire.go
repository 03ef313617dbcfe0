package disk

import (
	"net/http"

	"cloister.dev/cloister/compute/arm"
)

// Routes of disks and snapshots.
func (s *Service) Routes() []arm.Route {
	var routes []arm.Route
	for _, kind := range []struct {
		name string
		read []arm.Route
	}{{Type, s.kind().Routes()}, {SnapshotType, s.snapshots().Routes()}} {
		one := "/subscriptions/{sub}/resourceGroups/{group}/providers/" + kind.name + "/{name}"
		routes = append(append(routes, kind.read...),
			arm.Route{Method: http.MethodPut, Pattern: one, Action: kind.name + "/write", Handle: s.put},
			arm.Route{Method: http.MethodPatch, Pattern: one, Action: kind.name + "/write", Handle: s.patch},
			arm.Route{Method: http.MethodDelete, Pattern: one, Action: kind.name + "/delete", Handle: s.delete})
	}
	return routes
}

// shape lists what clients send. What only has a harmless value (see arm.Decode) needs no entry.
var shape = arm.Shape{
	"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "managedBy": arm.ReadOnly, "systemData": arm.ReadOnly,
	"location": arm.Text, "tags": arm.Free, "zones": arm.Free,
	"sku": arm.Object(arm.Shape{"name": arm.OneOf(StorageTypes...), "tier": arm.ReadOnly}),
	"properties": arm.Object(arm.Shape{
		"provisioningState": arm.ReadOnly, "diskState": arm.ReadOnly, "diskSizeBytes": arm.ReadOnly, "uniqueId": arm.ReadOnly, "timeCreated": arm.ReadOnly,
		"creationData": arm.Object(arm.Shape{"createOption": arm.OneOf(Empty, Copy, "FromImage", "Import", "ImportSecure", "Upload", "UploadPreparedSecure", "Restore", "Attach", "CopyStart"),
			"sourceResourceId": arm.Text, "sourceUniqueId": arm.ReadOnly, "imageReference": arm.ReadOnly}),
		"diskSizeGB": arm.Number, "incremental": arm.Flag, "maxShares": arm.Number,
		"encryption":          arm.Object(arm.Shape{"type": arm.OneOf(platformKey)}),
		"networkAccessPolicy": arm.OneOf("AllowAll", "DenyAll"), "publicNetworkAccess": arm.OneOf("Enabled", "Disabled"),
	}),
}

const platformKey = "EncryptionAtRestWithPlatformKey"

type body struct {
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
	Zones    []string          `json:"zones"`
	SKU      struct {
		Name string `json:"name"`
	} `json:"sku"`
	Properties struct {
		Creation struct {
			Option string `json:"createOption"`
			Source string `json:"sourceResourceId"`
		} `json:"creationData"`
		SizeGiB     int    `json:"diskSizeGB"`
		Incremental bool   `json:"incremental"`
		MaxShares   int    `json:"maxShares"`
		Network     string `json:"networkAccessPolicy"`
		Public      string `json:"publicNetworkAccess"`
	} `json:"properties"`
}

// securityTypes maps an encryption mode to what Azure calls such a disk.
var securityTypes = map[string]string{
	"DiskWithVMGuestState": "ConfidentialVM_DiskEncryptedWithPlatformKey",
	"VMGuestStateOnly":     "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey",
	"NonPersistedTPM":      "ConfidentialVM_NonPersistedTPM",
}

var tiers = map[string]string{"Premium_LRS": "Premium", "StandardSSD_LRS": "Standard", "Standard_LRS": "Standard"}

func (d Disk) wire() any {
	state := "Unattached"
	if d.VM != "" {
		state = "Reserved"
	}
	p := map[string]any{
		"provisioningState": orElse(d.Provisioning, succeeded), "diskState": state, "diskSizeGB": d.SizeGiB, "diskSizeBytes": int64(d.SizeGiB) << 30,
		"uniqueId": d.UniqueID, "timeCreated": d.Meta.Created, "encryption": map[string]any{"type": platformKey},
		"networkAccessPolicy": orElse(d.Network, "DenyAll"), "publicNetworkAccess": orElse(d.Public, "Disabled")}
	if d.OS() {
		p["osType"], p["hyperVGeneration"], p["securityProfile"] = "Linux", "V2", d.security()
		p["creationData"] = map[string]any{"createOption": "FromImage", "imageReference": map[string]any{"id": d.ImageID}}
	} else {
		creation := map[string]any{"createOption": d.Option}
		if d.Source != "" {
			creation["sourceResourceId"] = d.Source
		}
		p["creationData"] = creation
	}
	if d.Meta.ID.Type == SnapshotType {
		p["incremental"] = false
	}
	out := d.Meta.Wire(p)
	out["sku"] = map[string]any{"name": d.StorageType, "tier": tiers[d.StorageType]}
	if d.VM != "" {
		out["managedBy"] = d.VM
	}
	if d.Zone != "" {
		out["zones"] = []string{d.Zone}
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

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
