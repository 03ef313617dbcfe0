package compute_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
)

const (
	disksURL     = group + "/providers/Microsoft.Compute/disks/"
	snapshotsURL = group + "/providers/Microsoft.Compute/snapshots/"
)

func emptyDisk(gib int) string {
	return fmt.Sprintf(`{"location":"local","sku":{"name":"Premium_LRS"},"properties":{"creationData":{"createOption":"Empty"},"diskSizeGB":%d}}`, gib)
}

func copyOf(source string) string {
	return `{"location":"local","properties":{"creationData":{"createOption":"Copy","sourceResourceId":"` + source + `"}}}`
}

// settle makes a request that is to succeed, now or by its operation.
func (e *env) settle(method, path, body string) map[string]any {
	e.t.Helper()
	status, out, h := e.call(method, path, body)
	if status/100 != 2 {
		e.t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	if h.Get("Azure-AsyncOperation") != "" {
		if s, out := e.wait(h); s != "Succeeded" {
			e.t.Fatalf("%s %s: %v", method, path, out)
		}
	}
	return out
}

// refused makes a request that is to be refused.
func (e *env) refused(status int, code, message, method, path, body string) {
	e.t.Helper()
	got, out, _ := e.call(method, path, body)
	if c, m, _ := errorOf(out); got != status || c != code || !strings.Contains(m, message) {
		e.t.Errorf("%s %s: got %d %v, want %d %s saying %q", method, path, got, out, status, code, message)
	}
}

func attached(disks ...string) string {
	return `{"properties":{"storageProfile":{"dataDisks":[` + strings.Join(disks, ",") + `]}}}`
}

func attach(lun int, id string) string {
	return fmt.Sprintf(`{"lun":%d,"createOption":"Attach","managedDisk":{"id":"%s"}}`, lun, id)
}

// running makes the VM "web" and waits for it.
func (e *env) running(change ...func(map[string]any)) string {
	e.t.Helper()
	nic := e.nic("n")
	e.settle("PUT", webURL, e.body(nic, change...))
	return nic
}

func (p *player) spec(id string) api.VMSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vms[id]
}

// disk is what the host was last told of a disk, by the resource's URL.
func (p *player) disk(url string) (api.DiskSpec, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.disks {
		if d.Resource == strings.ToLower(url) {
			return d, true
		}
	}
	return api.DiskSpec{}, false
}

func (p *player) set(change func()) {
	p.mu.Lock()
	change()
	p.mu.Unlock()
	if err := p.report(p.e.t.Context()); err != nil {
		p.e.t.Error(err)
	}
}

