package rules

import (
	"slices"
	"strings"
	"testing"
)

func lun(n int) *int { return &n }

func TestDataDiskRules(t *testing.T) {
	const at = "properties.storageProfile.dataDisks"
	type disks func(a, b *DataDisk, v *VM)
	for _, r := range []struct {
		name    string
		change  disks
		targets []string
		code    string
	}{
		{"accepted: one is made, one attached", func(_, _ *DataDisk, _ *VM) {}, nil, ""},
		{"accepted: smallest, largest, first and last LUN", func(a, b *DataDisk, _ *VM) {
			a.SizeGiB, a.LUN, b.LUN = 32767, lun(63), lun(0)
		}, nil, ""},
		{"accepted: one that is attached already, whatever else is said of it", func(_, b *DataDisk, _ *VM) { b.Kept, b.UsedBy, b.Busy = true, "me", "copied" }, nil, ""},
		{"accepted: one is to be detached, and its LUN is used anew", func(a, b *DataDisk, _ *VM) { b.Kept, b.Detach, a.LUN = true, true, b.LUN }, nil, ""},
		{"accepted: a zone of its own", func(_, b *DataDisk, v *VM) { v.Zones, b.Zone = []string{"1"}, "1" }, nil, ""},
		{"accepted: on the VM's host", func(_, b *DataDisk, v *VM) { v.Host, b.Host = "h", "h" }, nil, ""},
		{"accepted: nowhere yet", func(_, b *DataDisk, v *VM) { v.Host = "h" }, nil, ""},

		{"no LUN", func(a, _ *DataDisk, _ *VM) { a.LUN = nil }, []string{at + "[0].lun"}, "InvalidParameter"},
		{"LUN below 0", func(a, _ *DataDisk, _ *VM) { a.LUN = lun(-1) }, []string{at + "[0].lun"}, "InvalidParameter"},
		{"LUN above 63", func(a, _ *DataDisk, _ *VM) { a.LUN = lun(64) }, []string{at + "[0].lun"}, "InvalidParameter"},
		{"LUN twice", func(a, b *DataDisk, _ *VM) { a.LUN = b.LUN }, []string{at + "[1].lun"}, "InvalidParameter"},
		{"disk twice, in another case", func(a, b *DataDisk, _ *VM) { a.Name = "OLD" }, []string{at + "[1]"}, "InvalidParameter"},
		{"made, and there", func(a, _ *DataDisk, _ *VM) { a.Found = true }, []string{at + "[0].name"}, "ConflictingUserInput"},
		{"too small", func(a, _ *DataDisk, _ *VM) { a.SizeGiB = 3 }, []string{at + "[0].diskSizeGB"}, "InvalidParameter"},
		{"no size", func(a, _ *DataDisk, _ *VM) { a.SizeGiB = 0 }, []string{at + "[0].diskSizeGB"}, "InvalidParameter"},
		{"too large", func(a, _ *DataDisk, _ *VM) { a.SizeGiB = 32768 }, []string{at + "[0].diskSizeGB"}, "InvalidParameter"},
		{"from an image", func(a, _ *DataDisk, _ *VM) { a.CreateOption = "FromImage" }, []string{at + "[0].createOption"}, "InvalidParameter"},
		{"no option", func(a, _ *DataDisk, _ *VM) { a.CreateOption = "" }, []string{at + "[0].createOption"}, "InvalidParameter"},
		{"attached without a name", func(_, b *DataDisk, _ *VM) { b.Name = "" }, []string{at + "[1].managedDisk.id"}, "InvalidParameter"},
		{"not there", func(_, b *DataDisk, _ *VM) { b.Found = false }, []string{at + "[1].managedDisk.id"}, "NotFound"},
		{"an OS disk", func(_, b *DataDisk, _ *VM) { b.OS = true }, []string{at + "[1].managedDisk.id"}, "OperationNotAllowed"},
		{"of another VM", func(_, b *DataDisk, _ *VM) { b.UsedBy = "other" }, []string{at + "[1].managedDisk.id"}, "ConflictingUserInput"},
		{"being copied", func(_, b *DataDisk, _ *VM) { b.Busy = "it is being copied" }, []string{at + "[1].managedDisk.id"}, "OperationNotAllowed"},
		{"a zone, and the VM has none", func(_, b *DataDisk, _ *VM) { b.Zone = "1" }, []string{at + "[1].managedDisk.id"}, "BadRequest"},
		{"no zone, and the VM has one", func(_, _ *DataDisk, v *VM) { v.Zones = []string{"1"} }, []string{at + "[1].managedDisk.id"}, "BadRequest"},
		{"another zone than that of a VM that is there", func(_, b *DataDisk, v *VM) { v.Zone, b.Zone = "1", "2" }, []string{at + "[1].managedDisk.id"}, "BadRequest"},
		{"on another host than the VM", func(_, b *DataDisk, v *VM) { v.Host, b.Host = "h", "i" }, []string{at + "[1].managedDisk.id"}, "OperationNotAllowed"},
		{"two on different hosts", func(a, b *DataDisk, _ *VM) {
			*a = *b
			a.Name, a.LUN, a.Host, b.Host = "older", lun(0), "h", "i"
		}, []string{at + "[1].managedDisk.id"}, "OperationNotAllowed"},
		{"to be detached and not attached", func(_, b *DataDisk, _ *VM) { b.Detach = true }, []string{at + "[1].toBeDetached"}, "InvalidParameter"},
		{"more than the size has", func(_, _ *DataDisk, v *VM) {
			for i := range 3 {
				v.DataDisks = append(v.DataDisks, DataDisk{LUN: lun(10 + i), Name: string(rune('c' + i)), CreateOption: "Empty", SizeGiB: 4})
			}
		}, []string{at}, "OperationNotAllowed"},
	} {
		t.Run(r.name, func(t *testing.T) {
			vm, _ := good()
			vm.DataDisks = []DataDisk{{LUN: lun(0), Name: "new", CreateOption: "Empty", SizeGiB: 4}, {LUN: lun(1), Name: "old", CreateOption: "Attach", Found: true}}
			r.change(&vm.DataDisks[0], &vm.DataDisks[1], &vm)
			got := CheckDataDisks(vm)
			if !slices.Equal(targetsOf(got), r.targets) {
				t.Fatalf("got %+v, want targets %v", got, r.targets)
			}
			if len(got) > 0 && (got[0].Code != r.code || strings.Contains(got[0].Message, "%!")) {
				t.Errorf("got %+v, want code %s", got[0], r.code)
			}
		})
	}
}

func targetsOf(all []Violation) []string {
	var out []string
	for _, v := range all {
		out = append(out, v.Target)
	}
	return out
}
