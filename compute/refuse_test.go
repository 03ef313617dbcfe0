package compute_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/identity/roles"
)

const webURL = group + "/providers/Microsoft.Compute/virtualMachines/web"

// Each refusal of a VM changes nothing, and the same request without the bad part is accepted at the end.
func TestVMRefused(t *testing.T) {
	e := newEnv(t)
	e.join(8)
	nic := e.nic("n")
	const profile = "properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType"
	for _, r := range []struct {
		name    string
		change  func(map[string]any)
		status  int
		code    string
		target  string
		message string // part of it
	}{
		{"CP-02 misspelt mode lists the allowed ones", with(profile, "DISK_WITH_VM_GUEST_STATE"), 400, "InvalidParameter", profile, "DiskWithVMGuestState, VMGuestStateOnly, NonPersistedTPM"},
		{"CP-01 no secure boot", with("properties.securityProfile.uefiSettings.secureBootEnabled", false), 400, "InvalidParameter", "properties.securityProfile.uefiSettings.secureBootEnabled", "needs secureBootEnabled"},
		{"CP-03 size that no host runs", with("properties.hardwareProfile.vmSize", "Standard_DC2es_v5"), 409, "SkuNotAvailable", "properties.hardwareProfile.vmSize", "no host runs TDX"},
		{"unknown size", with("properties.hardwareProfile.vmSize", "Standard_Huge"), 400, "InvalidParameter", "properties.hardwareProfile.vmSize", "Standard_Huge"},
		{"unknown property is named", with("properties.hostGroup", map[string]any{"id": "x"}), 400, "InvalidParameter", "properties.hostGroup", "not supported"},
		{"unknown property, true", with("properties.additionalCapabilities", map[string]any{"ultraSSDEnabled": true}), 400, "InvalidParameter", "properties.additionalCapabilities", "not supported"},
		{"a word where a flag belongs", with("properties.securityProfile.uefiSettings.vTpmEnabled", "true"), 400, "InvalidParameter", "properties.securityProfile.uefiSettings.vTpmEnabled", "want true or false"},
		{"SVC-12 NIC id with dots", with("properties.networkProfile.networkInterfaces", []any{map[string]any{"id": group + "/providers/Microsoft.Network/networkInterfaces/.."}}), 400, "LinkedInvalidPropertyId", "", "malformed"},
		{"SVC-12 disk name with dots", with("properties.storageProfile.osDisk.name", "../../etc/passwd"), 400, "InvalidResourceName", "", "invalid"},
		{"SVC-12 image of another group", with("properties.storageProfile.imageReference.id", group+"/providers/Microsoft.Compute/images/debian"), 404, "ImageNotFound", "properties.storageProfile.imageReference.id", "does not exist"},
		{"marketplace image", with("properties.storageProfile.imageReference", map[string]any{"publisher": "Canonical", "offer": "o", "sku": "s", "version": "latest"}), 400, "InvalidParameter", "properties.storageProfile.imageReference.offer", "not supported"},
		{"NIC that isn't there", with("properties.networkProfile.networkInterfaces", []any{map[string]any{"id": nic + "2"}}), 404, "NotFound", "properties.networkProfile.networkInterfaces[0].id", "was not found"},
		{"password", with("properties.osProfile", map[string]any{"computerName": "web", "adminUsername": "azureuser", "adminPassword": "hunter2-secret"}), 400, "InvalidParameter", "properties.osProfile.linuxConfiguration.disablePasswordAuthentication", "Passwords are refused"},
		{"init data of another mode", with("properties.userData", e.initData(vmID, "web", "VMGuestStateOnly")), 400, "InvalidParameter", "properties.userData", "osDiskEncryption"},
		{"SVC-20 init data with a member twice", with("properties.userData", base64.StdEncoding.EncodeToString([]byte(`{"version":"cloister.initdata/1","vmId":"a","VMID":"b"}`))), 400, "InvalidParameter", "properties.userData", "comes twice"},
		{"init data with an unknown member", with("properties.userData", base64.StdEncoding.EncodeToString([]byte(`{"version":"cloister.initdata/1","rootPassword":"x"}`))), 400, "InvalidParameter", "properties.userData", "rootPassword"},
		{"user data that is no base64", with("properties.userData", "%%%"), 400, "InvalidParameter", "properties.userData", "base64"},
		{"other location", with("location", "eastus"), 400, "LocationNotAvailableForResourceType", "location", "eastus"},
		{"too many tags", with("tags", manyTags(51)), 400, "InvalidTags", "tags", "51"},
		{"identity of a kind that isn't served", with("identity", map[string]any{"type": "SystemAssigned"}), 400, "InvalidParameter", "identity.type", "None"},
		{"keeping the disk", with("properties.storageProfile.osDisk.deleteOption", "Detach"), 400, "InvalidParameter", "properties.storageProfile.osDisk.deleteOption", "destroyed"},
	} {
		t.Run(r.name, func(t *testing.T) {
			status, out, h := e.call("PUT", webURL, e.body(nic, r.change))
			code, message, target := errorOf(out)
			if status != r.status || code != r.code || target != r.target || !strings.Contains(message, r.message) || h.Get("x-ms-error-code") != code {
				t.Fatalf("got %d %v, want %d %s at %q saying %q", status, out, r.status, r.code, r.target, r.message)
			}
			if strings.Contains(jsonText(out), "hunter2") {
				t.Error("the refusal repeats a password")
			}
			e.want(404, "GET", webURL, "")
		})
	}
	t.Run("all violations in one answer", func(t *testing.T) {
		_, out, _ := e.call("PUT", webURL, e.body(nic, with("properties.hardwareProfile.vmSize", "x"), with("properties.securityProfile.uefiSettings", nil)))
		if d := out["error"].(map[string]any)["details"]; d == nil || len(d.([]any)) != 3 {
			t.Fatalf("got %v, want three details", out)
		}
	})
	t.Run("positive twin, with everything harmless that clients send", func(t *testing.T) {
		status, out, h := e.call("PUT", webURL, e.body(nic, with("name", "web"), with("identity", map[string]any{"type": "None", "userAssignedIdentities": nil}),
			with("properties.additionalCapabilities", map[string]any{}), with("properties.applicationProfile", map[string]any{"galleryApplications": []any{}}),
			with("properties.diagnosticsProfile", map[string]any{"bootDiagnostics": map[string]any{"enabled": false, "storageUri": ""}}), with("properties.extensionsTimeBudget", "PT1H30M"),
			with("properties.priority", "Regular"), with("properties.storageProfile.osDisk.createOption", "fromImage"), with("properties.storageProfile.osDisk.writeAcceleratorEnabled", false),
			with("properties.storageProfile.dataDisks", []any{}), with("properties.osProfile", map[string]any{"computerName": "web", "secrets": []any{}})))
		if status != 201 {
			t.Fatalf("%d %v", status, out)
		}
		if s, out := e.wait(h); s != "Succeeded" {
			t.Fatal(out)
		}
		got := e.want(200, "GET", webURL, "")
		if text := jsonText(got); strings.Contains(text, "additionalCapabilities") || strings.Contains(text, "bootDiagnostics") || strings.Contains(text, "userData") {
			t.Errorf("echoes what makes Terraform see a change: %s", text)
		}
		t.Run("a NIC in use stays", func(t *testing.T) {
			_, out, _ := e.call("DELETE", nic, "")
			if code, _, _ := errorOf(out); code != "NicInUse" {
				t.Errorf("got %v", out)
			}
			_, out, _ = e.call("DELETE", group+"/providers/Microsoft.Network/virtualNetworks/net", "")
			if code, _, _ := errorOf(out); code != "InUseSubnetCannotBeDeleted" {
				t.Errorf("got %v", out)
			}
			_, out, _ = e.call("PUT", group+"/providers/Microsoft.Compute/virtualMachines/two", e.body(nic))
			if code, _, _ := errorOf(out); code != "NicInUse" {
				t.Errorf("got %v", out)
			}
		})
		t.Run("CP-08 the digest stays when the image is replaced", func(t *testing.T) {
			writeImage(t, e.cfg.ImageDir, "debian", "d2")
			out := e.want(200, "GET", webURL+"/journey", "")
			if out["imageDigest"] != "d1" {
				t.Errorf("digest %v", out["imageDigest"])
			}
		})
		for name, change := range map[string]func(map[string]any){
			"size":        with("properties.hardwareProfile.vmSize", "Standard_DC4as_v5"),
			"user data":   with("properties.userData", e.initData(vmID, "web2", "DiskWithVMGuestState")),
			"secure boot": with("properties.securityProfile.uefiSettings.secureBootEnabled", false),
			"encryption":  with(profile, "VMGuestStateOnly"),
		} {
			t.Run("CP-07 no change of "+name, func(t *testing.T) {
				status, out, _ := e.call("PUT", webURL, e.body(nic, change))
				if code, _, target := errorOf(out); status != 409 || code != "PropertyChangeNotAllowed" || target == "" {
					t.Errorf("got %d %v", status, out)
				}
			})
		}
	})
	t.Run("CP-10 the id of a deleted VM is not used again", func(t *testing.T) {
		_, _, h := e.call("DELETE", webURL, "")
		if s, out := e.wait(h); s != "Succeeded" {
			t.Fatal(out)
		}
		status, out, _ := e.call("PUT", webURL, e.body(nic))
		if code, _, _ := errorOf(out); status != 409 || code != "Conflict" {
			t.Fatalf("got %d %v", status, out)
		}
		other := strings.Replace(vmID, "b6", "b7", 1)
		if status, out, _ := e.call("PUT", webURL, e.body(nic, with("properties.userData", e.initData(other, "web", "DiskWithVMGuestState")))); status != 201 {
			t.Fatalf("positive twin: %d %v", status, out)
		}
	})
	if status, _, _ := e.call("DELETE", group+"/providers/Microsoft.Compute/virtualMachines/none", ""); status != 204 {
		t.Errorf("DELETE of what is gone: %d, want 204", status)
	}
}

