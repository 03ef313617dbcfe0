package vm

import (
	"context"
	"errors"
	"strings"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/rules"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/store"
)

// shape lists what clients send. What only has a harmless value (see arm.Decode) needs no entry.
var shape = arm.Shape{
	"id": arm.ReadOnly, "name": arm.ReadOnly, "type": arm.ReadOnly, "etag": arm.ReadOnly, "managedBy": arm.ReadOnly, "resources": arm.ReadOnly, "systemData": arm.ReadOnly,
	"location": arm.Text, "tags": arm.Free, "zones": arm.Free,
	"identity": arm.Object(arm.Shape{"type": arm.OneOf("None"), "principalId": arm.ReadOnly, "tenantId": arm.ReadOnly}),
	"properties": arm.Object(arm.Shape{
		"vmId": arm.ReadOnly, "provisioningState": arm.ReadOnly, "timeCreated": arm.ReadOnly, "instanceView": arm.ReadOnly,
		"hardwareProfile": arm.Object(arm.Shape{"vmSize": arm.Text}),
		"securityProfile": arm.Object(arm.Shape{"securityType": arm.OneOf("ConfidentialVM", "TrustedLaunch", "Standard"), "encryptionAtHost": arm.Flag,
			"uefiSettings": arm.Object(arm.Shape{"secureBootEnabled": arm.Flag, "vTpmEnabled": arm.Flag})}),
		"storageProfile": arm.Object(arm.Shape{
			"imageReference": arm.Object(arm.Shape{"id": arm.Text, "exactVersion": arm.ReadOnly}),
			"osDisk": arm.Object(arm.Shape{"name": arm.Text, "osType": arm.OneOf("Linux"), "createOption": arm.OneOf("FromImage", "Attach", "Empty", "Copy", "Restore"),
				"caching": arm.OneOf("None", "ReadOnly", "ReadWrite"), "diskSizeGB": arm.Number, "deleteOption": arm.OneOf("Delete", "Detach"), "diffDiskSettings": arm.Free,
				"managedDisk": arm.Object(arm.Shape{"id": arm.ReadOnly, "storageAccountType": arm.OneOf("Premium_LRS", "StandardSSD_LRS", "Standard_LRS"),
					"securityProfile": arm.Object(arm.Shape{"securityEncryptionType": arm.OneOf(rules.DiskWithGuest, rules.GuestStateOnly, rules.NonPersistedTPM),
						"diskEncryptionSet": arm.Object(arm.Shape{"id": arm.Text})})})}),
			"dataDisks": arm.List(dataDiskShape), "diskControllerType": arm.OneOf("SCSI")}),
		"osProfile": arm.Object(arm.Shape{"computerName": arm.Text, "adminUsername": arm.Text, "adminPassword": arm.Text, "customData": arm.Text,
			"allowExtensionOperations": arm.Flag, "requireGuestProvisionSignal": arm.Flag,
			"linuxConfiguration": arm.Object(arm.Shape{"disablePasswordAuthentication": arm.Flag, "provisionVMAgent": arm.Flag, "enableVMAgentPlatformUpdates": arm.Flag,
				"patchSettings": arm.Object(arm.Shape{"patchMode": arm.OneOf("ImageDefault"), "assessmentMode": arm.OneOf("ImageDefault")}),
				"ssh":           arm.Object(arm.Shape{"publicKeys": arm.List(arm.Shape{"path": arm.Text, "keyData": arm.Text})})})}),
		"networkProfile": arm.Object(arm.Shape{"networkInterfaces": arm.List(arm.Shape{"id": arm.Text, "location": arm.ReadOnly, "tags": arm.Free,
			"properties": arm.Object(arm.Shape{"primary": arm.Flag, "deleteOption": arm.OneOf("Delete", "Detach")})})}),
		"diagnosticsProfile":   arm.Object(arm.Shape{"bootDiagnostics": arm.Object(arm.Shape{"enabled": arm.Flag})}),
		"priority":             arm.OneOf("Regular"),
		"extensionsTimeBudget": arm.OneOf("PT1H30M"),
		"userData":             arm.Text,
	}),
}

