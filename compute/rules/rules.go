// Package rules decides whether a VM that is asked for can exist. Pure functions over plain values; each returns
// every violation it finds, so that one round trip tells the tenant all that is wrong.
package rules

import (
	"fmt"
	"slices"
	"strings"

	"cloister.dev/cloister/compute/catalog"
)

// Violation is one rule that stands against a request.
type Violation struct {
	Code    string // Azure's code for it where one is known
	Target  string // the member of the request
	Message string
}

// The encryption modes and the security type.
const (
	ConfidentialVM  = "ConfidentialVM"
	DiskWithGuest   = "DiskWithVMGuestState"
	GuestStateOnly  = "VMGuestStateOnly"
	NonPersistedTPM = "NonPersistedTPM"

	// MaxUserData bounds user data, in bytes before base64.
	MaxUserData = 64 << 10
)

// VM is a request, with everything it names already looked up.
type VM struct {
	Size     string
	Location string
	Zones    []string

	SecurityType     string
	SecureBoot       *bool // nil: not given
	VTPM             *bool
	EncryptionAtHost bool
	Encryption       string // mode of the OS disk; "" is not given
	EncryptionSet    EncryptionSet

	OSDiskGiB    int // 0: as large as the image asks for
	CreateOption string
	Ephemeral    bool
	DataDisks    []DataDisk
	Host         string // where the VM lies; "" while that is open
	Zone         string // of the VM, once it has one
	KeepDisk     bool   // deleteOption Detach

	Image Image
	NICs  []NIC
	OS    OS
	Init  *Init // nil: the tenant gave none
}

// EncryptionSet is what is known of the disk encryption set that the request names.
type EncryptionSet struct {
	Named bool
	Found bool
	Name  string
}

// Image is what is known of the image that the request names.
type Image struct {
	Named      bool
	Found      bool
	Name       string
	MinDiskGiB int
	TEEs       []string // that it has drivers for
}

// NIC is what is known of one network interface.
type NIC struct {
	ID          string
	Found       bool
	Location    string
	UsedBy      string // VM id, other than this one
	Accelerated bool
}

// OS is what the request says of the system inside.
type OS struct {
	ComputerName     string
	AdminUser        string
	SSHKeys          int
	Password         bool // a password is given, or password sign-in isn't turned off
	CustomData       bool
	UserDataTooLarge bool
}

// Init is what the tenant's init data say.
type Init struct {
	Problem    string // why they can't be read; "" is fine
	Name       string
	Encryption string
	IDTaken    bool // the VM id has been used before
}

// Installation is what there is.
type Installation struct {
	Location   string
	Zones      []string
	TEEs       []string // that some host can run
	Largest    func(catalog.Size) string
	CanMakeKey bool // compute may write a guest-state key's policy for a tenant who gave no init data
}

type report struct{ found []Violation }

func (r *report) add(code, target, format string, args ...any) {
	r.found = append(r.found, Violation{code, target, fmt.Sprintf(format, args...)})
}

// Check applies all rules.
func Check(vm VM, in Installation) []Violation {
	var r report
	size, known := catalog.Lookup(vm.Size)
	r.place(vm, in)
	r.size(vm, size, known, in)
	r.security(vm, size, known)
	r.disk(vm)
	r.dataDisks(vm, size, known)
	r.image(vm, size, known)
	r.network(vm, size, known)
	r.system(vm)
	r.initData(vm, in)
	return r.found
}

func (r *report) place(vm VM, in Installation) {
	if vm.Location == "" {
		r.add("LocationRequired", "location", "The location property is required for this definition.")
	} else if vm.Location != in.Location {
		r.add("LocationNotAvailableForResourceType", "location", "The provided location '%s' is not available for resource type 'Microsoft.Compute/virtualMachines'. List of available regions for the resource type is '%s'.", vm.Location, in.Location)
	}
	if len(vm.Zones) > 1 {
		r.add("InvalidParameter", "zones", "A VM lies in one zone; %d are given.", len(vm.Zones))
	}
	for _, z := range vm.Zones {
		if !slices.Contains(in.Zones, z) {
			r.add("InvalidParameter", "zones", "Zone '%s' does not exist here. Zones: %s.", z, none(in.Zones))
		}
	}
}

func (r *report) size(vm VM, size catalog.Size, known bool, in Installation) {
	const target = "properties.hardwareProfile.vmSize"
	switch {
	case vm.Size == "":
		r.add("InvalidParameter", target, "Required parameter 'hardwareProfile.vmSize' is missing (null).")
	case !known:
		r.add("InvalidParameter", target, "The value %s provided for the VM size is not valid. Sizes here are those of the DCasv5, DCadsv5, ECasv5, ECadsv5, DCesv5, DCedsv5, ECesv5 and ECedsv5 families.", vm.Size)
	case !slices.Contains(in.TEEs, string(size.TEE)):
		r.add("SkuNotAvailable", target, "The requested size %s is not available in location '%s': no host runs %s.", size.Name, in.Location, strings.ToUpper(string(size.TEE)))
	case in.Largest != nil:
		if why := in.Largest(size); why != "" {
			r.add("SkuNotAvailable", target, "The requested size %s is not available in location '%s': %s.", size.Name, in.Location, why)
		}
	}
}

