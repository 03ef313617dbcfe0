package tenant

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/google/uuid"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	keys "cloister.dev/cloister/keys/client"
)

// Request is the VM that a tenant asks for.
type Request struct {
	Name         string
	Size         string
	Image        string
	SecurityType string // ConfidentialVM
	Encryption   string // DiskWithVMGuestState, VMGuestStateOnly or NonPersistedTPM
	Zone         string
	AdminUser    string
	SSHKeys      []string // authorized_keys lines
	CustomData   []byte
	DataDisks    []string // names of data disks of the same group, from LUN 0 on
	// EncryptionSet names a disk encryption set of the same group; "": the disk is under no customer's key.
	EncryptionSet string
	// KeyService is the file that tells of a key keeper of the tenant's own; "": the installation's.
	KeyService string
}

// imageGroup is where the platform's images appear as resources.
const imageGroup = "cloister-images"

// Prepared is a request whose expectations are computed.
type Prepared struct {
	Request  Request
	VMID     string
	InitData []byte
	Expected *Expected
	Set      *EncryptionSet // nil without one
	keeper   *keeper
}

// Prepare chooses the VM's id, writes its init data and computes what its evidence must say. Nothing leaves this machine.
func (t *Tenant) Prepare(r Request) (*Prepared, error) {
	p := &Prepared{Request: r, VMID: uuid.NewString()}
	var err error
	if p.keeper, err = t.keeper(r.KeyService); err != nil {
		return nil, err
	}
	if r.KeyService != "" && r.EncryptionSet != "" {
		return nil, evidence.Refuse(evidence.CodePolicy, "encryption set", r.EncryptionSet, "none beside a key service of your own: a set names a key of the platform's key keeper")
	}
	p.InitData, err = initdata.Marshal(initdata.InitData{VMID: p.VMID, Name: r.Name, AdminUser: r.AdminUser, SSHKeys: r.SSHKeys, CustomData: r.CustomData,
		OSDiskEncryption: r.Encryption, Attest: t.Conn.Trust.Attest, Keys: p.keeper.service})
	if err != nil {
		return nil, err
	}
	p.Expected, err = Expect(t.Conn.Trust, r.Size, r.Image, p.InitData)
	return p, err
}

// Commit writes the expectations into the tenant's own policies: the release policy of the VM's key, and the
// attestation policy. From here on no other VM can have the key.
func (t *Tenant) Commit(ctx context.Context, p *Prepared) error {
	vms, err := t.VMs()
	if err != nil {
		return err
	}
	if _, err := vms.Get(ctx, t.Group, p.Request.Name, nil); err == nil {
		return evidence.Refuse(evidence.CodePolicy, "VM name", p.Request.Name+" exists", "a new name; a VM's expectations can't change after its creation")
	} else if !NotFound(err) {
		return err
	}
	if p.Request.EncryptionSet != "" {
		set, err := t.EncryptionSet(ctx, p.Request.EncryptionSet)
		if err != nil {
			return err
		}
		p.Set = &set
	}
	if err := t.remember(p); err != nil {
		return fmt.Errorf("keeping a note of the VM: %w", err)
	}
	if err := t.AcceptImage(ctx, p.Expected); err != nil {
		return err
	}
	if p.Request.Encryption == initdata.ModeNonPersistedTPM {
		return nil // no guest state, so no key of ours
	}
	vault, err := p.keeper.vault()
	if err != nil {
		return err
	}
	policy := keys.GuestStatePolicy(t.Conn.Trust.Attest.URL, [][48]byte{p.Expected.Measurement}, p.Expected.HostData)
	tags := map[string]*string{"vm": &p.Request.Name}
	if p.Set != nil {
		maps.Copy(tags, p.Set.customerTags())
	}
	_, err = vault.CreateKey(ctx, keys.KeyName(p.VMID), azkeys.CreateKeyParameters{
		Kty: to.Ptr(azkeys.KeyTypeOctHSM), KeySize: to.Ptr[int32](256), KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true), Enabled: to.Ptr(true)},
		ReleasePolicy: &azkeys.KeyReleasePolicy{EncodedPolicy: policy, Immutable: to.Ptr(true)}, Tags: tags,
	}, nil)
	if err != nil {
		return fmt.Errorf("creating the guest-state key: %w", err)
	}
	return nil
}