type body struct {
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags"`
	Zones      []string          `json:"zones"`
	Properties struct {
		HardwareProfile struct {
			VMSize string `json:"vmSize"`
		} `json:"hardwareProfile"`
		SecurityProfile struct {
			SecurityType     string `json:"securityType"`
			EncryptionAtHost bool   `json:"encryptionAtHost"`
			UEFI             struct {
				SecureBoot *bool `json:"secureBootEnabled"`
				VTPM       *bool `json:"vTpmEnabled"`
			} `json:"uefiSettings"`
		} `json:"securityProfile"`
		StorageProfile struct {
			ImageReference *struct {
				ID string `json:"id"`
			} `json:"imageReference"`
			OSDisk struct {
				Name             string         `json:"name"`
				CreateOption     string         `json:"createOption"`
				Caching          string         `json:"caching"`
				SizeGB           int            `json:"diskSizeGB"`
				DeleteOption     string         `json:"deleteOption"`
				DiffDiskSettings map[string]any `json:"diffDiskSettings"`
				ManagedDisk      struct {
					StorageType string `json:"storageAccountType"`
					Security    struct {
						Encryption string `json:"securityEncryptionType"`
						Set        struct {
							ID string `json:"id"`
						} `json:"diskEncryptionSet"`
					} `json:"securityProfile"`
				} `json:"managedDisk"`
			} `json:"osDisk"`
			DataDisks []dataDiskBody `json:"dataDisks"`
		} `json:"storageProfile"`
		OSProfile struct {
			ComputerName  string `json:"computerName"`
			AdminUsername string `json:"adminUsername"`
			AdminPassword string `json:"adminPassword"`
			CustomData    []byte `json:"customData"`
			Linux         struct {
				DisablePassword *bool `json:"disablePasswordAuthentication"`
				SSH             struct {
					PublicKeys []api.Key `json:"publicKeys"`
				} `json:"ssh"`
			} `json:"linuxConfiguration"`
		} `json:"osProfile"`
		NetworkProfile struct {
			NICs []nicBody `json:"networkInterfaces"`
		} `json:"networkProfile"`
		UserData string `json:"userData"`
	} `json:"properties"`
}

type nicBody struct {
	ID         string `json:"id"`
	Properties struct {
		Primary      *bool  `json:"primary"`
		DeleteOption string `json:"deleteOption"`
	} `json:"properties"`
}

// render writes a VM as clients read it. Empty profiles are left out: Terraform would see a change in them.
func (s *Service) render(ctx context.Context, v VM, r *arm.Request) (any, error) {
	nics := []any{}
	for _, n := range v.NICs {
		option := "Detach"
		if n.Delete {
			option = "Delete"
		}
		nics = append(nics, map[string]any{"id": n.ID.String(), "properties": map[string]any{"primary": n.Wire.Primary, "deleteOption": option}})
	}
	keys := []any{}
	for _, k := range v.SSHKeys {
		keys = append(keys, map[string]any{"path": k.Path, "keyData": k.KeyData})
	}
	p := map[string]any{
		"vmId": v.VMID, "provisioningState": v.Provisioning, "timeCreated": v.Meta.Created,
		"hardwareProfile": map[string]any{"vmSize": v.Size},
		"securityProfile": map[string]any{"securityType": rules.ConfidentialVM, "uefiSettings": map[string]any{"secureBootEnabled": v.SecureBoot, "vTpmEnabled": true}},
		"storageProfile":  v.storageWire(),
		"osProfile": map[string]any{"computerName": v.Computer, "adminUsername": v.Admin, "secrets": []any{}, "allowExtensionOperations": true,
			"linuxConfiguration": map[string]any{"disablePasswordAuthentication": true, "provisionVMAgent": true, "ssh": map[string]any{"publicKeys": keys}}},
		"networkProfile": map[string]any{"networkInterfaces": nics},
	}
	if expand := strings.ToLower(r.Query.Get("$expand")); expand != "" {
		for _, e := range strings.Split(expand, ",") {
			switch strings.TrimSpace(e) {
			case "userdata":
				p["userData"] = v.UserData
			case "instanceview":
				view, err := s.instanceView(ctx, v)
				if err != nil {
					return nil, err
				}
				p["instanceView"] = view
			default:
				return nil, arm.Errorf(400, "InvalidParameter", "$expand '%s' is not allowed. Allowed values are: instanceView, userData.", e).At("$expand")
			}
		}
	}
	out := v.Meta.Wire(p)
	out["etag"] = `"` + v.Meta.Etag + `"`
	if v.Zone != "" {
		out["zones"] = []string{v.Zone}
	}
	return out, nil
}