func (r *report) security(vm VM, size catalog.Size, sizeKnown bool) {
	if sizeKnown && vm.Encryption == NonPersistedTPM && size.TEE != catalog.TDX {
		r.add("InvalidParameter", "properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType", "%s is an option of Intel TDX sizes; %s has AMD SEV-SNP.", NonPersistedTPM, size.Name)
	}
	const profile = "properties.securityProfile."
	confidential := vm.SecurityType == ConfidentialVM
	if vm.SecurityType == "" && sizeKnown {
		r.add("BadRequest", profile+"securityType", "Size %s is a confidential one: securityType '%s' is required.", vm.Size, ConfidentialVM)
	} else if !confidential && vm.SecurityType != "" {
		r.add("InvalidParameter", profile+"securityType", "Security type '%s' is not supported here; want '%s'.", vm.SecurityType, ConfidentialVM)
	}
	if vm.Encryption != "" && !confidential {
		r.add("BadRequest", "properties.storageProfile.osDisk.managedDisk.securityProfile", "managedDisk.securityProfile is for VMs whose securityType is '%s'.", ConfidentialVM)
	}
	if !confidential {
		return
	}
	if vm.Encryption == "" {
		r.add("InvalidParameter", "properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType", "A confidential VM needs a securityEncryptionType. Allowed values are: %s, %s, %s.", DiskWithGuest, GuestStateOnly, NonPersistedTPM)
	}
	if vm.VTPM == nil || !*vm.VTPM {
		r.add("InvalidParameter", profile+"uefiSettings.vTpmEnabled", "A confidential VM needs vTpmEnabled true.")
	}
	if vm.Encryption == DiskWithGuest && (vm.SecureBoot == nil || !*vm.SecureBoot) {
		r.add("InvalidParameter", profile+"uefiSettings.secureBootEnabled", "securityEncryptionType %s needs secureBootEnabled true.", DiskWithGuest)
	}
	if vm.Encryption == DiskWithGuest && vm.EncryptionAtHost {
		r.add("InvalidParameter", profile+"encryptionAtHost", "encryptionAtHost can't be combined with securityEncryptionType %s.", DiskWithGuest)
	} else if vm.EncryptionAtHost {
		r.add("InvalidParameter", profile+"encryptionAtHost", "encryptionAtHost is not supported here.")
	}
	const set = "properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet"
	switch {
	case !vm.EncryptionSet.Named:
	case vm.Encryption != DiskWithGuest:
		r.add("InvalidParameter", set, "A disk encryption set can be given with securityEncryptionType %s only; this is '%s'.", DiskWithGuest, vm.Encryption)
	case !vm.EncryptionSet.Found:
		r.add("NotFound", set+".id", "Disk encryption set '%s' was not found.", vm.EncryptionSet.Name)
	}
}

func (r *report) disk(vm VM) {
	const target = "properties.storageProfile."
	if vm.CreateOption != "FromImage" {
		r.add("InvalidParameter", target+"osDisk.createOption", "The OS disk is made FromImage; got '%s'.", vm.CreateOption)
	}
	if vm.Ephemeral {
		r.add("InvalidParameter", target+"osDisk.diffDiskSettings", "A confidential VM has no ephemeral OS disk.")
	}
	if vm.OSDiskGiB < 0 || vm.OSDiskGiB > 4095 {
		r.add("InvalidParameter", target+"osDisk.diskSizeGB", "diskSizeGB is %d; want 1 to 4095.", vm.OSDiskGiB)
	} else if vm.OSDiskGiB > 0 && vm.OSDiskGiB < vm.Image.MinDiskGiB {
		r.add("ResizeDiskError", target+"osDisk.diskSizeGB", "diskSizeGB is %d; image %s needs at least %d.", vm.OSDiskGiB, vm.Image.Name, vm.Image.MinDiskGiB)
	}
	if vm.KeepDisk {
		r.add("InvalidParameter", target+"osDisk.deleteOption", "deleteOption Detach is not supported here: the key of the OS disk is destroyed with the VM, so the disk goes too.")
	}
}