// The life of data disks and a snapshot, by Azure's own clients.
func TestDisksByAzureSDK(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	e.running()
	ctx := t.Context()
	disks := must[*armcompute.DisksClient](t)(armcompute.NewDisksClient(sub, e, e.options()))
	snapshots := must[*armcompute.SnapshotsClient](t)(armcompute.NewSnapshotsClient(sub, e, e.options()))
	vms := must[*armcompute.VirtualMachinesClient](t)(armcompute.NewVirtualMachinesClient(sub, e, e.options()))

	dp, err := disks.BeginCreateOrUpdate(ctx, "g", "data", armcompute.Disk{Location: to.Ptr("local"), SKU: &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesPremiumLRS)},
		Properties: &armcompute.DiskProperties{CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionEmpty)}, DiskSizeGB: to.Ptr[int32](8)}}, nil)
	data := done(t, dp, err).Disk
	if *data.Properties.DiskState != armcompute.DiskStateUnattached || *data.Properties.ProvisioningState != "Succeeded" || data.Properties.OSType != nil {
		t.Errorf("made: %s", jsonText(data))
	}
	if _, told := host.disk(*data.ID); told {
		t.Error("a disk that was never attached lies on a host")
	}
	ap, err := vms.BeginDeallocate(ctx, "g", "web", nil)
	done(t, ap, err)
	profile := func(disks ...*armcompute.DataDisk) armcompute.VirtualMachineUpdate {
		if disks == nil {
			disks = []*armcompute.DataDisk{}
		}
		return armcompute.VirtualMachineUpdate{Properties: &armcompute.VirtualMachineProperties{StorageProfile: &armcompute.StorageProfile{DataDisks: disks}}}
	}
	up, err := vms.BeginUpdate(ctx, "g", "web", profile(&armcompute.DataDisk{Lun: to.Ptr[int32](2), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesAttach), ManagedDisk: &armcompute.ManagedDiskParameters{ID: data.ID}}), nil)
	if got := done(t, up, err); len(got.Properties.StorageProfile.DataDisks) != 1 || *got.Properties.StorageProfile.DataDisks[0].Lun != 2 || *got.Properties.StorageProfile.DataDisks[0].Name != "data" {
		t.Errorf("attached: %s", jsonText(got.Properties.StorageProfile))
	}
	gp, err := disks.BeginUpdate(ctx, "g", "data", armcompute.DiskUpdate{Properties: &armcompute.DiskUpdateProperties{DiskSizeGB: to.Ptr[int32](16)}}, nil)
	if got := done(t, gp, err); *got.Properties.DiskSizeGB != 16 || *got.ManagedBy == "" {
		t.Errorf("grown: %s", jsonText(got))
	}
	sp, err := snapshots.BeginCreateOrUpdate(ctx, "g", "snap", armcompute.Snapshot{Location: to.Ptr("local"), Properties: &armcompute.SnapshotProperties{CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: data.ID}}}, nil)
	snap := done(t, sp, err).Snapshot
	if *snap.Properties.DiskSizeGB != 16 || *snap.Properties.Incremental {
		t.Errorf("snapshot: %s", jsonText(snap))
	}
	cp, err := disks.BeginCreateOrUpdate(ctx, "g", "copy", armcompute.Disk{Location: to.Ptr("local"), Properties: &armcompute.DiskProperties{DiskSizeGB: to.Ptr[int32](32), CreationData: &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: snap.ID}}}, nil)
	second := done(t, cp, err).Disk
	a, _ := host.disk(*data.ID)
	b, _ := host.disk(*snap.ID)
	c, _ := host.disk(*second.ID)
	if a.SizeGiB != 16 || a.Kind != api.KindDisk || a.From != "" || b.Kind != api.KindSnapshot || b.From != a.ID || c.From != b.ID || c.SizeGiB != 32 {
		t.Errorf("the host was told %+v, %+v, %+v", a, b, c)
	}
	if got := must[armcompute.VirtualMachinesClientGetResponse](t)(vms.Get(ctx, "g", "web", nil)).Properties.StorageProfile.DataDisks; len(got) != 1 || *got[0].DiskSizeGB != 16 {
		t.Errorf("the VM's data disks after the disk grew: %s", jsonText(got))
	}
	stp, err := vms.BeginStart(ctx, "g", "web", nil)
	done(t, stp, err)
	if got := host.spec(vmID); len(got.DataDisks) != 1 || got.DataDisks[0] != (api.DataDisk{LUN: 2, DiskID: a.ID, Disk: api.Disk{Name: "data", ID: *data.ID, SizeGiB: 16, StorageType: "Premium_LRS", Caching: "None"}}) || got.TempDiskGiB != 0 {
		t.Errorf("spec: %s", jsonText(got))
	}
	for pager := snapshots.NewListByResourceGroupPager("g", nil); pager.More(); {
		if page := must[armcompute.SnapshotsClientListByResourceGroupResponse](t)(pager.NextPage(ctx)); len(page.Value) != 1 {
			t.Errorf("snapshots: %s", jsonText(page))
		}
	}
	ap, err = vms.BeginDeallocate(ctx, "g", "web", nil)
	done(t, ap, err)
	up, err = vms.BeginUpdate(ctx, "g", "web", profile(), nil)
	if got := done(t, up, err); len(got.Properties.StorageProfile.DataDisks) != 0 {
		t.Errorf("detached: %s", jsonText(got.Properties.StorageProfile))
	}
	ddp, err := disks.BeginDelete(ctx, "g", "data", nil)
	done(t, ddp, err)
	sdp, err := snapshots.BeginDelete(ctx, "g", "snap", nil)
	done(t, sdp, err)
	ddp, err = disks.BeginDelete(ctx, "g", "copy", nil)
	done(t, ddp, err)
	for _, id := range []string{*data.ID, *snap.ID, *second.ID} {
		if d, _ := host.disk(id); !d.Deleted {
			t.Errorf("%s went without being destroyed", id)
		}
		e.want(404, "GET", id, "")
	}
}

