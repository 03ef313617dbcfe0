package rules

import (
	"slices"
	"strings"
	"testing"

	"cloister.dev/cloister/compute/catalog"
)

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

// good is a request that every rule accepts; each row breaks one thing.
func good() (VM, Installation) {
	return VM{Size: "Standard_DC2as_v5", Location: "local", SecurityType: ConfidentialVM, SecureBoot: yes(), VTPM: yes(), Encryption: DiskWithGuest, CreateOption: "FromImage",
			Image: Image{Named: true, Found: true, Name: "debian", MinDiskGiB: 4, TEEs: []string{"snp"}}, NICs: []NIC{{ID: "n", Found: true, Location: "local"}},
			OS: OS{ComputerName: "web", AdminUser: "u", SSHKeys: 1}, Init: &Init{Name: "web", Encryption: DiskWithGuest}},
		Installation{Location: "local", Zones: []string{"1"}, TEEs: []string{"snp"}}
}

func TestRules(t *testing.T) {
	type change func(*VM, *Installation)
	for _, r := range []struct {
		name    string
		change  change
		targets []string // of the violations, in order; none: accepted
		code    string   // of the first
	}{
		{"accepted as it is", func(*VM, *Installation) {}, nil, ""},
		{"accepted with a zone that exists", func(v *VM, _ *Installation) { v.Zones = []string{"1"} }, nil, ""},
		{"accepted: guest state only, without secure boot", func(v *VM, _ *Installation) {
			v.Encryption, v.SecureBoot, v.Init.Encryption = GuestStateOnly, no(), GuestStateOnly
		}, nil, ""},
		{"accepted: no persisted TPM on a TDX size, no init data", func(v *VM, in *Installation) {
			v.Size, v.Image.TEEs, in.TEEs, v.Encryption, v.Init = "Standard_DC2es_v5", []string{"tdx"}, []string{"tdx"}, NonPersistedTPM, nil
		}, nil, ""},
		{"accepted: no init data where compute may make keys", func(v *VM, in *Installation) { v.Init, in.CanMakeKey = nil, true }, nil, ""},
		{"accepted: another case of the computer name", func(v *VM, _ *Installation) { v.OS.ComputerName = "WEB" }, nil, ""},

		{"no location", func(v *VM, _ *Installation) { v.Location = ""; v.NICs[0].Location = "" }, []string{"location"}, "LocationRequired"},
		{"other location", func(v *VM, _ *Installation) { v.Location = "east"; v.NICs[0].Location = "east" }, []string{"location"}, "LocationNotAvailableForResourceType"},
		{"zone that does not exist", func(v *VM, _ *Installation) { v.Zones = []string{"9"} }, []string{"zones"}, "InvalidParameter"},
		{"two zones", func(v *VM, in *Installation) { v.Zones, in.Zones = []string{"1", "2"}, []string{"1", "2"} }, []string{"zones"}, "InvalidParameter"},
		{"no size", func(v *VM, _ *Installation) { v.Size = "" }, []string{"properties.hardwareProfile.vmSize"}, "InvalidParameter"},
		{"unknown size", func(v *VM, _ *Installation) { v.Size = "Standard_D2s_v5" }, []string{"properties.hardwareProfile.vmSize"}, "InvalidParameter"},
		{"CP-03 no host of that TEE", func(v *VM, _ *Installation) { v.Size, v.Image.TEEs = "Standard_DC2es_v5", nil }, []string{"properties.hardwareProfile.vmSize"}, "SkuNotAvailable"},
		{"CP-03 no host large enough", func(_ *VM, in *Installation) { in.Largest = func(catalog.Size) string { return "too large" } }, []string{"properties.hardwareProfile.vmSize"}, "SkuNotAvailable"},
		{"no security type", func(v *VM, _ *Installation) { v.SecurityType = "" }, []string{"properties.securityProfile.securityType", "properties.storageProfile.osDisk.managedDisk.securityProfile"}, "BadRequest"},
		{"trusted launch", func(v *VM, _ *Installation) {
			v.SecurityType, v.Encryption, v.Init = "TrustedLaunch", "", nil
		}, []string{"properties.securityProfile.securityType"}, "InvalidParameter"},
		{"CP-01 encryption without confidential VM", func(v *VM, _ *Installation) { v.SecurityType = "Standard" }, []string{"properties.securityProfile.securityType", "properties.storageProfile.osDisk.managedDisk.securityProfile"}, "InvalidParameter"},
		{"CP-01 no persisted TPM on an SNP size", func(v *VM, _ *Installation) { v.Encryption, v.Init = NonPersistedTPM, nil }, []string{"properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType"}, "InvalidParameter"},
		{"no encryption mode", func(v *VM, _ *Installation) { v.Encryption, v.Init.Encryption = "", "" }, []string{"properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType"}, "InvalidParameter"},
		{"CP-01 full disk without vTPM", func(v *VM, _ *Installation) { v.VTPM = no() }, []string{"properties.securityProfile.uefiSettings.vTpmEnabled"}, "InvalidParameter"},
		{"CP-01 vTPM not given", func(v *VM, _ *Installation) { v.VTPM = nil }, []string{"properties.securityProfile.uefiSettings.vTpmEnabled"}, "InvalidParameter"},
		{"CP-01 full disk without secure boot", func(v *VM, _ *Installation) { v.SecureBoot = no() }, []string{"properties.securityProfile.uefiSettings.secureBootEnabled"}, "InvalidParameter"},
		{"CP-01 secure boot not given", func(v *VM, _ *Installation) { v.SecureBoot = nil }, []string{"properties.securityProfile.uefiSettings.secureBootEnabled"}, "InvalidParameter"},
		{"CP-01 host encryption clash", func(v *VM, _ *Installation) { v.EncryptionAtHost = true }, []string{"properties.securityProfile.encryptionAtHost"}, "InvalidParameter"},
		{"host encryption with guest state only", func(v *VM, _ *Installation) {
			v.EncryptionAtHost, v.Encryption, v.Init.Encryption = true, GuestStateOnly, GuestStateOnly
		}, []string{"properties.securityProfile.encryptionAtHost"}, "InvalidParameter"},
		{"an encryption set that is not there", func(v *VM, _ *Installation) { v.EncryptionSet = EncryptionSet{Named: true, Name: "x"} }, []string{"properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id"}, "NotFound"},
		{"an encryption set without disk encryption", func(v *VM, _ *Installation) {
			v.EncryptionSet = EncryptionSet{Named: true, Found: true}
			v.Encryption, v.Init.Encryption = GuestStateOnly, GuestStateOnly
		}, []string{"properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet"}, "InvalidParameter"},
		{"attach", func(v *VM, _ *Installation) { v.CreateOption = "Attach" }, []string{"properties.storageProfile.osDisk.createOption"}, "InvalidParameter"},
		{"ephemeral disk", func(v *VM, _ *Installation) { v.Ephemeral = true }, []string{"properties.storageProfile.osDisk.diffDiskSettings"}, "InvalidParameter"},
		{"disk smaller than the image", func(v *VM, _ *Installation) { v.OSDiskGiB = 3 }, []string{"properties.storageProfile.osDisk.diskSizeGB"}, "ResizeDiskError"},
		{"disk too large", func(v *VM, _ *Installation) { v.OSDiskGiB = 4096 }, []string{"properties.storageProfile.osDisk.diskSizeGB"}, "InvalidParameter"},
		{"disk that outlives its key", func(v *VM, _ *Installation) { v.KeepDisk = true }, []string{"properties.storageProfile.osDisk.deleteOption"}, "InvalidParameter"},
		{"data disk without a LUN", func(v *VM, _ *Installation) { v.DataDisks = []DataDisk{{Name: "d", CreateOption: "Empty", SizeGiB: 4}} }, []string{"properties.storageProfile.dataDisks[0].lun"}, "InvalidParameter"},
		{"no image", func(v *VM, _ *Installation) { v.Image = Image{} }, []string{"properties.storageProfile.imageReference"}, "InvalidParameter"},
		{"unknown image", func(v *VM, _ *Installation) { v.Image.Found = false }, []string{"properties.storageProfile.imageReference.id"}, "ImageNotFound"},
		{"image for another TEE", func(v *VM, _ *Installation) { v.Image.TEEs = []string{"tdx"} }, []string{"properties.securityProfile.securityType"}, "InvalidParameter"},
		{"no NIC", func(v *VM, _ *Installation) { v.NICs = nil }, []string{"properties.networkProfile.networkInterfaces"}, "InvalidParameter"},
		{"two NICs", func(v *VM, _ *Installation) { v.NICs = append(v.NICs, NIC{ID: "m", Found: true, Location: "local"}) }, []string{"properties.networkProfile.networkInterfaces"}, "InvalidParameter"},
		{"more NICs than the size has, one twice", func(v *VM, _ *Installation) { v.NICs = append(v.NICs, v.NICs[0], v.NICs[0]) },
			[]string{"properties.networkProfile.networkInterfaces", "properties.networkProfile.networkInterfaces[1].id", "properties.networkProfile.networkInterfaces[2].id"}, "InvalidParameter"},
		{"unknown NIC", func(v *VM, _ *Installation) { v.NICs[0].Found = false }, []string{"properties.networkProfile.networkInterfaces[0].id"}, "NotFound"},
		{"NIC in use", func(v *VM, _ *Installation) { v.NICs[0].UsedBy = "other" }, []string{"properties.networkProfile.networkInterfaces[0].id"}, "NicInUse"},
		{"NIC elsewhere", func(v *VM, _ *Installation) { v.NICs[0].Location = "east" }, []string{"properties.networkProfile.networkInterfaces[0].id"}, "InvalidParameter"},
		{"accelerated NIC", func(v *VM, _ *Installation) { v.NICs[0].Accelerated = true }, []string{"properties.networkProfile.networkInterfaces[0].id"}, "InvalidParameter"},
		{"password", func(v *VM, _ *Installation) { v.OS.Password = true }, []string{"properties.osProfile.linuxConfiguration.disablePasswordAuthentication"}, "InvalidParameter"},
		{"user data too large", func(v *VM, _ *Installation) { v.OS.UserDataTooLarge = true }, []string{"properties.userData"}, "InvalidParameter"},
		{"custom data beside init data", func(v *VM, _ *Installation) { v.OS.CustomData = true }, []string{"properties.osProfile.customData"}, "InvalidParameter"},
		{"other name in the init data", func(v *VM, _ *Installation) { v.Init.Name = "db" }, []string{"properties.osProfile.computerName"}, "InvalidParameter"},
		{"other mode in the init data", func(v *VM, _ *Installation) { v.Init.Encryption = GuestStateOnly }, []string{"properties.userData"}, "InvalidParameter"},
		{"init data that can't be read", func(v *VM, _ *Installation) { v.Init.Problem = "broken" }, []string{"properties.userData"}, "InvalidParameter"},
		{"CP-10 VM id used before", func(v *VM, _ *Installation) { v.Init.IDTaken = true }, []string{"properties.userData"}, "Conflict"},
		{"no init data where compute makes no keys", func(v *VM, _ *Installation) { v.Init = nil }, []string{"properties.userData"}, "InvalidParameter"},
		{"nothing in the OS profile", func(v *VM, in *Installation) { v.Init, v.OS, in.CanMakeKey = nil, OS{}, true }, []string{"properties.osProfile.computerName", "properties.osProfile.adminUsername"}, "InvalidParameter"},
		{"no SSH key", func(v *VM, in *Installation) { v.Init, v.OS.SSHKeys, in.CanMakeKey = nil, 0, true }, []string{"properties.osProfile.linuxConfiguration.ssh.publicKeys"}, "InvalidParameter"},
		{"all at once", func(v *VM, _ *Installation) { v.VTPM, v.SecureBoot, v.Size, v.NICs = nil, nil, "x", nil }, []string{
			"properties.hardwareProfile.vmSize", "properties.securityProfile.uefiSettings.vTpmEnabled", "properties.securityProfile.uefiSettings.secureBootEnabled", "properties.networkProfile.networkInterfaces"}, "InvalidParameter"},
	} {
		t.Run(r.name, func(t *testing.T) {
			vm, in := good()
			r.change(&vm, &in)
			var targets []string
			got := Check(vm, in)
			for _, v := range got {
				targets = append(targets, v.Target)
				if v.Message == "" || strings.Contains(v.Message, "%!") {
					t.Errorf("message %q", v.Message)
				}
			}
			if !slices.Equal(targets, r.targets) {
				t.Fatalf("got %+v, want targets %v", got, r.targets)
			}
			if len(got) > 0 && got[0].Code != r.code {
				t.Errorf("code %s, want %s", got[0].Code, r.code)
			}
		})
	}
}
