package vm

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/store"
)

// attachDetachShape is the body of attachDetachDataDisks, which names only what changes.
var attachDetachShape = arm.Shape{
	"dataDisksToAttach": arm.List(arm.Shape{"diskId": arm.Text, "lun": arm.Number, "caching": arm.OneOf("None", "ReadOnly", "ReadWrite"), "deleteOption": arm.OneOf("Delete", "Detach")}),
	"dataDisksToDetach": arm.List(arm.Shape{"diskId": arm.Text}),
}

type attachDetachBody struct {
	Attach []struct {
		ID           string `json:"diskId"`
		LUN          *int   `json:"lun"`
		Caching      string `json:"caching"`
		DeleteOption string `json:"deleteOption"`
	} `json:"dataDisksToAttach"`
	Detach []struct {
		ID string `json:"diskId"`
	} `json:"dataDisksToDetach"`
}

// attachDetach attaches and detaches data disks, and answers the storage profile.
func (s *Service) attachDetach(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b attachDetachBody
	if err := arm.Decode(r.Body, attachDetachShape, &b); err != nil {
		return nil, err
	}
	v, err := s.change(ctx, r, func(tx *store.Txn, v *VM) error {
		list, err := b.list(v.DataDisks)
		if err != nil {
			return err
		}
		return s.changeDataDisks(ctx, r.Principal, tx, v, list)
	})
	if err != nil {
		return nil, err
	}
	return arm.OK(v.storageWire()), nil
}

// list is the whole list of data disks that the change leads to. A disk without a LUN gets the lowest that is free.
func (b attachDetachBody) list(have []DataDisk) ([]dataDiskBody, error) {
	gone := map[string]bool{}
	for i, d := range b.Detach {
		id, err := arm.ParseID(d.ID, disk.Type)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(have, func(h DataDisk) bool { return h.ID.Key() == id.Key() }) {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "Disk '%s' is to be detached and is not attached to this VM.", d.ID).At(fmt.Sprintf("dataDisksToDetach[%d].diskId", i))
		}
		gone[id.Key()] = true
	}
	used := map[int]bool{}
	list := []dataDiskBody{}
	add := func(id string, lun *int, caching, deleteOption string) {
		d := dataDiskBody{LUN: lun, CreateOption: "Attach", Caching: caching, DeleteOption: deleteOption}
		d.ManagedDisk.ID = id
		list = append(list, d)
	}
	for _, d := range have {
		if !gone[d.ID.Key()] {
			used[d.LUN] = true
			add(d.ID.String(), &d.LUN, "", "")
		}
	}
	for _, d := range b.Attach {
		if d.LUN != nil {
			used[*d.LUN] = true
		}
	}
	for i, d := range b.Attach {
		id, err := arm.ParseID(d.ID, disk.Type)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(have, func(h DataDisk) bool { return h.ID.Key() == id.Key() && !gone[id.Key()] }) {
			return nil, arm.Errorf(http.StatusBadRequest, "InvalidParameter", "Disk '%s' is attached to this VM already.", d.ID).At(fmt.Sprintf("dataDisksToAttach[%d].diskId", i))
		}
		lun := d.LUN
		if lun == nil {
			free := 0
			for used[free] {
				free++
			}
			used[free], lun = true, &free
		}
		add(d.ID, lun, d.Caching, d.DeleteOption)
	}
	return list, nil
}