// Each refusal changes nothing; each has its positive twin in TestDisksByAzureSDK.
func TestDiskRefused(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	e.running()
	osDisk := jsonText(e.want(200, "GET", webURL, ""))
	osDisk = osDisk[strings.Index(osDisk, disksURL):]
	osDisk = osDisk[:strings.Index(osDisk, `"`)]
	e.settle("PUT", disksURL+"data", emptyDisk(8))
	edit := func(old, new string) string { return strings.Replace(emptyDisk(8), old, new, 1) }
	for _, r := range []struct {
		name, method, url, body string
		status                  int
		code, message           string
	}{
		{"too small", "PUT", disksURL + "x", emptyDisk(3), 400, "InvalidParameter", "want 4 to 32767"},
		{"too large", "PUT", disksURL + "x", emptyDisk(32768), 400, "InvalidParameter", "want 4 to 32767"},
		{"no size", "PUT", disksURL + "x", edit(`,"diskSizeGB":8`, ""), 400, "InvalidParameter", "diskSizeGB is 0"},
		{"half a size", "PUT", disksURL + "x", edit(`:8}`, ":8.5}"), 400, "InvalidParameter", "whole number"},
		{"no location", "PUT", disksURL + "x", edit(`"location":"local",`, ""), 400, "LocationRequired", ""},
		{"other location", "PUT", disksURL + "x", edit(`"local"`, `"eastus"`), 400, "LocationNotAvailableForResourceType", "eastus"},
		{"Ultra, by name", "PUT", disksURL + "x", edit("Premium_LRS", "UltraSSD_LRS"), 400, "InvalidParameter", "UltraSSD_LRS"},
		{"PremiumV2, by name", "PUT", disksURL + "x", edit("Premium_LRS", "PremiumV2_LRS"), 400, "InvalidParameter", "PremiumV2_LRS"},
		{"two zones", "PUT", disksURL + "x", edit(`"sku"`, `"zones":["1","2"],"sku"`), 400, "InvalidParameter", "one zone"},
		{"a zone that is not there", "PUT", disksURL + "x", edit(`"sku"`, `"zones":["9"],"sku"`), 400, "InvalidParameter", "Zone '9'"},
		{"shared", "PUT", disksURL + "x", edit(`"diskSizeGB"`, `"maxShares":2,"diskSizeGB"`), 400, "InvalidParameter", "not shared"},
		{"a security profile", "PUT", disksURL + "x", edit(`"diskSizeGB"`, `"securityProfile":{"securityType":"TrustedLaunch"},"diskSizeGB"`), 400, "InvalidParameter", "properties.securityProfile"},
		{"a key of the host's", "PUT", disksURL + "x", edit(`"diskSizeGB"`, `"encryption":{"type":"EncryptionAtRestWithCustomerKey"},"diskSizeGB"`), 400, "InvalidParameter", "EncryptionAtRestWithCustomerKey"},
		{"from an image", "PUT", disksURL + "x", edit("Empty", "FromImage"), 400, "InvalidParameter", "FromImage"},
		{"no option", "PUT", disksURL + "x", `{"location":"local","properties":{"diskSizeGB":8}}`, 400, "InvalidParameter", "createOption"},
		{"an empty one with a source", "PUT", disksURL + "x", edit(`"Empty"`, `"Empty","sourceResourceId":"`+disksURL+`data"`), 400, "InvalidParameter", "no source"},
		{"a copy without a source", "PUT", disksURL + "x", edit("Empty", "Copy"), 400, "InvalidParameter", "sourceResourceId"},
		{"a copy of nothing", "PUT", disksURL + "x", copyOf(disksURL + "none"), 404, "NotFound", "was not found"},
		{"SVC-12 a copy of a path", "PUT", disksURL + "x", copyOf(disksURL + "../../x"), 400, "LinkedInvalidPropertyId", "wrong number of parts"},
		{"a copy of another subscription's disk", "PUT", disksURL + "x", copyOf(strings.Replace(disksURL, sub, "00000000-0000-0000-0000-00000000000b", 1) + "data"), 403, "LinkedAuthorizationFailed", "linked scope"},
		{"a copy of an OS disk", "PUT", disksURL + "x", copyOf(osDisk), 409, "OperationNotAllowed", "refused for guest state"},
		{"a snapshot of an OS disk", "PUT", snapshotsURL + "x", copyOf(osDisk), 409, "OperationNotAllowed", "refused for guest state"},
		{"an incremental snapshot", "PUT", snapshotsURL + "x", strings.Replace(copyOf(disksURL+"data"), `{"creationData"`, `{"incremental":true,"creationData"`, 1), 400, "InvalidParameter", "whole one"},
		{"an empty snapshot", "PUT", snapshotsURL + "x", emptyDisk(8), 400, "InvalidParameter", "Allowed values are: Copy"},
		{"a snapshot larger than its source", "PUT", snapshotsURL + "x", strings.Replace(copyOf(disksURL+"data"), `{"creationData"`, `{"diskSizeGB":9,"creationData"`, 1), 400, "InvalidParameter", "as large as its source"},
		{"a copy smaller than its source", "PUT", disksURL + "x", strings.Replace(copyOf(disksURL+"data"), `{"creationData"`, `{"diskSizeGB":4,"creationData"`, 1), 409, "ResizeDiskError", "the source has 8"},
		{"shrinking", "PATCH", disksURL + "data", `{"properties":{"diskSizeGB":7}}`, 409, "ResizeDiskError", "never shrinks"},
		{"another SKU for an OS disk", "PATCH", osDisk, `{"sku":{"name":"Standard_LRS"}}`, 409, "PropertyChangeNotAllowed", "sku.name"},
		{"growing an OS disk", "PATCH", osDisk, `{"properties":{"diskSizeGB":100}}`, 409, "PropertyChangeNotAllowed", "only data disks"},
		{"changing the source", "PUT", disksURL + "data", copyOf(disksURL + "x"), 409, "PropertyChangeNotAllowed", "createOption"},
		{"patching nothing", "PATCH", disksURL + "none", `{"tags":{}}`, 404, "ResourceNotFound", "none"},
		{"deleting an attached disk", "DELETE", osDisk, "", 409, "OperationNotAllowed", "is attached to VM"},
		{"attaching to a VM that runs", "PATCH", webURL, attached(attach(0, disksURL+"data")), 409, "OperationNotAllowed", "no hot-plug"},
		{"a write accelerator", "PATCH", webURL, attached(strings.Replace(attach(0, disksURL+"data"), `{`, `{"writeAcceleratorEnabled":true,`, 1)), 400, "InvalidParameter", "writeAcceleratorEnabled"},
		{"attaching an OS disk", "PATCH", webURL, attached(attach(0, osDisk)), 409, "OperationNotAllowed", "OS disk"},
		{"attaching a snapshot", "PATCH", webURL, attached(attach(0, snapshotsURL+"x")), 400, "LinkedInvalidPropertyId", "another resource type"},
		{"more disks than the size has", "PATCH", webURL, attached(`{"lun":0,"createOption":"Empty","diskSizeGB":4}`, `{"lun":1,"createOption":"Empty","diskSizeGB":4}`, `{"lun":2,"createOption":"Empty","diskSizeGB":4}`,
			`{"lun":3,"createOption":"Empty","diskSizeGB":4}`, `{"lun":4,"createOption":"Empty","diskSizeGB":4}`), 409, "OperationNotAllowed", "of this size is 4"},
	} {
		t.Run(r.name, func(t *testing.T) {
			before := jsonText(e.want(200, "GET", "/subscriptions/"+sub+"/resources", ""))
			e.refused(r.status, r.code, r.message, r.method, r.url, r.body)
			if after := jsonText(e.want(200, "GET", "/subscriptions/"+sub+"/resources", "")); after != before {
				t.Errorf("changed: %s", after)
			}
		})
	}
	t.Run("a stale etag", func(t *testing.T) {
		status, out, _ := e.call("PUT", disksURL+"data", emptyDisk(9), func(r *http.Request) { r.Header.Set("If-Match", `"old"`) })
		if status != 412 {
			t.Errorf("%d %v", status, out)
		}
	})
	t.Run("the same again, in Terraform's words", func(t *testing.T) {
		e.settle("PUT", disksURL+"data", `{"location":"local","sku":{"name":"premium_lrs"},"properties":{"osType":"","diskSizeGB":8,"creationData":{"createOption":"Empty","performancePlus":false},"optimizedForFrequentAttach":false,
			"encryption":{"type":"EncryptionAtRestWithPlatformKey"},"networkAccessPolicy":"AllowAll","publicNetworkAccess":"Enabled"}}`)
		if got := jsonText(e.want(200, "GET", disksURL+"data", "")); !strings.Contains(got, `"networkAccessPolicy":"AllowAll"`) || !strings.Contains(got, `"publicNetworkAccess":"Enabled"`) {
			t.Error(got)
		}
	})
}