func manyTags(n int) map[string]any {
	out := map[string]any{}
	for i := range n {
		out[fmt.Sprint("t", i)] = "x"
	}
	return out
}

func TestBadRequests(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"Local"}`) // the positive twin of most rows
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, r := range []struct {
		name, method, path, body string
		change                   func(*http.Request)
		status                   int
		code                     string
	}{
		{"malformed JSON", "PUT", group, `{"location":`, nil, 400, "InvalidRequestContent"},
		{"text after the object", "PUT", group, `{"location":"local"} {}`, nil, 400, "InvalidRequestContent"},
		{"no object", "PUT", group, `[]`, nil, 400, "InvalidRequestContent"},
		{"empty body", "PUT", group, ``, nil, 400, "InvalidRequestContent"},
		{"SVC-20 member twice", "PUT", group, `{"location":"local","location":"local"}`, nil, 400, "InvalidRequestContent"},
		{"SVC-20 member twice, another case", "PUT", group, `{"location":"local","Location":"local"}`, nil, 400, "InvalidRequestContent"},
		{"SVC-20 deep nesting", "PUT", group, `{"location":"local","tags":` + deep + `}`, nil, 400, "InvalidRequestContent"},
		{"SVC-20 invalid UTF-8", "PUT", group, "{\"location\":\"local\",\"tags\":{\"a\":\"\xff\"}}", nil, 400, "InvalidRequestContent"},
		{"SVC-20 unknown member", "PUT", group, `{"location":"local","owner":"x"}`, nil, 400, "InvalidParameter"},
		{"wrong type of location", "PUT", group, `{"location":4}`, nil, 400, "InvalidParameter"},
		{"no location", "PUT", group, `{}`, nil, 400, "LocationRequired"},
		{"other location", "PUT", group, `{"location":"eastus"}`, nil, 400, "LocationNotAvailableForResourceGroup"},
		{"no api-version", "GET", group + "?api-version=", "", nil, 400, "MissingApiVersionParameter"},
		{"api-version that is no date", "GET", group + "?api-version=latest", "", nil, 400, "InvalidApiVersionParameter"},
		{"api-version before the floor", "GET", group + "?api-version=2001-01-01", "", nil, 400, "InvalidApiVersionParameter"},
		{"api-version twice", "GET", group + "?api-version=2025-04-01&api%2Dversion=2024-01-01", "", nil, 400, "InvalidQueryParameter"},
		{"SVC-12 dot-dot", "GET", "/subscriptions/" + sub + "/resourceGroups/..", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 encoded dot-dot", "GET", "/subscriptions/" + sub + "/resourceGroups/%2e%2e", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 encoded slash", "GET", "/subscriptions/" + sub + "/resourceGroups/a%2fb", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 backslash", "GET", "/subscriptions/" + sub + "/resourceGroups/a%5cb", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 NUL", "GET", "/subscriptions/" + sub + "/resourceGroups/a%00b", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 newline", "GET", "/subscriptions/" + sub + "/resourceGroups/a%0ab", "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 over-long", "GET", "/subscriptions/" + sub + "/resourceGroups/" + strings.Repeat("a", 300), "", nil, 400, "InvalidRequestUri"},
		{"SVC-12 too long for a group", "GET", "/subscriptions/" + sub + "/resourceGroups/" + strings.Repeat("a", 91), "", nil, 400, "InvalidResourceGroupName"},
		{"SVC-12 Unicode look-alike", "GET", "/subscriptions/" + sub + "/resourceGroups/g%D0%B0", "", nil, 400, "InvalidResourceGroupName"},
		{"SVC-12 VM name with a look-alike dot", "GET", group + "/providers/Microsoft.Compute/virtualMachines/a%E2%80%A4b", "", nil, 400, "InvalidResourceName"},
		{"unknown subscription", "GET", "/subscriptions/00000000-0000-0000-0000-00000000000b", "", nil, 403, "AuthorizationFailed"},
		{"subscription that is no GUID", "GET", "/subscriptions/mine/resourceGroups", "", nil, 400, "InvalidSubscriptionId"},
		{"unknown group", "GET", group + "x", "", nil, 404, "ResourceGroupNotFound"},
		{"unknown VM", "GET", webURL, "", nil, 404, "ResourceNotFound"},
		{"VM in an unknown group", "PUT", strings.Replace(webURL, "/g/", "/none/", 1), `{}`, nil, 404, "ResourceGroupNotFound"},
		{"unknown provider", "GET", group + "/providers/Microsoft.Nothing/things/x", "", nil, 404, "InvalidResourceNamespace"},
		{"unknown type", "GET", group + "/providers/Microsoft.Compute/spaceships/x", "", nil, 404, "InvalidResourceType"},
		{"wrong method", "POST", group, "", nil, 405, "MethodNotAllowed"},
		{"no token", "GET", group, "", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "AuthenticationFailed"},
		{"token that is none", "GET", group, "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x.y.z") }, 401, "InvalidAuthenticationToken"},
		{"no token, unknown path", "GET", "/nothing", "", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "AuthenticationFailed"},
		{"SVC-30 method override", "GET", group, "", func(r *http.Request) {
			r.Header.Set("X-HTTP-Method-Override", "DELETE")
			r.Header.Set("X-MS-CLIENT-PRINCIPAL-ID", "admin")
		}, 200, ""},
		{"group still there", "GET", group, "", nil, 200, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			change := func(*http.Request) {}
			if r.change != nil {
				change = r.change
			}
			status, out, h := e.call(r.method, r.path, r.body, change)
			code, message, _ := errorOf(out)
			if status != r.status || code != r.code || r.code != "" && message == "" {
				t.Fatalf("got %d %v, want %d %s", status, out, r.status, r.code)
			}
			if status == 401 && !strings.HasPrefix(h.Get("WWW-Authenticate"), `Bearer authorization_uri="https://login.cloister.test/`) {
				t.Errorf("challenge %q", h.Get("WWW-Authenticate"))
			}
		})
	}
	t.Run("names have no case, and slashes may double", func(t *testing.T) {
		out := e.want(200, "GET", "//Subscriptions/"+strings.ToUpper(sub)+"/RESOURCEGROUPS/G/", "")
		if out["id"] != group {
			t.Errorf("id %v, want the case it was made with", out["id"])
		}
	})
}

