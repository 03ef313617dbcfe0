//go:build failpoints

package compute_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
	"cloister.dev/cloister/store/embedded"
)

// crashDir names the environment variable that makes this binary the process that is killed.
const crashDir = "CLOISTER_TEST_CRASH_DIR"

// CP-09: the control plane is killed at each durable write of three VMs' lives; started again, it comes to the same
// end, with no quota, capacity, address or record left behind.
func TestCP09KilledAtEachDurableWrite(t *testing.T) {
	if os.Getenv(crashDir) != "" {
		t.Skip("this is the process that is killed")
	}
	for _, name := range failpoint.Names() {
		if !strings.HasPrefix(name, "compute/") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(point string) (string, error) {
				c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashChild$", "-test.timeout", "90s")
				c.Env = append(os.Environ(), crashDir+"="+dir, "CLOISTER_FAILPOINT="+point)
				var out bytes.Buffer
				c.Stdout, c.Stderr = &out, &out
				err := c.Run()
				return out.String(), err
			}
			out, err := run(name)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed at the point: %v\n%s", err, out)
			}
			if out, err := run(""); err != nil {
				t.Fatalf("after the kill: %v\n%s", err, out)
			}
		})
	}
}

// TestCrashChild drives three VMs (one with the tenant's init data, one without, one by a template) from nothing to deletion, from
// wherever an earlier process got to.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("run by TestCP09KilledAtEachDurableWrite")
	}
	attempt := 0
	for ; ; attempt++ {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint("attempt", attempt)), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			break
		} else if !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	token := fmt.Sprint("token", attempt)
	k := newKeeperAt(t, filepath.Join(dir, "keys"), func(o option) *env {
		return newEnvAt(t, filepath.Join(dir, "state"), embedded.Options{Dir: filepath.Join(dir, "etcd")}, o, func(c *compute.Config, _ *compute.Deps) {
			sum := sha256.Sum256([]byte(token))
			c.JoinTokens = []string{hex.EncodeToString(sum[:])}
		})
	})
	e := k.env
	e.joinWith(8, token, goodProbe)
	two, three := group+"/providers/Microsoft.Compute/virtualMachines/two", group+"/providers/Microsoft.Compute/virtualMachines/three"
	made := filepath.Join(dir, "made")
	if _, err := os.Stat(made); err != nil {
		nics := []string{e.nic("n"), e.nic("n2")}
		if status, out, _ := e.call("PUT", vaults+"crash", vaultText(e, `"accessPolicies":[]`)); status/100 != 2 {
			t.Fatalf("PUT of the vault: %d %v", status, out)
		}
		if status, out, _ := e.call("PUT", sshKey, `{"location":"local"}`); status/100 != 2 {
			t.Fatalf("PUT of the SSH key: %d %v", status, out)
		}
		if status, _, _ := e.call("GET", setPath, ""); status == 404 {
			if status, out, _ := e.call("PUT", setPath, setBody(e.customerKey(), "false")); status/100 != 2 {
				t.Fatalf("PUT of the encryption set: %d %v", status, out)
			}
		}
		for i, c := range [][2]string{{webURL, e.body(nics[0], with("properties.networkProfile.networkInterfaces", []any{map[string]any{"id": nics[0], "properties": map[string]any{"deleteOption": "Delete"}}}))}, {two, e.body(nics[1], with("properties.userData", nil), with("properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id", setPath), with("properties.osProfile", map[string]any{"computerName": "two", "adminUsername": "u",
			"linuxConfiguration": map[string]any{"disablePasswordAuthentication": true, "ssh": map[string]any{"publicKeys": []any{map[string]any{"path": "p", "keyData": "ssh-ed25519 AAAA"}}}}}))}} {
			if status, _, _ := e.call("GET", c[0], ""); status == 404 { // the init data pin this process's issuer, so they differ from those before
				if status, out, _ := e.call("PUT", c[0], c[1]); status != 201 {
					t.Fatalf("PUT %d: %d %v", i, status, out)
				}
			}
			e.until(c[0], `"provisioningState":"Succeeded"`)
		}
		deployed := deployments + "/three"
		if status, _, _ := e.call("GET", deployed, ""); status == 404 {
			body := deployBody(strings.ReplaceAll(strings.ReplaceAll(vmTemplate, `"net":"net"`, `"net":"net3"`), "virtualNetworks/net\"", "virtualNetworks/net3\""), map[string]any{"image": imagePath, "name": "three"})
			if status, out, _ := e.call("PUT", deployed, body); status != 201 {
				t.Fatalf("PUT of the deployment: %d %v", status, out)
			}
		}
		e.until(deployed, `"provisioningState":"Succeeded"`)
		if status, out, _ := e.call("DELETE", deployed, ""); status != 204 {
			t.Fatalf("DELETE of the deployment: %d %v", status, out)
		}
		if status, out, _ := e.call("POST", webURL+"/deallocate", ""); status != 202 {
			t.Fatal(status, out)
		}
		e.until(webURL+"/instanceView", "PowerState/deallocated")
		for _, c := range [][3]string{{"PUT", disksURL + "data", emptyDisk(8)}, {"PATCH", webURL, attached(attach(0, disksURL+"data"))}, {"PUT", snapshotsURL + "s", copyOf(disksURL + "data")}} {
			if status, out, _ := e.call(c[0], c[1], c[2]); status/100 != 2 {
				t.Fatalf("%s %s: %d %v", c[0], c[1], status, out)
			}
		}
		e.until(snapshotsURL+"s", `"provisioningState":"Succeeded"`)
		if err := os.WriteFile(made, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if status, out, _ := e.call("DELETE", snapshotsURL+"s", ""); status/100 != 2 {
		t.Fatal(status, out)
	}
	e.until(snapshotsURL+"s", `NotFound`)
	for _, vm := range []string{webURL, two, three} {
		if status, out, _ := e.call("DELETE", vm, ""); status/100 != 2 && status != 404 {
			t.Fatal(status, out)
		}
		e.until(vm, `NotFound`)
	}
	if status, out, _ := e.call("DELETE", setPath, ""); status/100 != 2 && status != 404 {
		t.Fatal(status, out) // no VM uses it any more
	}
	e.until(setPath, `NotFound`)
	if status, out, _ := e.call("DELETE", group, ""); status != 202 && status != 404 {
		t.Fatal(status, out)
	}
	e.until(group, `"ResourceGroupNotFound"`)
	e.want(200, "GET", provider+"locations/local/deletedVaults/crash", "")

	usages := jsonText(e.want(200, "GET", "/subscriptions/"+sub+"/providers/Microsoft.Compute/locations/local/usages", ""))
	if strings.Count(usages, `"currentValue":0`) != strings.Count(usages, `"currentValue"`) {
		t.Errorf("quota left: %s", usages)
	}
	db := store.Open(e.etcd, "/cloister/compute")
	places, _, err := store.Of[scheduler.Placement](db, "placement").List(t.Context(), "")
	if err != nil || len(places) != 1 || len(places[0].Value.VMs) != 0 {
		t.Errorf("capacity left: %+v, %v", places, err)
	}
	for _, kind := range []string{"vm", "vmstatus", "journey", "disk", "snapshot", "nic", "vnet", "encryptionset", "vault", "group", "deployment", "deploymentsource"} {
		if items, _, err := store.Of[any](db, kind).List(t.Context(), ""); err != nil || len(items) != 0 {
			t.Errorf("left of kind %s: %v, %v", kind, items, err)
		}
	}
	ops, _, err := store.Of[struct{ Status, Resource string }](db, "operation").List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ops {
		if o.Value.Status == "InProgress" {
			t.Errorf("an operation on %s never ends", o.Value.Resource)
		}
	}
}