func (r *report) image(vm VM, size catalog.Size, sizeKnown bool) {
	const target = "properties.storageProfile.imageReference"
	switch {
	case !vm.Image.Named:
		r.add("InvalidParameter", target, "Required parameter 'imageReference.id' is missing (null).")
	case !vm.Image.Found:
		r.add("ImageNotFound", target+".id", "The image '%s' does not exist.", vm.Image.Name)
	case sizeKnown && len(vm.Image.TEEs) > 0 && !slices.Contains(vm.Image.TEEs, string(size.TEE)):
		r.add("InvalidParameter", "properties.securityProfile.securityType", "Image %s does not run on size %s: it is for %s.", vm.Image.Name, size.Name, strings.Join(vm.Image.TEEs, ", "))
	}
}

func (r *report) network(vm VM, size catalog.Size, sizeKnown bool) {
	const target = "properties.networkProfile.networkInterfaces"
	if len(vm.NICs) == 0 {
		r.add("InvalidParameter", target, "A VM needs at least one network interface.")
	}
	if sizeKnown && len(vm.NICs) > size.NICs {
		r.add("InvalidParameter", target, "Size %s has at most %d network interfaces; %d are given.", size.Name, size.NICs, len(vm.NICs))
	} else if len(vm.NICs) > 1 {
		r.add("InvalidParameter", target, "More than one network interface is not supported here; %d are given.", len(vm.NICs))
	}
	seen := map[string]bool{}
	for i, n := range vm.NICs {
		at := fmt.Sprintf("%s[%d].id", target, i)
		folded := strings.ToLower(n.ID)
		switch {
		case seen[folded]:
			r.add("InvalidParameter", at, "Network interface '%s' is given twice.", n.ID)
		case !n.Found:
			r.add("NotFound", at, "Network interface '%s' was not found.", n.ID)
		case n.UsedBy != "":
			r.add("NicInUse", at, "Network interface '%s' is used by existing VM '%s'.", n.ID, n.UsedBy)
		case n.Location != vm.Location:
			r.add("InvalidParameter", at, "Network interface '%s' lies in location '%s', the VM in '%s'.", n.ID, n.Location, vm.Location)
		case n.Accelerated:
			r.add("InvalidParameter", at, "Network interface '%s' has accelerated networking, which these sizes lack.", n.ID)
		}
		seen[folded] = true
	}
}

func (r *report) system(vm VM) {
	const target = "properties.osProfile."
	if vm.OS.Password {
		r.add("InvalidParameter", target+"linuxConfiguration.disablePasswordAuthentication", "Passwords are refused: what a host gives a confidential VM is not secret. Give SSH keys and set disablePasswordAuthentication to true.")
	}
	if vm.OS.UserDataTooLarge {
		r.add("InvalidParameter", "properties.userData", "userData is larger than %d bytes, or no base64.", MaxUserData)
	}
	if vm.Init == nil {
		if vm.OS.ComputerName == "" {
			r.add("InvalidParameter", target+"computerName", "Required parameter 'osProfile.computerName' is missing (null).")
		}
		if vm.OS.AdminUser == "" {
			r.add("InvalidParameter", target+"adminUsername", "Required parameter 'osProfile.adminUsername' is missing (null).")
		}
		if vm.OS.AdminUser != "" && vm.OS.SSHKeys == 0 {
			r.add("InvalidParameter", target+"linuxConfiguration.ssh.publicKeys", "At least one SSH key is needed.")
		}
		return
	}
	if vm.OS.CustomData {
		r.add("InvalidParameter", target+"customData", "customData belongs into the init data, since userData holds some.")
	}
	if vm.Init.Problem == "" && vm.OS.ComputerName != "" && !strings.EqualFold(vm.OS.ComputerName, vm.Init.Name) {
		r.add("InvalidParameter", target+"computerName", "computerName is '%s', the init data say '%s'.", vm.OS.ComputerName, vm.Init.Name)
	}
}

func (r *report) initData(vm VM, in Installation) {
	const target = "properties.userData"
	if vm.Init == nil {
		if vm.Encryption != "" && vm.Encryption != NonPersistedTPM && !in.CanMakeKey {
			r.add("InvalidParameter", target, "%s needs a guest-state key whose policy the tenant wrote: give init data in userData (as 'cloister vm create' does). This installation makes no such keys for tenants.", vm.Encryption)
		}
		return
	}
	switch {
	case vm.Init.Problem != "":
		r.add("InvalidParameter", target, "Init data in userData: %s.", vm.Init.Problem)
	case vm.Init.Encryption != vm.Encryption:
		r.add("InvalidParameter", target, "Init data say osDiskEncryption '%s', the request says securityEncryptionType '%s'.", vm.Init.Encryption, vm.Encryption)
	}
	if vm.Init.IDTaken {
		r.add("Conflict", target, "The VM id in the init data has been used before. Ids are never used twice.")
	}
}

func none(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
