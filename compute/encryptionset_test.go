package compute_test

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
)

const setPath = group + "/providers/Microsoft.Compute/diskEncryptionSets/set1"

// customerKey is a key's URL in a vault here, with a version.
func (e *env) customerKey() string {
	return "https://main." + e.cfg.VaultSuffix + "/keys/customer/" + strings.Repeat("a", 32)
}

func setBody(key string, latest string) string {
	return `{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"encryptionType":"ConfidentialVmEncryptedWithCustomerKey","activeKey":{"keyUrl":"` + key + `"},"rotationToLatestKeyVersionEnabled":` + latest + `}}`
}

func TestEncryptionSetByAzureSDK(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	ctx := t.Context()
	nic := e.nic("n")
	sets := must[*armcompute.DiskEncryptionSetsClient](t)(armcompute.NewDiskEncryptionSetsClient(sub, e, e.options()))
	disks := must[*armcompute.DisksClient](t)(armcompute.NewDisksClient(sub, e, e.options()))
	want := armcompute.DiskEncryptionSet{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")},
		Identity:   &armcompute.EncryptionSetIdentity{Type: to.Ptr(armcompute.DiskEncryptionSetIdentityTypeSystemAssigned)},
		Properties: &armcompute.EncryptionSetProperties{EncryptionType: to.Ptr(armcompute.DiskEncryptionSetTypeConfidentialVMEncryptedWithCustomerKey), ActiveKey: &armcompute.KeyForDiskEncryptionSet{KeyURL: to.Ptr(e.customerKey())}}}
	p, err := sets.BeginCreateOrUpdate(ctx, "g", "set1", want, nil)
	made := done(t, p, err)
	if made.Identity == nil || len(*made.Identity.PrincipalID) != 36 || *made.Identity.TenantID != e.cfg.TenantID || *made.Properties.ProvisioningState != "Succeeded" || *made.Properties.ActiveKey.KeyURL != e.customerKey() {
		t.Fatalf("%+v %+v", made.Identity, made.Properties)
	}
	p, err = sets.BeginCreateOrUpdate(ctx, "g", "SET1", want, nil)
	if again := done(t, p, err); *again.Identity.PrincipalID != *made.Identity.PrincipalID {
		t.Error("a repeated PUT gave the set another identity")
	}
	u, err := sets.BeginUpdate(ctx, "g", "set1", armcompute.DiskEncryptionSetUpdate{Properties: &armcompute.DiskEncryptionSetUpdateProperties{RotationToLatestKeyVersionEnabled: to.Ptr(true)}}, nil)
	if changed := done(t, u, err); !*changed.Properties.RotationToLatestKeyVersionEnabled || *changed.Tags["a"] != "b" {
		t.Errorf("%+v", changed.Properties)
	}
	count := 0
	for pager := sets.NewListPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		count += len(page.Value)
	}
	if count != 1 {
		t.Errorf("%d sets in the subscription", count)
	}

	const place = "properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id"
	_, _, h := e.call("PUT", webURL, e.body(nic, with(place, setPath)))
	if state, out := e.wait(h); state != "Succeeded" {
		t.Fatalf("VM: %s %v", state, out)
	}
	vm := e.want(200, "GET", webURL, "")
	profile := dig(vm, "properties", "storageProfile", "osDisk", "managedDisk")
	if id := dig(profile, "securityProfile", "diskEncryptionSet")["id"]; id != setPath {
		t.Errorf("the VM names %v", id)
	}
	diskID, _ := profile["id"].(string)
	disk, err := disks.Get(ctx, "g", diskID[strings.LastIndex(diskID, "/")+1:], nil)
	if err != nil || *disk.Properties.SecurityProfile.SecurityType != armcompute.DiskSecurityTypesConfidentialVMDiskEncryptedWithCustomerKey || !strings.EqualFold(*disk.Properties.SecurityProfile.SecureVMDiskEncryptionSetID, setPath) {
		t.Errorf("disk: %v %+v", err, disk.Properties)
	}
	for pager := sets.NewListAssociatedResourcesPager("g", "set1", nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil || len(page.Value) != 1 || !strings.EqualFold(*page.Value[0], webURL) {
			t.Errorf("associated: %v %v", page.Value, err)
		}
	}
	if status, out, _ := e.call("DELETE", setPath, ""); status != 409 {
		t.Errorf("deleting a set in use: %d %v", status, out)
	}
	if status, out, _ := e.call("PUT", webURL, e.body(nic, with(place, setPath+"2"))); status != 400 && status != 409 {
		t.Errorf("CP-01 another set after creation: %d %v", status, out)
	}
	_, _, h = e.call("DELETE", webURL, "")
	if state, out := e.wait(h); state != "Succeeded" {
		t.Fatalf("deleting the VM: %s %v", state, out)
	}
	d, err := sets.BeginDelete(ctx, "g", "set1", nil)
	done(t, d, err)
	e.want(404, "GET", setPath, "")
}