func TestRolesDecide(t *testing.T) {
	for _, r := range []struct {
		name, role  string
		read, write int
	}{{"contributor", "Contributor", 200, 201}, {"owner", "Owner", 200, 201}, {"reader", "Reader", 404, 403}, {"none", "", 403, 403}} {
		t.Run(r.name, func(t *testing.T) {
			e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
				c.Roles = nil
				if r.role != "" {
					c.Roles = roles.List{{PrincipalID: c.Identity.Issuers[0].TenantID, Role: "Owner", Scope: "/"}, {PrincipalID: "aaaaaaaa-0000-0000-0000-000000000001", Role: r.role, Scope: "/subscriptions/" + sub}}
				}
			})
			status, out, _ := e.call("PUT", group, `{"location":"local"}`)
			if code, message, _ := errorOf(out); status != r.write || status == 403 && (code != "AuthorizationFailed" || !strings.Contains(message, "'Microsoft.Resources/subscriptions/resourceGroups/write' over scope '"+group+"'")) {
				t.Errorf("PUT: %d %v, want %d", status, out, r.write)
			}
			if status, out, _ := e.call("GET", group, ""); status != r.read {
				t.Errorf("GET: %d %v, want %d", status, out, r.read)
			}
			list := e.want(200, "GET", "/subscriptions", "")["value"].([]any)
			if (len(list) == 1) != (r.role != "") {
				t.Errorf("subscriptions: %v", list)
			}
		})
	}
}