// storageWire is the storage profile as clients read it.
func (v VM) storageWire() any {
	return map[string]any{
		"imageReference": map[string]any{"id": v.ImageID, "exactVersion": v.Image.Version},
		"osDisk": map[string]any{"name": v.OSDisk.ID.Name, "osType": "Linux", "createOption": "FromImage", "caching": v.OSDisk.Caching, "deleteOption": "Delete", "diskSizeGB": v.OSDisk.SizeGiB,
			"managedDisk": map[string]any{"id": v.OSDisk.ID.String(), "storageAccountType": v.OSDisk.StorageType, "securityProfile": v.diskSecurity()}},
		"dataDisks": v.dataDisksWire()}
}

// observed reads what the host last said; nil when it has said nothing about this VM.
func (s *Service) observed(ctx context.Context, v VM) (*api.VMStatus, error) {
	it, err := s.Statuses.Get(ctx, v.VMID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &it.Value.Seen, nil
}

// powerState is Azure's word for where a VM is between what is wanted and what is.
func powerState(v VM, seen *api.VMStatus) string {
	reached := seen != nil && seen.Power == v.Power
	switch {
	case reached && v.Power == api.PowerRunning:
		return "running"
	case v.Power == api.PowerRunning && seen != nil && (seen.Phase == api.PhaseFailed || seen.Generation == v.Generation && seen.Phase == api.PhaseStopped):
		return "stopped"
	case v.Power == api.PowerRunning:
		return "starting"
	case reached && v.Power == api.PowerStopped:
		return "stopped"
	case v.Power == api.PowerStopped:
		return "stopping"
	case reached && v.Power == api.PowerDeallocated, v.Released:
		return "deallocated"
	case v.Power == api.PowerDeallocated:
		return "deallocating"
	}
	return "stopping"
}

func (s *Service) instanceView(ctx context.Context, v VM) (any, error) {
	seen, err := s.observed(ctx, v)
	if err != nil {
		return nil, err
	}
	power := powerState(v, seen)
	provisioning := map[string]any{"code": "ProvisioningState/" + strings.ToLower(v.Provisioning), "level": "Info", "displayStatus": "Provisioning " + strings.ToLower(v.Provisioning)}
	if v.Failure != nil {
		provisioning["code"], provisioning["level"], provisioning["message"] = "ProvisioningState/failed/"+v.Failure.Code, "Error", v.Failure.Message
	}
	statuses := []any{provisioning, map[string]any{"code": "PowerState/" + power, "level": "Info", "displayStatus": "VM " + power}}
	for _, note := range v.notes(seen) {
		statuses = append(statuses, map[string]any{"code": "Cloister/note", "level": "Warning", "displayStatus": note, "message": note})
	}
	return map[string]any{"computerName": v.Computer, "osName": v.Image.Name, "hyperVGeneration": "V2", "disks": []any{}, "statuses": statuses}, nil
}

// notes are what a tenant should read wherever the VM is shown.
func (v VM) notes(seen *api.VMStatus) []string {
	out := append([]string(nil), v.Notes...)
	if v.OperatorTrusted {
		out = append(out, "operator-trusted: the init data were made by the operator, not by the tenant")
	}
	if v.Encryption == rules.GuestStateOnly {
		out = append(out, "VMGuestStateOnly: the OS disk is not protected from the operator")
	}
	if seen != nil {
		out = append(out, seen.Notes...)
	}
	return out
}

// diskSecurity is the security profile of the OS disk.
func (v VM) diskSecurity() map[string]any {
	out := map[string]any{"securityEncryptionType": v.Encryption}
	if v.Customer != nil {
		out["diskEncryptionSet"] = map[string]any{"id": v.Customer.Set.String()}
	}
	return out
}
