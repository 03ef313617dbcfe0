package compute_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"

	"cloister.dev/cloister/host/api"
)

func done[T any](t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := p.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// must drops the error of calls that have none, or ends the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The entire life of one confidential VM, by Azure's own clients.
func TestLifeOfOneVMByAzureSDK(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	ctx := t.Context()
	groups := must[*armresources.ResourceGroupsClient](t)(armresources.NewResourceGroupsClient(sub, e, e.options()))
	vnets := must[*armnetwork.VirtualNetworksClient](t)(armnetwork.NewVirtualNetworksClient(sub, e, e.options()))
	subnets := must[*armnetwork.SubnetsClient](t)(armnetwork.NewSubnetsClient(sub, e, e.options()))
	nics := must[*armnetwork.InterfacesClient](t)(armnetwork.NewInterfacesClient(sub, e, e.options()))
	vms := must[*armcompute.VirtualMachinesClient](t)(armcompute.NewVirtualMachinesClient(sub, e, e.options()))
	disks := must[*armcompute.DisksClient](t)(armcompute.NewDisksClient(sub, e, e.options()))
	images := must[*armcompute.ImagesClient](t)(armcompute.NewImagesClient(sub, e, e.options()))
	skus := must[*armcompute.ResourceSKUsClient](t)(armcompute.NewResourceSKUsClient(sub, e, e.options()))
	usage := must[*armcompute.UsageClient](t)(armcompute.NewUsageClient(sub, e, e.options()))
	providers := must[*armresources.ProvidersClient](t)(armresources.NewProvidersClient(sub, e, e.options()))

	if _, err := groups.CreateOrUpdate(ctx, "Web", armresources.ResourceGroup{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil); err != nil {
		t.Fatal(err)
	}
	if ok, err := groups.CheckExistence(ctx, "web", nil); err != nil || !ok.Success {
		t.Fatalf("HEAD of the group: %v, %v", ok.Success, err)
	}
	if ok, err := groups.CheckExistence(ctx, "none", nil); err != nil || ok.Success {
		t.Fatalf("HEAD of no group: %v, %v", ok.Success, err)
	}
	if p, err := providers.Get(ctx, "Microsoft.Compute", nil); err != nil || *p.RegistrationState != "Registered" {
		t.Fatalf("provider: %v", err)
	}
	vp, err := vnets.BeginCreateOrUpdate(ctx, "web", "net", armnetwork.VirtualNetwork{Location: to.Ptr("local"), Properties: &armnetwork.VirtualNetworkPropertiesFormat{
		AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{to.Ptr("10.1.0.0/16")}}}}, nil)
	done(t, vp, err)
	sp, err := subnets.BeginCreateOrUpdate(ctx, "web", "net", "a", armnetwork.Subnet{Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: to.Ptr("10.1.2.0/24")}}, nil)
	subnet := done(t, sp, err)
	np, err := nics.BeginCreateOrUpdate(ctx, "web", "nic", armnetwork.Interface{Location: to.Ptr("local"), Properties: &armnetwork.InterfacePropertiesFormat{
		IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ip"), Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{Subnet: &armnetwork.Subnet{ID: subnet.ID}}}}}}, nil)
	nic := done(t, np, err)
	if got := *nic.Properties.IPConfigurations[0].Properties.PrivateIPAddress; got != "10.1.2.4" {
		t.Errorf("address %s, want the fifth of the subnet", got)
	}
	image, err := images.Get(ctx, "cloister-images", "debian", nil)
	if err != nil || *image.Tags["cloister.digest"] != "d1" {
		t.Fatalf("image: %v", err)
	}

	userData := e.initData(vmID, "web", "DiskWithVMGuestState")
	want := armcompute.VirtualMachine{Location: to.Ptr("local"), Tags: map[string]*string{"env": to.Ptr("test")}, Zones: []*string{to.Ptr("1")}, Properties: &armcompute.VirtualMachineProperties{
		HardwareProfile: &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes("Standard_DC2as_v5"))},
		SecurityProfile: &armcompute.SecurityProfile{SecurityType: to.Ptr(armcompute.SecurityTypesConfidentialVM), UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: to.Ptr(true), VTpmEnabled: to.Ptr(true)}},
		StorageProfile: &armcompute.StorageProfile{ImageReference: &armcompute.ImageReference{ID: image.ID}, OSDisk: &armcompute.OSDisk{Name: to.Ptr("web-os"), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesFromImage), DiskSizeGB: to.Ptr[int32](8),
			ManagedDisk: &armcompute.ManagedDiskParameters{SecurityProfile: &armcompute.VMDiskSecurityProfile{SecurityEncryptionType: to.Ptr(armcompute.SecurityEncryptionTypesDiskWithVMGuestState)}}}},
		OSProfile: &armcompute.OSProfile{ComputerName: to.Ptr("web"), AdminUsername: to.Ptr("azureuser"), LinuxConfiguration: &armcompute.LinuxConfiguration{DisablePasswordAuthentication: to.Ptr(true),
			SSH: &armcompute.SSHConfiguration{PublicKeys: []*armcompute.SSHPublicKey{{Path: to.Ptr("/home/azureuser/.ssh/authorized_keys"), KeyData: to.Ptr("ssh-ed25519 AAAA")}}}}},
		NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{ID: nic.ID, Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: to.Ptr(true)}}}},
		UserData:       to.Ptr(userData),
	}}
	cp, err := vms.BeginCreateOrUpdate(ctx, "web", "web", want, nil)
	made := done(t, cp, err)
	if *made.Properties.ProvisioningState != "Succeeded" || *made.Properties.VMID != vmID || *made.ID != "/subscriptions/"+sub+"/resourceGroups/web/providers/Microsoft.Compute/virtualMachines/web" {
		t.Errorf("made: %s %s %s", *made.Properties.ProvisioningState, *made.Properties.VMID, *made.ID)
	}
	host.mu.Lock()
	spec := host.vms[vmID]
	host.mu.Unlock()
	raw, _ := base64.StdEncoding.DecodeString(userData)
	if string(spec.InitData) != string(raw) || spec.OperatorTrusted || spec.VCPUs != 1 || spec.MemoryMiB != 1024 || spec.CPUModel != "EPYC" || spec.TEE != "snp" || spec.Image.Digest != "d1" ||
		spec.OSDisk.SizeGiB != 8 || len(spec.NICs) != 1 || spec.NICs[0].PrivateIP != "10.1.2.4" || spec.Power != api.PowerRunning {
		t.Errorf("spec: %s", jsonText(spec))
	}

	// A second PUT of the same changes nothing; PATCH changes tags.
	cp, err = vms.BeginCreateOrUpdate(ctx, "WEB", "Web", want, nil)
	done(t, cp, err)
	up, err := vms.BeginUpdate(ctx, "web", "web", armcompute.VirtualMachineUpdate{Tags: map[string]*string{"env": to.Ptr("prod")}}, nil)
	if got := done(t, up, err); *got.Tags["env"] != "prod" {
		t.Errorf("tags after PATCH: %v", got.Tags)
	}
	power := func(want string) {
		t.Helper()
		got, err := vms.Get(ctx, "web", "web", &armcompute.VirtualMachinesClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(got.Properties.InstanceView.Statuses, func(s *armcompute.InstanceViewStatus) bool { return *s.Code == "PowerState/"+want }) {
			t.Errorf("statuses %s, want %s", jsonText(got.Properties.InstanceView.Statuses), want)
		}
	}
	power("running")
	rp, err := vms.BeginRestart(ctx, "web", "web", nil)
	done(t, rp, err)
	op, err := vms.BeginPowerOff(ctx, "web", "web", &armcompute.VirtualMachinesClientBeginPowerOffOptions{SkipShutdown: to.Ptr(true)})
	done(t, op, err)
	power("stopped")
	dp, err := vms.BeginDeallocate(ctx, "web", "web", nil)
	done(t, dp, err)
	power("deallocated")
	stp, err := vms.BeginStart(ctx, "web", "web", nil)
	done(t, stp, err)
	power("running")
	view, err := vms.InstanceView(ctx, "web", "web", nil)
	if err != nil || !strings.Contains(jsonText(view), "this installation gives 1") {
		t.Errorf("instance view does not say that the size is capped: %s, %v", jsonText(view), err)
	}

	disk, err := disks.Get(ctx, "web", "web-os", nil)
	if err != nil || *disk.ManagedBy != *made.ID || *disk.Properties.SecurityProfile.SecurityType != armcompute.DiskSecurityTypesConfidentialVMDiskEncryptedWithPlatformKey {
		t.Errorf("OS disk: %v, %s", err, jsonText(disk))
	}
	names := map[string]bool{}
	for pager := skus.NewListPager(&armcompute.ResourceSKUsClientListOptions{Filter: to.Ptr("location eq 'local'")}); pager.More(); {
		page := must[armcompute.ResourceSKUsClientListResponse](t)(pager.NextPage(ctx))
		for _, s := range page.Value {
			names[*s.Name] = len(s.Restrictions) == 0
		}
	}
	if !names["Standard_DC2as_v5"] || names["Standard_DC2es_v5"] {
		t.Error("SKUs: want DCas offered, and DCes restricted where no host runs TDX")
	}
	used := func() int32 {
		for pager := usage.NewListPager("local", nil); pager.More(); {
			page := must[armcompute.UsageClientListResponse](t)(pager.NextPage(ctx))
			for _, u := range page.Value {
				if *u.Name.Value == "standardDCASv5Family" {
					return *u.CurrentValue
				}
			}
		}
		return -1
	}
	if used() != 2 {
		t.Errorf("usage %d, want the size's 2 vCPUs, not the cap's", used())
	}
	var journey struct {
		Phase  string
		Events []api.Event
	}
	if err := json.Unmarshal([]byte(jsonText(e.want(200, "GET", "/subscriptions/"+sub+"/resourceGroups/web/providers/Microsoft.Compute/virtualMachines/web/journey", ""))), &journey); err != nil {
		t.Fatal(err)
	}
	if len(journey.Events) < 3 || journey.Events[0].Step != "rules" || journey.Events[1].Step != "placement" || journey.Phase != api.PhaseRunning {
		t.Errorf("journey: %+v", journey)
	}

	delp, err := vms.BeginDelete(ctx, "web", "web", nil)
	done(t, delp, err)
	if _, err := vms.Get(ctx, "web", "web", nil); err == nil {
		t.Error("the VM is there after DELETE")
	}
	if used() != 0 {
		t.Errorf("usage %d after DELETE", used())
	}
	if len(e.keys.destroyed) != 1 || e.keys.destroyed[0] != vmID {
		t.Errorf("keys destroyed: %v", e.keys.destroyed)
	}
	if ddp, err := disks.BeginDelete(ctx, "web", "web-os", nil); err != nil {
		t.Error("DELETE of the OS disk that went with the VM:", err)
	} else {
		done(t, ddp, err)
	}
	ndp, err := nics.BeginDelete(ctx, "web", "nic", nil)
	done(t, ndp, err)
	gdp, err := groups.BeginDelete(ctx, "web", nil)
	done(t, gdp, err)
	if ok, err := groups.CheckExistence(ctx, "web", nil); err != nil || ok.Success {
		t.Errorf("the group is there after DELETE: %v", err)
	}
	// What the host was told to delete was deleted only after the key.
	last := host.seen[len(host.seen)-1]
	if last.Power != api.PowerDeleted {
		t.Errorf("last spec: %s", last.Power)
	}
}

func TestGroupDeletionTakesEverything(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	nic := e.nic("n")
	status, out, h := e.call("PUT", group+"/providers/Microsoft.Compute/virtualMachines/web", e.body(nic))
	if status != 201 {
		t.Fatal(out)
	}
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	status, out, h = e.call("DELETE", group, "")
	if status != 202 || h.Get("Location") == "" {
		t.Fatalf("%d %v %v", status, out, h)
	}
	h.Set("Azure-AsyncOperation", strings.TrimSuffix(h.Get("Location"), "&monitor=true"))
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	e.want(404, "GET", group, "")
	if out := e.want(200, "GET", "/subscriptions/"+sub+"/resources", ""); len(out["value"].([]any)) != 0 {
		t.Errorf("left: %v", out)
	}
}