// What a host is still copying stays as it is: nobody writes to the source, and nothing of it is taken away.
func TestACopyBindsItsSource(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	e.running(with("properties.storageProfile.dataDisks", []any{map[string]any{"lun": 0, "name": "data", "createOption": "Empty", "diskSizeGB": 8}}))
	e.refused(409, "OperationNotAllowed", "not deallocated", "PUT", snapshotsURL+"s", copyOf(disksURL+"data"))
	e.refused(409, "OperationNotAllowed", "not deallocated", "PATCH", disksURL+"data", `{"properties":{"diskSizeGB":9}}`)
	e.settle("POST", webURL+"/deallocate", "")
	host.set(func() { host.diskHold = true })
	status, out, h := e.call("PUT", snapshotsURL+"s", copyOf(disksURL+"data"))
	if status != 202 || !strings.Contains(jsonText(out), `"provisioningState":"Creating"`) {
		t.Fatalf("%d %v", status, out)
	}
	e.refused(409, "OperationNotAllowed", "is being copied", "POST", webURL+"/start", "")
	e.refused(409, "OperationNotAllowed", "is being copied", "PATCH", disksURL+"data", `{"properties":{"diskSizeGB":9}}`)
	e.refused(409, "OperationNotAllowed", "Creating", "PUT", disksURL+"c", copyOf(snapshotsURL+"s"))
	e.settle("PATCH", webURL, attached())
	e.refused(409, "OperationNotAllowed", "is being copied", "DELETE", disksURL+"data", "")
	e.refused(409, "OperationNotAllowed", "is being copied", "PATCH", webURL, attached(attach(0, disksURL+"data")))

	host.set(func() {
		host.diskHold, host.diskFail = false, evidence.Refuse(evidence.CodeUnavailable, "disk", "no space left", "a copy")
	})
	if s, out := e.wait(h); s != "Failed" || !strings.Contains(jsonText(out), "no space left") {
		t.Errorf("%s %v", s, out)
	}
	e.refused(409, "OperationNotAllowed", "is being copied", "DELETE", disksURL+"data", "") // the host goes on trying
	host.set(func() { host.diskFail = nil })
	e.until(snapshotsURL+"s", `"provisioningState":"Succeeded"`)
	e.settle("PATCH", webURL, attached(attach(5, disksURL+"data")))
	e.settle("POST", webURL+"/start", "")

	// A copy that is deleted before it is made lets its source go too.
	host.set(func() { host.diskHold = true })
	e.settle("POST", webURL+"/deallocate", "")
	if status, out, _ := e.call("PUT", disksURL+"c", copyOf(snapshotsURL+"s")); status != 202 {
		t.Fatal(out)
	}
	status, out, h = e.call("DELETE", disksURL+"c", "")
	if status != 202 {
		t.Fatal(out)
	}
	again, _, h2 := e.call("DELETE", disksURL+"c", "")
	if again != 202 || h2.Get("Location") != h.Get("Location") {
		t.Errorf("a second DELETE: %d %v", again, h2)
	}
	e.refused(409, "OperationNotAllowed", "is being copied", "DELETE", snapshotsURL+"s", "")
	host.set(func() { host.diskHold = false })
	if s, out := e.wait(h); s != "Succeeded" {
		t.Error(out)
	}
	e.settle("DELETE", snapshotsURL+"s", "")
}

