package vm

import (
	"testing"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/disk"
)

// Whatever is asked, no LUN that was chosen for the caller is one that a disk of the VM keeps, and nothing is lost but what was named.
func FuzzAttachDetach(f *testing.F) {
	const at = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/g/providers/Microsoft.Compute/disks/"
	for _, s := range []string{`{}`, `{"dataDisksToAttach":[{"diskId":"` + at + `x"},{"diskId":"` + at + `y","lun":0}]}`, `{"dataDisksToDetach":[{"diskId":"` + at + `A"}]}`,
		`{"dataDisksToDetach":[{"diskId":"` + at + `a"}],"dataDisksToAttach":[{"diskId":"` + at + `a","lun":63,"caching":"None","deleteOption":"Delete"}]}`, `{"dataDisksToAttach":[{"lun":-1}]}`} {
		f.Add([]byte(s))
	}
	have := []DataDisk{}
	for i, name := range []string{"a", "b"} {
		id, err := arm.ParseID(at+name, disk.Type)
		if err != nil {
			f.Fatal(err)
		}
		have = append(have, DataDisk{LUN: i, ID: id})
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b attachDetachBody
		if arm.Decode(raw, attachDetachShape, &b) != nil {
			return
		}
		list, err := b.list(have)
		if err != nil {
			return
		}
		if len(list) < len(have)-len(b.Detach)+len(b.Attach) {
			t.Errorf("%d disks of %d, %d detached and %d attached", len(list), len(have), len(b.Detach), len(b.Attach))
		}
		chosen := map[int]int{}
		for _, d := range list {
			if d.LUN == nil {
				t.Fatal("a disk has no LUN")
			}
			chosen[*d.LUN]++
		}
		given := false
		for _, a := range b.Attach {
			given = given || a.LUN != nil
		}
		for lun, n := range chosen {
			if n > 1 && !given {
				t.Errorf("LUN %d was chosen %d times", lun, n)
			}
		}
	})
}