// dig walks into nested objects.
func dig(m map[string]any, names ...string) map[string]any {
	for _, n := range names {
		m, _ = m[n].(map[string]any)
	}
	return m
}

func TestEncryptionSetRefused(t *testing.T) {
	e := newEnv(t)
	e.nic("n")
	vault := "https://main." + e.cfg.VaultSuffix
	e.want(200, "PUT", setPath, setBody(e.customerKey(), "false"))
	e.want(200, "PUT", setPath, setBody(vault+"/keys/customer", "true"))
	change := func(old, new string) string { return strings.Replace(setBody(e.customerKey(), "false"), old, new, 1) }
	for _, r := range []struct {
		name, body, code, target string
	}{
		{"no version and no rotation", setBody(vault+"/keys/customer", "false"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"SVC-10 a key elsewhere", setBody("https://elsewhere.example/keys/k/"+strings.Repeat("a", 32), "false"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"SVC-34 a key with a user", setBody(strings.Replace(e.customerKey(), "https://", "https://u@", 1), "false"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"SVC-12 a path that climbs", setBody(vault+"/keys/../secrets/k", "true"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"the key of a guest state", setBody(vault+"/keys/gs-"+vmID, "true"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"no key", setBody("", "true"), "InvalidParameter", "properties.activeKey.keyUrl"},
		{"a kind that protects nothing from the host", change("ConfidentialVmEncryptedWithCustomerKey", "EncryptionAtRestWithCustomerKey"), "InvalidParameter", "properties.encryptionType"},
		{"CP-02 a kind misspelt", change("ConfidentialVmEncryptedWithCustomerKey", "CONFIDENTIAL"), "InvalidParameter", "properties.encryptionType"},
		{"no identity", change(`"identity":{"type":"SystemAssigned"},`, ""), "InvalidParameter", "identity.type"},
		{"elsewhere", change(`"location":"local"`, `"location":"moon"`), "LocationNotAvailableForResourceType", "location"},
		{"a property that would change what one gets", change(`"activeKey"`, `"federatedClientId":"x","activeKey"`), "InvalidParameter", "properties.federatedClientId"},
	} {
		t.Run(r.name, func(t *testing.T) {
			status, out, _ := e.call("PUT", setPath+"b", r.body)
			code, _, target := errorOf(out)
			if status != 400 || code != r.code || target != r.target {
				t.Errorf("%d %s at %s, want 400 %s at %s: %v", status, code, target, r.code, r.target, out)
			}
			e.want(404, "GET", setPath+"b", "")
		})
	}
	if status, out, _ := e.call("PATCH", setPath, `{"properties":{"rotationToLatestKeyVersionEnabled":false}}`); status != 400 {
		t.Errorf("a patch that leaves neither version nor rotation: %d %v", status, out)
	}
	if status, out, _ := e.call("PATCH", setPath, `{"properties":{"encryptionType":"EncryptionAtRestWithCustomerKey"}}`); status != 400 {
		t.Errorf("a patch of the kind: %d %v", status, out)
	}
	if status, _, _ := e.call("PUT", strings.Replace(setPath, "resourceGroups/g/", "resourceGroups/none/", 1), setBody(e.customerKey(), "false")); status != 404 {
		t.Errorf("in a group that is not there: %d", status)
	}
	if status, _, _ := e.call("DELETE", setPath+"x", ""); status != 204 {
		t.Errorf("deleting what is not there: %d", status)
	}
}
