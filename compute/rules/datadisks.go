package rules

import (
	"fmt"
	"strings"

	"cloister.dev/cloister/compute/catalog"
)

// DataDisk is what is known of one data disk that the request names.
type DataDisk struct {
	LUN          *int // nil: not given
	Name         string
	CreateOption string // Empty or Attach
	SizeGiB      int    // of a disk that is to be made; 0: not given
	Kept         bool   // it is attached to this VM already
	Detach       bool   // toBeDetached

	Found  bool // there is such a disk
	OS     bool // it is an OS disk
	UsedBy string
	Busy   string // what keeps it from being used now
	Zone   string
	Host   string // where its blocks lie; "": nowhere yet
}

// The sizes of data disks, in GiB, and the highest LUN.
const (
	minDataGiB = 4
	maxDataGiB = 32767
	maxLUN     = 63
)

// CheckDataDisks applies the rules on data disks alone: those of a VM that is there.
func CheckDataDisks(vm VM) []Violation {
	var r report
	size, known := catalog.Lookup(vm.Size)
	r.dataDisks(vm, size, known)
	return r.found
}

func (r *report) dataDisks(vm VM, size catalog.Size, sizeKnown bool) {
	const target = "properties.storageProfile.dataDisks"
	count, host := 0, vm.Host
	luns, names := map[int]bool{}, map[string]bool{}
	zone := vm.Zone
	if zone == "" && len(vm.Zones) == 1 {
		zone = vm.Zones[0]
	}
	for i, d := range vm.DataDisks {
		at := fmt.Sprintf("%s[%d]", target, i)
		if d.Detach {
			if !d.Kept {
				r.add("InvalidParameter", at+".toBeDetached", "Disk '%s' is to be detached and is not attached to this VM.", d.Name)
			}
			continue
		}
		count++
		switch {
		case d.LUN == nil:
			r.add("InvalidParameter", at+".lun", "Required parameter 'dataDisk.lun' is missing (null).")
		case *d.LUN < 0 || *d.LUN > maxLUN:
			r.add("InvalidParameter", at+".lun", "lun is %d; want 0 to %d.", *d.LUN, maxLUN)
		case luns[*d.LUN]:
			r.add("InvalidParameter", at+".lun", "LUN %d is given twice.", *d.LUN)
		default:
			luns[*d.LUN] = true
		}
		if d.Name != "" && names[strings.ToLower(d.Name)] {
			r.add("InvalidParameter", at, "Disk '%s' is given twice.", d.Name)
		}
		names[strings.ToLower(d.Name)] = true
		if d.Kept {
			continue
		}
		switch d.CreateOption {
		case "Empty":
			if d.Found {
				r.add("ConflictingUserInput", at+".name", "Disk '%s' already exists.", d.Name)
			}
			if d.SizeGiB < minDataGiB || d.SizeGiB > maxDataGiB {
				r.add("InvalidParameter", at+".diskSizeGB", "diskSizeGB is %d; want %d to %d.", d.SizeGiB, minDataGiB, maxDataGiB)
			}
			continue
		case "Attach":
		default:
			r.add("InvalidParameter", at+".createOption", "createOption '%s' is not supported for data disks here. Allowed values are: Empty, Attach.", d.CreateOption)
			continue
		}
		disk := at + ".managedDisk.id"
		switch {
		case d.Name == "":
			r.add("InvalidParameter", disk, "Required parameter 'managedDisk.id' is missing (null).")
		case !d.Found:
			r.add("NotFound", disk, "Disk '%s' was not found.", d.Name)
		case d.OS:
			r.add("OperationNotAllowed", disk, "Disk '%s' is the OS disk of a confidential VM and can't be attached as a data disk.", d.Name)
		case d.UsedBy != "":
			r.add("ConflictingUserInput", disk, "Disk '%s' cannot be attached as the disk is already owned by VM '%s'.", d.Name, d.UsedBy)
		case d.Busy != "":
			r.add("OperationNotAllowed", disk, "Disk '%s' can't be attached now: %s.", d.Name, d.Busy)
		case d.Zone != zone:
			r.add("BadRequest", disk, "Disk '%s' lies in zone '%s', the VM in zone '%s'.", d.Name, d.Zone, zone)
		case d.Host != "" && host != "" && d.Host != host:
			r.add("OperationNotAllowed", disk, "Disk '%s' lies on host %s, the VM or another of its disks on host %s, and disks are not moved here.", d.Name, d.Host, host)
		}
		if host == "" {
			host = d.Host
		}
	}
	if sizeKnown && count > size.DataDisks {
		r.add("OperationNotAllowed", target, "The maximum number of data disks allowed to be attached to a VM of this size is %d.", size.DataDisks)
	}
}