// A disk that goes with its VM while it is being copied goes after that, and is nobody's until then.
func TestADoomedDiskIsCopiedFirst(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	e.running(with("properties.storageProfile.dataDisks", []any{map[string]any{"lun": 0, "name": "data", "createOption": "Empty", "diskSizeGB": 8, "deleteOption": "Delete"}}))
	e.settle("POST", webURL+"/deallocate", "")
	host.set(func() { host.diskHold = true })
	status, out, h := e.call("PUT", snapshotsURL+"s", copyOf(disksURL+"data"))
	if status != 202 {
		t.Fatal(out)
	}
	e.settle("DELETE", webURL, "")
	e.refused(409, "OperationNotAllowed", "is being copied", "DELETE", disksURL+"data", "")
	if d, _ := host.disk(disksURL + "data"); d.Deleted {
		t.Fatal("the source of a copy was to be destroyed before it was copied")
	}
	host.set(func() { host.diskHold = false })
	if s, out := e.wait(h); s != "Succeeded" {
		t.Error(out)
	}
	e.until(disksURL+"data", "ResourceNotFound")
	if d, _ := host.disk(disksURL + "data"); !d.Deleted {
		t.Error("the disk went without being destroyed")
	}
	e.want(200, "GET", snapshotsURL+"s", "")
}