// SVC-30: operation URLs come from the configuration, whatever the client says of the host.
func TestForgedHostHasNoEffect(t *testing.T) {
	e := newEnv(t)
	e.want(201, "PUT", group, `{"location":"local"}`)
	_, _, h := e.call("DELETE", group, "", func(r *http.Request) {
		r.Host = "evil.test"
		r.Header.Set("X-Forwarded-Host", "evil.test")
		r.Header.Set("Forwarded", "host=evil.test")
	})
	if got := h.Get("Location"); !strings.HasPrefix(got, e.arm.URL+"/") {
		t.Errorf("Location %q, want below %s", got, e.arm.URL)
	}
}

func TestMetadataNeedsNoToken(t *testing.T) {
	e := newEnv(t)
	status, out, _ := e.call("GET", "/metadata/endpoints?api-version=2022-09-01", "", func(r *http.Request) { r.Header.Del("Authorization") })
	if status != 200 || out["graphAudience"] == nil || out["name"] == nil || out["resourceManager"] == nil || out["suffixes"].(map[string]any)["keyVaultDns"] != "vault.localhost" {
		t.Errorf("%d %v", status, out)
	}
	for _, path := range []string{"/healthz", "/metrics"} {
		if status, out, _ := e.call("GET", path, ""); status != 200 {
			t.Errorf("%s: %d %v", path, status, out)
		}
	}
}