// Ask sends the request for the VM. The poller is done when the VM runs.
func (t *Tenant) Ask(ctx context.Context, p *Prepared) (*runtime.Poller[armcompute.VirtualMachinesClientCreateOrUpdateResponse], error) {
	subnet, err := t.EnsureGroup(ctx)
	if err != nil {
		return nil, err
	}
	var disks []*armcompute.DataDisk
	for lun, name := range p.Request.DataDisks {
		id, err := t.source(ctx, name, "")
		if err != nil {
			return nil, err
		}
		disks = append(disks, &armcompute.DataDisk{Lun: to.Ptr(int32(lun)), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: &armcompute.ManagedDiskParameters{ID: id}})
	}
	nic, err := t.EnsureNIC(ctx, p.Request.Name, subnet)
	if err != nil {
		return nil, err
	}
	vms, err := t.VMs()
	if err != nil {
		return nil, err
	}
	r := p.Request
	encryption := armcompute.SecurityEncryptionTypes(r.Encryption)
	securityType := armcompute.SecurityTypes(r.SecurityType)
	imageID := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/images/%s", t.Conn.SubscriptionID, imageGroup, p.Expected.Image.Name)
	vm := armcompute.VirtualMachine{
		Location: &t.Conn.Location,
		Properties: &armcompute.VirtualMachineProperties{
			HardwareProfile: &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(r.Size))},
			SecurityProfile: &armcompute.SecurityProfile{SecurityType: &securityType, UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: to.Ptr(true), VTpmEnabled: to.Ptr(true)}},
			StorageProfile: &armcompute.StorageProfile{
				ImageReference: &armcompute.ImageReference{ID: &imageID},
				OSDisk: &armcompute.OSDisk{CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesFromImage), DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete),
					ManagedDisk: &armcompute.ManagedDiskParameters{StorageAccountType: to.Ptr(armcompute.StorageAccountTypesPremiumLRS),
						SecurityProfile: &armcompute.VMDiskSecurityProfile{SecurityEncryptionType: &encryption}}},
				DataDisks: disks,
			},
			OSProfile: &armcompute.OSProfile{ComputerName: &r.Name, AdminUsername: to.Ptr(orDefault(r.AdminUser)),
				LinuxConfiguration: &armcompute.LinuxConfiguration{DisablePasswordAuthentication: to.Ptr(true), SSH: sshConfiguration(orDefault(r.AdminUser), r.SSHKeys)}},
			NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{ID: &nic,
				Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: to.Ptr(true)}}}},
			UserData: to.Ptr(base64.StdEncoding.EncodeToString(p.InitData)),
		},
	}
	if p.Set != nil {
		vm.Properties.StorageProfile.OSDisk.ManagedDisk.SecurityProfile.DiskEncryptionSet = &armcompute.DiskEncryptionSetParameters{ID: &p.Set.ID}
	}
	if r.Zone != "" {
		vm.Zones = []*string{&r.Zone}
	}
	return vms.BeginCreateOrUpdate(ctx, t.Group, r.Name, vm, nil)
}

// defaultAdmin is the administrator's name inside a VM when none is given.
const defaultAdmin = "azureuser"

func orDefault(user string) string {
	if user == "" {
		return defaultAdmin
	}
	return user
}

func sshConfiguration(user string, lines []string) *armcompute.SSHConfiguration {
	if len(lines) == 0 {
		return nil
	}
	c := &armcompute.SSHConfiguration{}
	for _, line := range lines {
		c.PublicKeys = append(c.PublicKeys, &armcompute.SSHPublicKey{Path: to.Ptr("/home/" + user + "/.ssh/authorized_keys"), KeyData: to.Ptr(line)})
	}
	return c
}

// Delete deletes the VM: its key first, so that what is left is noise, then the rest.
func (t *Tenant) Delete(ctx context.Context, name string) error {
	vms, err := t.VMs()
	if err != nil {
		return err
	}
	vm, err := vms.Get(ctx, t.Group, name, nil)
	if err != nil && !NotFound(err) {
		return err
	}
	if err == nil && vm.Properties != nil && vm.Properties.VMID != nil {
		k, err := t.keeperToDelete(name)
		if err != nil {
			return err
		}
		if err := k.destroy(ctx, *vm.Properties.VMID); err != nil {
			return err
		}
	}
	if err := t.DeleteVM(ctx, name); err != nil {
		return err
	}
	return t.forget(name)
}

// keeperToDelete is the key keeper that has a VM's key: the installation's for a VM of which there is no note.
func (t *Tenant) keeperToDelete(vm string) (*keeper, error) {
	k, err := t.keeperOf(vm)
	if evidence.CodeOf(err) == evidence.CodeUnavailable {
		return t.keeper("")
	}
	return k, err
}

// Abandon destroys the key of a VM that was prepared and could not be asked for.
func (t *Tenant) Abandon(ctx context.Context, p *Prepared) error {
	return p.keeper.destroy(ctx, p.VMID)
}

// destroy deletes a VM's guest-state key and purges it, so that nothing can bring it back. A key that is gone is no error.
func (k *keeper) destroy(ctx context.Context, vmID string) error {
	vault, err := k.vault()
	if err != nil {
		return err
	}
	if _, err := vault.DeleteKey(ctx, keys.KeyName(vmID), nil); err != nil && !NotFound(err) {
		return fmt.Errorf("deleting the guest-state key: %w", err)
	}
	if _, err := vault.PurgeDeletedKey(ctx, keys.KeyName(vmID), nil); err != nil && !NotFound(err) && !forbidden(err) {
		return fmt.Errorf("purging the guest-state key: %w", err)
	}
	return nil
}

// forbidden tells a purge that the vault's protection does not allow: the key is deleted all the same.
func forbidden(err error) bool {
	var r *azcore.ResponseError
	return errors.As(err, &r) && r.StatusCode == http.StatusForbidden
}