// A VM's deletion takes the disks that go with it and lets the others be; a group's takes all.
func TestDisksAtTheEnd(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	e.running(with("properties.hardwareProfile.vmSize", "Standard_DC2ads_v5"), with("properties.storageProfile.dataDisks", []any{
		map[string]any{"lun": 0, "name": "goes", "createOption": "Empty", "diskSizeGB": 8, "deleteOption": "Delete"},
		map[string]any{"lun": 1, "name": "stays", "createOption": "Empty", "diskSizeGB": 8}}))
	if got := host.spec(vmID); got.TempDiskGiB != 75 || len(got.DataDisks) != 2 {
		t.Errorf("spec: %s", jsonText(got))
	}
	e.settle("DELETE", webURL, "")
	e.until(disksURL+"goes", "ResourceNotFound")
	if d, _ := host.disk(disksURL + "goes"); !d.Deleted {
		t.Error("the disk went without being destroyed")
	}
	if got := jsonText(e.want(200, "GET", disksURL+"stays", "")); !strings.Contains(got, `"diskState":"Unattached"`) {
		t.Error(got)
	}
	e.settle("PUT", snapshotsURL+"s", copyOf(disksURL+"stays"))
	e.settle("PUT", disksURL+"never", emptyDisk(4))

	t.Run("a new VM lies where its disk does, or nowhere", func(t *testing.T) {
		other := strings.Replace(e.body(e.nic("n")), `"userData"`, `"ignored":null,"userData"`, 1)
		body := strings.Replace(other, `"osDisk"`, `"dataDisks":[`+attach(0, disksURL+"stays")+`],"osDisk"`, 1)
		body = strings.Replace(body, e.initData(vmID, "web", "DiskWithVMGuestState"), e.initData(strings.Replace(vmID, "b6", "b7", 1), "web", "DiskWithVMGuestState"), 1)
		host.set(func() { host.facts.Cordoned = "resting" })
		e.refused(409, "AllocationFailed", "host-1: takes no VMs: resting", "PUT", webURL, body)
		host.set(func() { host.facts.Cordoned = "" })
		e.settle("PUT", webURL, body)
	})
	if status, _, _ := e.call("DELETE", group, ""); status != 202 {
		t.Fatal(status)
	}
	e.until(group, "ResourceGroupNotFound")
	for _, url := range []string{disksURL + "stays", snapshotsURL + "s"} {
		if d, _ := host.disk(url); !d.Deleted {
			t.Errorf("%s went without being destroyed", url)
		}
	}
	if _, told := host.disk(disksURL + "never"); told {
		t.Error("a disk that was never attached lies on a host")
	}
}

// Two VMs ask for one disk at the same time: one has it.
func TestOneDiskIsGivenOnce(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	e.running()
	two := strings.TrimSuffix(webURL, "web") + "two"
	e.settle("PUT", two, e.body(e.nic("n2"), with("properties.userData", e.initData(strings.Replace(vmID, "b6", "b7", 1), "two", "DiskWithVMGuestState"))))
	e.settle("PUT", disksURL+"data", emptyDisk(8))
	for _, vm := range []string{webURL, two} {
		e.settle("POST", vm+"/deallocate", "")
	}
	for range 3 {
		var wg sync.WaitGroup
		got := make([]string, 2)
		for i, vm := range []string{webURL, two} {
			wg.Go(func() {
				status, out, _ := e.call("PATCH", vm, attached(attach(0, disksURL+"data")))
				code, _, _ := errorOf(out)
				got[i] = fmt.Sprint(status, code)
			})
		}
		wg.Wait()
		slices.Sort(got)
		if !slices.Equal(got, []string{"200", "409ConflictingUserInput"}) {
			t.Fatalf("got %v, want one VM to have it", got)
		}
		for _, vm := range []string{webURL, two} {
			e.settle("PATCH", vm, attached())
		}
	}
}