// CP-06: of 100 creates at once, with room for one, exactly one succeeds, and the counts are right.
func TestCP06QuotaRace(t *testing.T) {
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) { c.Quota = quota.Limits{Cores: 100, VMs: 50, Family: 2} })
	e.join(1000)
	const n = 100
	e.nic("n0")
	nics := make([]string, n)
	for i := range n {
		nics[i] = e.nic(fmt.Sprint("n", i))
	}
	bodies := make([]string, n)
	for i := range n {
		bodies[i] = e.body(nics[i], with("properties.userData", e.initData(fmt.Sprintf("b6c98c3b-4ec7-4da6-bd2f-%012d", i), "web", "DiskWithVMGuestState")))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for i := range n {
		wg.Go(func() {
			status, out, _ := e.call("PUT", fmt.Sprint(group, "/providers/Microsoft.Compute/virtualMachines/vm", i), bodies[i])
			code, _, _ := errorOf(out)
			mu.Lock()
			got[fmt.Sprint(status, code)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if got["201"] != 1 || got["409OperationNotAllowed"] != n-1 {
		t.Fatalf("got %v, want one 201 and %d refusals", got, n-1)
	}
	if out := jsonText(e.want(200, "GET", "/subscriptions/"+sub+"/providers/Microsoft.Compute/locations/local/usages", "")); !strings.Contains(out, `"currentValue":2,"limit":2`) {
		t.Errorf("usages: %s", out)
	}
	if out := e.want(200, "GET", "/subscriptions/"+sub+"/providers/Microsoft.Compute/virtualMachines", ""); len(out["value"].([]any)) != 1 {
		t.Errorf("%d VMs", len(out["value"].([]any)))
	}
}

func TestNoCapacity(t *testing.T) {
	e := newEnv(t)
	nic := e.nic("n")
	t.Run("no host has joined", func(t *testing.T) {
		status, out, _ := e.call("PUT", webURL, e.body(nic))
		if code, _, _ := errorOf(out); status != 409 || code != "SkuNotAvailable" {
			t.Fatalf("%d %v", status, out)
		}
	})
	p := e.join(1)
	t.Run("CP-05 the host says why it takes no VMs", func(t *testing.T) {
		p.change(func(f *api.HostFacts) { f.Cordoned = "its report was refused" })
		if err := p.report(t.Context()); err != nil {
			t.Fatal(err)
		}
		status, out, _ := e.call("PUT", webURL, e.body(nic))
		if code, message, _ := errorOf(out); status != 409 || code != "AllocationFailed" || !strings.Contains(message, "its report was refused") {
			t.Fatalf("%d %v", status, out)
		}
		p.change(func(f *api.HostFacts) { f.Cordoned = "" })
		if err := p.report(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("no host in the zone", func(t *testing.T) {
		status, out, _ := e.call("PUT", webURL, e.body(nic, with("zones", []any{"2"})))
		if code, _, _ := errorOf(out); status != 409 || code != "SkuNotAvailable" && code != "ZonalAllocationFailed" {
			t.Fatalf("%d %v", status, out)
		}
	})
	if status, out, _ := e.call("PUT", webURL, e.body(nic)); status != 201 {
		t.Fatalf("positive twin: %d %v", status, out)
	}
	t.Run("full", func(t *testing.T) {
		other := e.nic("n2")
		status, out, _ := e.call("PUT", group+"/providers/Microsoft.Compute/virtualMachines/two", e.body(other, with("properties.userData", e.initData("b6c98c3b-4ec7-4da6-bd2f-7d98d20d7b76", "two", "DiskWithVMGuestState"))))
		if code, message, _ := errorOf(out); status != 409 || code != "AllocationFailed" || !strings.Contains(message, "0 vCPUs free, 1 needed") {
			t.Fatalf("%d %v", status, out)
		}
		if out := e.want(200, "GET", other, ""); strings.Contains(jsonText(out), "virtualMachine\"") {
			t.Error("a refused VM holds the NIC")
		}
	})
}

// CP-04: a start that the host refuses ends the operation with the reason, and can be tried again.
func TestFailedStartIsRetryable(t *testing.T) {
	e := newEnv(t)
	p := e.join(8)
	p.mu.Lock()
	p.fail = evidence.Refuse(evidence.CodePolicy, "key gs-"+vmID, "disabled", "a key that may be released")
	p.mu.Unlock()
	nic := e.nic("n")
	_, _, h := e.call("PUT", webURL, e.body(nic))
	s, out := e.wait(h)
	if code, message, _ := errorOf(out); s != "Failed" || code != "VMStartFailed" || !strings.Contains(message, "key gs-"+vmID) {
		t.Fatalf("got %v", out)
	}
	if got := e.want(200, "GET", webURL, ""); !strings.Contains(jsonText(got), `"provisioningState":"Failed"`) {
		t.Errorf("%v", got)
	}
	p.mu.Lock()
	p.fail = nil
	p.mu.Unlock()
	_, _, h = e.call("POST", webURL+"/start", "")
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
}

// A key that can't be destroyed keeps the VM: nothing else goes before it.
func TestKeyGoesFirst(t *testing.T) {
	e := newEnv(t)
	p := e.join(8)
	nic := e.nic("n")
	_, _, h := e.call("PUT", webURL, e.body(nic))
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	e.keys.mu.Lock()
	e.keys.fail = fmt.Errorf("the vault does not answer")
	e.keys.mu.Unlock()
	_, _, h = e.call("DELETE", webURL, "")
	e.want(200, "GET", webURL, "")
	p.mu.Lock()
	for _, s := range p.seen {
		if s.Power == api.PowerDeleted {
			t.Error("the host was told to delete before the key was gone")
		}
	}
	p.mu.Unlock()
	e.keys.mu.Lock()
	e.keys.fail = nil
	e.keys.mu.Unlock()
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	e.want(404, "GET", webURL, "")
}

func TestAgentAPIRefuses(t *testing.T) {
	e := newEnv(t)
	code := func(err error) evidence.Code { return evidence.CodeOf(err) }
	ctx := t.Context()
	if _, _, err := e.certificate("host-1", "guess"); code(err) != evidence.CodeAuthz {
		t.Errorf("unknown token: %v", err)
	}
	if _, _, err := e.certificate("host-1", ""); code(err) != evidence.CodeAuthz {
		t.Errorf("no token: %v", err)
	}
	for _, name := range []string{"", "../x", "UPPER", strings.Repeat("a", 70)} {
		if _, _, err := e.certificate(name, joinWord); err == nil {
			t.Errorf("SVC-12 host name %q joined", name)
		}
	}
	// SVC-14: one-time means once, also at once.
	var wg sync.WaitGroup
	var mu sync.Mutex
	var clients []*api.Client
	for range 20 {
		wg.Go(func() {
			if c, _, err := e.certificate("host-1", joinWord); err == nil {
				mu.Lock()
				clients = append(clients, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(clients) != 1 {
		t.Fatalf("SVC-14: the token was redeemed %d times", len(clients))
	}
	host := clients[0]
	if _, err := host.Report(ctx, api.Report{Host: api.HostFacts{Name: "host-1"}}); err != nil {
		t.Errorf("positive twin: %v", err)
	}
	if _, err := host.Report(ctx, api.Report{Host: api.HostFacts{Name: "host-2"}}); code(err) != evidence.CodeAuthz {
		t.Errorf("report in another host's name: %v", err)
	}
	stranger := api.NewClient(e.agents.URL, e.agents.Client())
	if _, err := stranger.Report(ctx, api.Report{Host: api.HostFacts{Name: "host-1"}}); code(err) != evidence.CodeAuthz {
		t.Errorf("report without certificate: %v", err)
	}
	if err := stranger.Watch(ctx, func(api.Message) error { return nil }); code(err) != evidence.CodeAuthz {
		t.Errorf("watch without certificate: %v", err)
	}
	if _, err := host.Identity(ctx, vmID, "https://vault.azure.net"); code(err) != evidence.CodeAuthz {
		t.Errorf("identity of a VM that isn't there: %v", err)
	}
	if err := host.Answer(ctx, vmID, "x", api.Answer{}); code(err) != evidence.CodeBinding {
		t.Errorf("answer that nobody asked for: %v", err)
	}
}

func TestAgentIdentityAttestConsole(t *testing.T) {
	// Two tokens, two hosts: only the VM's own host gets its identity.
	e := newEnv(t, func(c *compute.Config, _ *compute.Deps) {
		c.JoinTokens = append(c.JoinTokens, "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282") // "xyz"
	})
	p := e.join(8)
	other, _, err := e.certificate("host-2", "xyz")
	if err != nil {
		t.Fatal(err)
	}
	nic := e.nic("n")
	_, _, h := e.call("PUT", webURL, e.body(nic))
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	if tok, err := p.client.Identity(t.Context(), vmID, "https://vault.azure.net"); err != nil || tok == "" {
		t.Errorf("identity: %v", err)
	}
	if _, err := other.Identity(t.Context(), vmID, "https://vault.azure.net"); evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Errorf("identity for another host: %v", err)
	}
	if _, err := p.client.Identity(t.Context(), vmID, ""); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("identity for no audience: %v", err)
	}
	nonce := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	if out := e.want(200, "POST", webURL+"/attest", `{"nonce":"`+nonce+`"}`); out["version"] != "1" {
		t.Errorf("bundle %v", out)
	}
	for name, body := range map[string]string{"short nonce": `{"nonce":"AAAA"}`, "no nonce": `{}`, "other member": `{"nonce":"` + nonce + `","policy":"x"}`} {
		if status, out, _ := e.call("POST", webURL+"/attest", body); status != 400 {
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
	if out := e.want(200, "GET", webURL+"/console", ""); out["raw"] != "login: " {
		t.Errorf("console %v", out)
	}
	_, _, h = e.call("POST", webURL+"/powerOff", "")
	if s, out := e.wait(h); s != "Succeeded" {
		t.Fatal(out)
	}
	if status, out, _ := e.call("POST", webURL+"/attest", `{"nonce":"`+nonce+`"}`); status != 409 {
		t.Errorf("attest of a stopped VM: %d %v", status, out)
	}
	if status, out, _ := e.call("POST", webURL+"/restart", ""); status != 409 {
		t.Errorf("restart of a stopped VM: %d %v", status, out)
	}
}

func TestInitDataMadeByCompute(t *testing.T) {
	osProfile := map[string]any{"computerName": "web", "adminUsername": "azureuser", "linuxConfiguration": map[string]any{"disablePasswordAuthentication": true,
		"ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "/home/azureuser/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA"}}}}}
	t.Run("refused where compute makes no keys", func(t *testing.T) {
		e := newEnv(t, func(_ *compute.Config, d *compute.Deps) { d.Maker = nil })
		e.join(8)
		status, out, _ := e.call("PUT", webURL, e.body(e.nic("n"), with("properties.userData", nil), with("properties.osProfile", osProfile)))
		if code, message, target := errorOf(out); status != 400 || code != "InvalidParameter" || target != "properties.userData" || !strings.Contains(message, "init data") {
			t.Fatalf("%d %v", status, out)
		}
	})
	t.Run("the key comes before the start", func(t *testing.T) {
		e := newEnv(t)
		p := e.join(8)
		_, out, h := e.call("PUT", webURL, e.body(e.nic("n"), with("properties.userData", nil), with("properties.osProfile", osProfile)))
		if s, out2 := e.wait(h); s != "Succeeded" {
			t.Fatal(out, out2)
		}
		if len(e.keys.made) != 1 {
			t.Errorf("keys made: %v", e.keys.made)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.seen {
			if s.Power == api.PowerRunning && s.Generation < 2 {
				t.Error("the host was told to start before the key was made")
			}
		}
	})
	t.Run("accepted without a persisted TPM, and marked", func(t *testing.T) {
		e := newEnv(t, func(_ *compute.Config, d *compute.Deps) { d.Maker = nil })
		p := e.join(8)
		p.change(func(f *api.HostFacts) { f.TEEs = []string{"snp", "tdx"} }) // the mode is an option of TDX sizes
		if err := p.report(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, out, h := e.call("PUT", webURL, e.body(e.nic("n"), with("properties.userData", nil), with("properties.osProfile", osProfile), with("properties.hardwareProfile.vmSize", "Standard_DC2es_v5"),
			with("properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType", "NonPersistedTPM")))
		if s, out2 := e.wait(h); s != "Succeeded" {
			t.Fatal(out, out2)
		}
		if j := e.want(200, "GET", webURL+"/journey", ""); j["operatorTrusted"] != true || !strings.Contains(jsonText(j["notes"]), "operator-trusted") {
			t.Errorf("journey %v", j)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.vms {
			if !s.OperatorTrusted || !bytes.Contains(s.InitData, []byte(s.VMID)) {
				t.Errorf("spec %s", jsonText(s))
			}
		}
	})
}
