package metadata

import (
	"net"
	"net/http"
	"sort"
	"strconv"
	"strings"

	"cloister.dev/cloister/host/api"
)

// Versions are the api-versions that are answered, oldest first.
var Versions = []string{"2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01", "2019-02-01",
	"2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01", "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01",
	"2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01", "2021-05-01", "2021-08-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13"}

// Instance is the document at /metadata/instance. Every primitive in it is a text, as clients expect.
func Instance(s api.VMSpec) map[string]any {
	keys := []any{}
	for _, k := range s.SSHKeys {
		keys = append(keys, map[string]any{"keyData": k.KeyData, "path": k.Path})
	}
	tagNames := make([]string, 0, len(s.Tags))
	for name := range s.Tags {
		tagNames = append(tagNames, name)
	}
	sort.Strings(tagNames)
	tagsList, tags := []any{}, make([]string, 0, len(tagNames))
	for _, name := range tagNames {
		tagsList = append(tagsList, map[string]any{"name": name, "value": s.Tags[name]})
		tags = append(tags, name+":"+s.Tags[name])
	}
	nics := []any{}
	for _, n := range s.NICs {
		address, prefix := subnet(n.Prefix)
		nics = append(nics, map[string]any{
			"ipv4": map[string]any{"ipAddress": []any{map[string]any{"privateIpAddress": n.PrivateIP, "publicIpAddress": ""}},
				"subnet": []any{map[string]any{"address": address, "prefix": prefix}}},
			"ipv6": map[string]any{"ipAddress": []any{}}, "macAddress": n.MAC})
	}
	return map[string]any{
		"compute": map[string]any{
			"azEnvironment": "Cloister", "customData": "", "evictionPolicy": "", "isHostCompatibilityLayerVm": "true", "licenseType": "",
			"location": s.Location, "name": s.Name, "offer": "", "osType": "Linux", "placementGroupId": "", "platformFaultDomain": "0", "platformUpdateDomain": "0",
			"osProfile": map[string]any{"adminUsername": s.AdminUser, "computerName": s.ComputerName, "disablePasswordAuthentication": "true"},
			"plan":      map[string]any{"name": "", "product": "", "publisher": ""},
			"priority":  "Regular", "provider": "Microsoft.Compute", "publicKeys": keys, "publisher": "", "resourceGroupName": s.ResourceGroup, "resourceId": s.ResourceID,
			"securityProfile": map[string]any{"secureBootEnabled": strconv.FormatBool(s.SecureBoot), "virtualTpmEnabled": "true", "encryptionAtHost": "false", "securityType": "ConfidentialVM"},
			"sku":             "", "storageProfile": map[string]any{
				"dataDisks":      dataDisks(s),
				"imageReference": map[string]any{"id": s.Image.ID, "offer": "", "publisher": "", "sku": "", "version": s.Image.Version},
				"osDisk": map[string]any{"caching": s.OSDisk.Caching, "createOption": "FromImage", "diskSizeGB": strconv.Itoa(s.OSDisk.SizeGiB), "name": s.OSDisk.Name, "osType": "Linux",
					"managedDisk": map[string]any{"id": s.OSDisk.ID, "storageAccountType": s.OSDisk.StorageType}},
				"resourceDisk": map[string]any{"size": strconv.Itoa(s.TempDiskGiB << 20)}},
			"subscriptionId": s.Subscription, "tags": strings.Join(tags, ";"), "tagsList": tagsList, "userData": s.UserData, "version": s.Image.Version,
			"vmId": s.VMID, "vmScaleSetName": "", "vmSize": s.SizeName, "zone": s.Zone,
		},
		"network": map[string]any{"interface": nics},
	}
}

// dataDisks are the data disks; all values are texts.
func dataDisks(s api.VMSpec) []any {
	out := []any{}
	for _, d := range s.DataDisks {
		option := "Attach"
		if d.Made {
			option = "Empty"
		}
		out = append(out, map[string]any{"lun": strconv.Itoa(d.LUN), "name": d.Disk.Name, "caching": d.Disk.Caching, "createOption": option, "diskSizeGB": strconv.Itoa(d.Disk.SizeGiB),
			"isSharedDisk": "false", "isUltraDisk": "false", "writeAcceleratorEnabled": "false", "image": map[string]any{"uri": ""}, "vhd": map[string]any{"uri": ""},
			"managedDisk": map[string]any{"id": d.Disk.ID, "storageAccountType": d.Disk.StorageType}})
	}
	return out
}

func subnet(cidr string) (address, prefix string) {
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		return "", ""
	}
	ones, _ := n.Mask.Size()
	return n.IP.String(), strconv.Itoa(ones)
}

// instance answers the document or a part of it: a part that is a text needs format=text.
func instance(s Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var node any = Instance(s.Spec())
		for _, step := range strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/metadata/instance"), "/"), "/") {
			if step == "" {
				continue
			}
			var ok bool
			if node, ok = child(node, step); !ok {
				refuse(w, http.StatusNotFound, "Not found")
				return
			}
		}
		format := r.URL.Query().Get("format")
		text, leaf := node.(string)
		switch {
		case leaf && format == "text":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte(text))
		case leaf:
			refuse(w, http.StatusBadRequest, "Bad request. A single value needs format=text")
		case format == "" || format == "json":
			write(w, http.StatusOK, node)
		case format == "text":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte(listing(node)))
		default:
			refuse(w, http.StatusBadRequest, "Bad request. format is json or text")
		}
	}
}

func child(node any, step string) (any, bool) {
	switch n := node.(type) {
	case map[string]any:
		for name, v := range n {
			if strings.EqualFold(name, step) {
				return v, true
			}
		}
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n) {
			return n[i], true
		}
	}
	return nil, false
}

// listing names the children of a node, a line each, with a slash after those that have children.
func listing(node any) string {
	var names []string
	name := func(label string, v any) {
		if _, leaf := v.(string); !leaf {
			label += "/"
		}
		names = append(names, label)
	}
	switch n := node.(type) {
	case map[string]any:
		for k, v := range n {
			name(k, v)
		}
	case []any:
		for i, v := range n {
			name(strconv.Itoa(i), v)
		}
	}
	sort.Strings(names)
	return strings.Join(names, "\n")
}