// What a host says of disks that are not its own, or of an earlier wish, changes nothing.
func TestReportsOfOthersDisks(t *testing.T) {
	const word = "another-token"
	sum := sha256.Sum256([]byte(word))
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.JoinTokens = append(c.JoinTokens, hex.EncodeToString(sum[:]))
	})
	host := e.join(8)
	e.running(with("properties.storageProfile.dataDisks", []any{map[string]any{"lun": 0, "name": "data", "createOption": "Empty", "diskSizeGB": 8}}))
	e.settle("POST", webURL+"/deallocate", "")
	e.settle("PATCH", webURL, attached())
	host.set(func() { host.diskHold = true })
	status, out, h := e.call("DELETE", disksURL+"data", "")
	if status != 202 {
		t.Fatal(out)
	}
	other, _, err := e.certificate("host-2", word)
	if err != nil {
		t.Fatal(err)
	}
	osDisk := e.want(200, "GET", webURL, "")["properties"].(map[string]any)["storageProfile"].(map[string]any)["osDisk"].(map[string]any)["managedDisk"].(map[string]any)["id"].(string)
	e.until(disksURL+"data", `"provisioningState":"Deleting"`)
	var told api.DiskSpec
	for told.Generation == 0 || !told.Deleted {
		told, _ = host.disk(disksURL + "data")
		runtime.Gosched()
	}
	right := api.DiskStatus{ID: told.ID, Resource: told.Resource, Generation: told.Generation, State: api.DiskDeleted}
	for name, change := range map[string]func(*api.DiskStatus) *api.Client{
		"another host":       func(*api.DiskStatus) *api.Client { return other },
		"an earlier wish":    func(s *api.DiskStatus) *api.Client { s.Generation--; return host.client },
		"another disk's id":  func(s *api.DiskStatus) *api.Client { s.ID = vmID; return host.client },
		"an OS disk":         func(s *api.DiskStatus) *api.Client { s.Resource = strings.ToLower(osDisk); return host.client },
		"no resource":        func(s *api.DiskStatus) *api.Client { s.Resource = ""; return host.client },
		"one that is not":    func(s *api.DiskStatus) *api.Client { s.Resource += "x"; return host.client },
		"ready, not deleted": func(s *api.DiskStatus) *api.Client { s.State = "gone"; return host.client },
	} {
		t.Run(name, func(t *testing.T) {
			st := right
			client := change(&st)
			facts := host.facts
			if client == other {
				facts.Name = "host-2"
			}
			if _, err := client.Report(t.Context(), api.Report{Host: facts, Disks: []api.DiskStatus{st}}); err != nil {
				t.Fatal(err)
			}
			if got := jsonText(e.want(200, "GET", disksURL+"data", "")); !strings.Contains(got, `"provisioningState":"Deleting"`) {
				t.Error(got)
			}
			e.want(200, "GET", osDisk, "")
		})
	}
	t.Run("positive twin", func(t *testing.T) {
		if _, err := host.client.Report(t.Context(), api.Report{Host: host.facts, Disks: []api.DiskStatus{right}}); err != nil {
			t.Fatal(err)
		}
		if s, out := e.wait(h); s != "Succeeded" {
			t.Error(out)
		}
	})
}

// Who may write to one group only gets at no disk of another: not by a copy, not by attaching it.
func TestDisksOfOthersGroups(t *testing.T) {
	part := identitytest.OtherIDs[0]
	mine := "/subscriptions/" + sub + "/resourceGroups/mine"
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.Roles = append(c.Roles, roles.List{{PrincipalID: part, Role: "Contributor", Scope: mine}}...)
	})
	e.join(8)
	e.running()
	e.want(201, "PUT", mine, `{"location":"local"}`)
	mineDisks := strings.Replace(disksURL, group, mine, 1)
	e.settle("PUT", disksURL+"theirs", emptyDisk(8))
	e.settle("PUT", mineDisks+"own", emptyDisk(8))
	as := e.as(part)
	vm := mine + "/providers/Microsoft.Compute/virtualMachines/web"
	newVM := func(disk string) string {
		return e.body(group+"/providers/Microsoft.Network/networkInterfaces/n", with("properties.storageProfile.dataDisks", []any{map[string]any{"lun": 0, "createOption": "Attach", "managedDisk": map[string]any{"id": disk}}}))
	}
	for _, r := range []struct{ name, url, body, action string }{
		{"copying a disk", mineDisks + "x", copyOf(disksURL + "theirs"), "Microsoft.Compute/disks/beginGetAccess/action"},
		{"copying one that is not there, which is not told", mineDisks + "x", copyOf(disksURL + "none"), "Microsoft.Compute/disks/beginGetAccess/action"},
		{"a snapshot of a disk", strings.Replace(snapshotsURL, group, mine, 1) + "x", copyOf(disksURL + "theirs"), "Microsoft.Compute/disks/beginGetAccess/action"},
		{"a new VM with the disk", vm, newVM(disksURL + "theirs"), "Microsoft.Compute/disks/write"},
	} {
		t.Run(r.name, func(t *testing.T) {
			status, out, _ := e.call("PUT", r.url, r.body, as)
			if code, message, _ := errorOf(out); status != 403 || code != "LinkedAuthorizationFailed" || !strings.Contains(message, "'"+r.action+"'") {
				t.Errorf("%d %v", status, out)
			}
		})
	}
	for name, body := range map[string]string{"read": "GET", "delete": "DELETE"} {
		if status, out, _ := e.call(body, disksURL+"theirs", "", as); status != 403 {
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
	t.Run("positive twin", func(t *testing.T) {
		if status, out, _ := e.call("PUT", mineDisks+"x", copyOf(mineDisks+"own"), as); status != 200 {
			t.Errorf("%d %v", status, out)
		}
		if _, out, _ := e.call("PUT", vm, newVM(mineDisks+"own"), as); strings.Contains(jsonText(out), "LinkedAuthorizationFailed") {
			t.Errorf("%v", out)
		}
	})
}

// The call that names only what changes, as newer clients make it.
func TestAttachDetachDataDisks(t *testing.T) {
	e := newEnv(t)
	host := e.join(8)
	e.running()
	for _, name := range []string{"a", "b", "c"} {
		e.settle("PUT", disksURL+name, emptyDisk(8))
	}
	ctx := t.Context()
	vms := must[*armcompute.VirtualMachinesClient](t)(armcompute.NewVirtualMachinesClient(sub, e, e.options()))
	change := func(r armcompute.AttachDetachDataDisksRequest) []string {
		t.Helper()
		p, err := vms.BeginAttachDetachDataDisks(ctx, "g", "web", r, nil)
		var luns []string
		for _, d := range done(t, p, err).DataDisks {
			luns = append(luns, fmt.Sprintf("%s@%d", *d.Name, *d.Lun))
		}
		return luns
	}
	add := func(name string, lun *int32) *armcompute.DataDisksToAttach {
		return &armcompute.DataDisksToAttach{DiskID: to.Ptr(disksURL + name), Lun: lun}
	}
	drop := func(name string) []*armcompute.DataDisksToDetach {
		return []*armcompute.DataDisksToDetach{{DiskID: to.Ptr(disksURL + name)}}
	}
	const call = webURL + "/attachDetachDataDisks"
	body := `{"dataDisksToAttach":[{"diskId":"` + disksURL + `a"}]}`
	e.refused(409, "OperationNotAllowed", "no hot-plug", "POST", call, body)
	e.settle("POST", webURL+"/deallocate", "")
	for _, r := range [][4]string{
		{"400", "InvalidParameter", "is not attached to this VM", `{"dataDisksToDetach":[{"diskId":"` + disksURL + `a"}]}`},
		{"400", "LinkedInvalidPropertyId", "wrong number of parts", `{"dataDisksToAttach":[{"diskId":"a"}]}`},
		{"400", "LinkedInvalidPropertyId", "", `{"dataDisksToAttach":[{"lun":1}]}`},
		{"404", "NotFound", "was not found", strings.Replace(body, `disks/a`, `disks/none`, 1)},
		{"400", "InvalidParameter", "writeAcceleratorEnabled", strings.Replace(body, `{"diskId"`, `{"writeAcceleratorEnabled":true,"diskId"`, 1)},
		{"400", "InvalidParameter", "diskEncryptionSet", strings.Replace(body, `{"diskId"`, `{"diskEncryptionSet":{"id":"x"},"diskId"`, 1)},
		{"400", "InvalidParameter", "given twice", `{"dataDisksToAttach":[{"diskId":"` + disksURL + `a","lun":1},{"diskId":"` + disksURL + `b","lun":1}]}`},
		{"400", "InvalidParameter", "want 0 to 63", `{"dataDisksToAttach":[{"diskId":"` + disksURL + `a","lun":64}]}`},
		{"400", "InvalidParameter", "detachOption", `{"dataDisksToDetach":[{"diskId":"` + disksURL + `a","detachOption":"ForceDetach"}]}`},
	} {
		status, err := strconv.Atoi(r[0])
		if err != nil {
			t.Fatal(err)
		}
		e.refused(status, r[1], r[2], "POST", call, r[3])
	}
	if got := change(armcompute.AttachDetachDataDisksRequest{DataDisksToAttach: []*armcompute.DataDisksToAttach{add("a", nil), add("b", to.Ptr[int32](0))}}); !slices.Equal(got, []string{"b@0", "a@1"}) {
		t.Errorf("attached %v", got)
	}
	e.refused(400, "InvalidParameter", "attached to this VM already", "POST", call, body)
	if got := change(armcompute.AttachDetachDataDisksRequest{DataDisksToAttach: []*armcompute.DataDisksToAttach{add("c", nil)}, DataDisksToDetach: drop("b")}); !slices.Equal(got, []string{"c@0", "a@1"}) {
		t.Errorf("exchanged: %v", got)
	}
	e.settle("POST", webURL+"/start", "")
	if got := host.spec(vmID).DataDisks; len(got) != 2 || got[0].Disk.Name != "c" || got[1].Disk.Name != "a" {
		t.Errorf("the host has %+v", got)
	}
	if got := jsonText(e.want(200, "GET", disksURL+"b", "")); !strings.Contains(got, "Unattached") {
		t.Error(got)
	}
}
