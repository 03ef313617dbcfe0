package disk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/store"
)

func (s *Service) put(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	return s.again(ctx, r, func(it store.Item[Disk], there bool) (*arm.Response, error) {
		if there {
			return s.change(ctx, r, b, it, b.Tags)
		}
		return s.create(ctx, r, b)
	})
}

// patch changes size, SKU or tags. What is absent stays.
func (s *Service) patch(ctx context.Context, r *arm.Request) (*arm.Response, error) {
	var b body
	if err := arm.Decode(r.Body, shape, &b); err != nil {
		return nil, err
	}
	if err := tracked.CheckTags(b.Tags); err != nil {
		return nil, err
	}
	return s.again(ctx, r, func(it store.Item[Disk], there bool) (*arm.Response, error) {
		if !there {
			return nil, arm.NotFound(r.ID())
		}
		tags := b.Tags
		if tags == nil {
			tags = it.Value.Meta.Tags
		}
		return s.change(ctx, r, b, it, tags)
	})
}

// again decides on what is there, and decides anew when that has changed meanwhile.
func (s *Service) again(ctx context.Context, r *arm.Request, decide func(it store.Item[Disk], there bool) (*arm.Response, error)) (*arm.Response, error) {
	key := r.ID().Key()
	for {
		it, err := s.of(key).Get(ctx, key)
		there := err == nil
		if !there && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err := tracked.Match(r.HTTP.Header, it.Value.Meta.Etag); err != nil {
			return nil, err
		}
		resp, err := decide(it, there)
		if errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			continue
		}
		return resp, err
	}
}

func (s *Service) create(ctx context.Context, r *arm.Request, b body) (*arm.Response, error) {
	id, tx := r.ID(), s.DB.Txn()
	if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
		return nil, err
	}
	d := Disk{Meta: tracked.Meta{ID: id, Location: s.Location, Tags: b.Tags, Etag: tracked.NewEtag(), Created: s.Now().UTC()}, UniqueID: uuid.NewString(),
		SizeGiB: b.Properties.SizeGiB, StorageType: orElse(b.SKU.Name, "Standard_LRS"), Option: b.Properties.Creation.Option, Network: b.Properties.Network, Public: b.Properties.Public, Generation: 1}
	if len(b.Zones) > 0 {
		d.Zone = b.Zones[0]
	}
	source, missing, err := s.source(ctx, r, b)
	if err != nil {
		return nil, err
	}
	if source != nil && d.SizeGiB == 0 {
		d.SizeGiB = source.Value.SizeGiB
	}
	problems := s.check(id, b, d, source, missing)
	if err := arm.Violations(status(problems), problems); err != nil {
		return nil, err
	}
	if source != nil {
		if err := s.copyIn(ctx, tx, &d, *source); err != nil {
			return nil, err
		}
	}
	return s.commit(ctx, r, tx, d, func(d Disk) { s.of(id.Key()).CreateIn(tx, id.Key(), d) })
}

// source reads what a copy is to be made of; missing says what is wrong with its name.
func (s *Service) source(ctx context.Context, r *arm.Request, b body) (it *store.Item[Disk], missing *arm.Error, err error) {
	c := b.Properties.Creation
	if c.Option != Copy || c.Source == "" {
		return nil, nil, nil
	}
	from, err := arm.ParseID(c.Source, Type)
	if err != nil {
		if from, err = arm.ParseID(c.Source, SnapshotType); err != nil {
			return nil, arm.AsError(err).At("properties.creationData.sourceResourceId"), nil
		}
	}
	if err := s.MayUse(r.Principal, from.Type+"/beginGetAccess/action", from); err != nil {
		return nil, nil, err
	}
	found, err := s.of(from.Key()).Get(ctx, from.Key())
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.EqualFold(from.Subscription, r.ID().Subscription) {
		return nil, arm.Errorf(http.StatusNotFound, "NotFound", "The source '%s' was not found.", c.Source).At("properties.creationData.sourceResourceId"), nil
	}
	return &found, nil, err
}

// check lists all that is wrong with a new disk.
func (s *Service) check(id arm.ID, b body, d Disk, source *store.Item[Disk], missing *arm.Error) []arm.Detail {
	var all []arm.Detail
	add := func(code, target, format string, args ...any) {
		all = append(all, arm.Detail{Code: code, Target: target, Message: fmt.Sprintf(format, args...)})
	}
	const creation, size = "properties.creationData.", "properties.diskSizeGB"
	if b.Location == "" {
		add("LocationRequired", "location", "The location property is required for this definition.")
	} else if err := arm.CheckLocation(b.Location, s.Location, id.Type); err != nil {
		all = append(all, err.Detail())
	}
	snapshot := id.Type == SnapshotType
	switch {
	case len(b.Zones) > 1, snapshot && len(b.Zones) > 0:
		add("InvalidParameter", "zones", "A disk lies in one zone at most, a snapshot in none; %d are given.", len(b.Zones))
	case d.Zone != "" && !slices.Contains(s.Zones, d.Zone):
		add("InvalidParameter", "zones", "Zone '%s' does not exist here. Zones: %s.", d.Zone, strings.Join(s.Zones, ", "))
	}
	if b.Properties.MaxShares > 1 {
		add("InvalidParameter", "properties.maxShares", "maxShares is %d: disks are not shared here.", b.Properties.MaxShares)
	}
	if b.Properties.Incremental {
		add("InvalidParameter", "properties.incremental", "Incremental snapshots are not supported here: each snapshot is a whole one.")
	}
	switch option := d.Option; {
	case option == "":
		add("InvalidParameter", creation+"createOption", "Required parameter 'creationData.createOption' is missing (null).")
	case option != Copy && (snapshot || option != Empty):
		allowed := Empty + ", " + Copy
		if snapshot {
			allowed = Copy
		}
		add("InvalidParameter", creation+"createOption", "createOption '%s' is not supported here. Allowed values are: %s. OS disks are made with their VM.", option, allowed)
	case option == Empty && b.Properties.Creation.Source != "":
		add("InvalidParameter", creation+"sourceResourceId", "An empty disk has no source.")
	case option == Copy && b.Properties.Creation.Source == "":
		add("InvalidParameter", creation+"sourceResourceId", "Required parameter 'creationData.sourceResourceId' is missing (null).")
	case missing != nil:
		all = append(all, missing.Detail())
	case source != nil && source.Value.OS():
		add("OperationNotAllowed", creation+"sourceResourceId", "Disk '%s' is the OS disk of a confidential VM; a copy is refused for guest state: the key of its blocks lies in the VM's guest state, which is never copied.", source.Value.Meta.ID.Name)
	case source != nil && d.SizeGiB < source.Value.SizeGiB:
		add("ResizeDiskError", size, "diskSizeGB is %d; the source has %d.", d.SizeGiB, source.Value.SizeGiB)
	case source != nil && snapshot && d.SizeGiB != source.Value.SizeGiB:
		add("InvalidParameter", size, "diskSizeGB is %d; a snapshot is as large as its source, %d.", d.SizeGiB, source.Value.SizeGiB)
	case d.SizeGiB < MinGiB || d.SizeGiB > MaxGiB:
		add("InvalidParameter", size, "diskSizeGB is %d; want %d to %d.", d.SizeGiB, MinGiB, MaxGiB)
	}
	return all
}

// status is 400 for what is wrong by itself, 404 for what is not there, and 409 for what stands in the way of a right one.
func status(problems []arm.Detail) int {
	if len(problems) > 0 {
		switch problems[0].Code {
		case "OperationNotAllowed", "PropertyChangeNotAllowed", "ResizeDiskError":
			return http.StatusConflict
		case "NotFound":
			return http.StatusNotFound
		}
	}
	return http.StatusBadRequest
}

// copyIn binds a copy to its source, which nobody may write to until the host has copied it.
func (s *Service) copyIn(ctx context.Context, tx *store.Txn, d *Disk, source store.Item[Disk]) error {
	from := &source.Value
	d.Source = from.Meta.ID.String()
	if why := from.Busy(); why != "" && len(from.Readers) == 0 { // two may read at once
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "'%s' can't be copied now: %s.", from.Meta.ID.Name, why).At("properties.creationData.sourceResourceId")
	}
	if from.VM != "" {
		if err := s.Idle(ctx, tx, arm.Key(from.VM)); err != nil {
			return err
		}
	}
	if from.Host == "" { // it was never written to: the copy is as empty
		s.of(source.ID).UnchangedIn(tx, source)
		return nil
	}
	host, err := s.Hosts.Get(ctx, from.Host)
	if err != nil {
		return fmt.Errorf("host of disk %s: %w", from.Meta.ID, err)
	}
	if d.Zone != "" && d.Zone != host.Value.Zone {
		return arm.Errorf(http.StatusConflict, "OperationNotAllowed", "A copy lies where its source does: in zone '%s', not '%s'.", host.Value.Zone, d.Zone).At("zones")
	}
	d.Host, d.SourceUnique, d.Provisioning = from.Host, from.UniqueID, creating
	from.Readers = append(slices.Clone(from.Readers), d.Meta.ID.Key())
	s.of(source.ID).UpdateIn(tx, source)
	return nil
}

// commit writes a disk, with an operation when its host has something to do.
func (s *Service) commit(ctx context.Context, r *arm.Request, tx *store.Txn, d Disk, write func(Disk)) (*arm.Response, error) {
	resp := &arm.Response{Status: http.StatusOK}
	if d.Provisioning == creating || d.Provisioning == updating {
		op := s.Operations.New(d.Meta.ID.Subscription, d.Meta.ID.String())
		d.Operation, d.Failure = op.ID, nil
		s.Operations.Store.CreateIn(tx, op.ID, op)
		resp.Status, resp.Header = http.StatusAccepted, s.Operations.Header(op, r.Version)
	}
	write(d)
	if err := tx.Commit(ctx); err != nil {
		return nil, err
	}
	afterWritten.Hit()
	resp.Body = d.wire()
	return resp, nil
}

// change grows a disk or changes its SKU and tags.
func (s *Service) change(ctx context.Context, r *arm.Request, b body, it store.Item[Disk], tags map[string]string) (*arm.Response, error) {
	d := &it.Value
	if problems := d.unchangeable(b); len(problems) > 0 {
		return nil, arm.Violations(status(problems), problems)
	}
	if d.Provisioning == deleting {
		return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "'%s' is being deleted.", d.Meta.ID.Name)
	}
	tx := s.DB.Txn()
	if n := b.Properties.SizeGiB; n != 0 && n != d.SizeGiB {
		if why := d.Busy(); why != "" {
			return nil, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "Disk '%s' can't be resized now: %s.", d.Meta.ID.Name, why).At("properties.diskSizeGB")
		}
		if d.VM != "" {
			if err := s.Grown(ctx, tx, arm.Key(d.VM), d.UniqueID, n); err != nil {
				return nil, err
			}
		}
		if d.SizeGiB = n; d.Host != "" {
			d.Generation++
			d.Provisioning = updating
		}
	}
	d.StorageType, d.Network, d.Public = orElse(b.SKU.Name, d.StorageType), orElse(b.Properties.Network, d.Network), orElse(b.Properties.Public, d.Public)
	d.Meta.Tags, d.Meta.Etag = tags, tracked.NewEtag()
	if d.Operation != "" { // under way: what it works on stays as it is
		s.of(it.ID).UpdateIn(tx, it)
		if err := tx.Commit(ctx); err != nil {
			return nil, err
		}
		afterWritten.Hit()
		return arm.OK(d.wire()), nil
	}
	return s.commit(ctx, r, tx, *d, func(d Disk) {
		it.Value = d
		s.of(it.ID).UpdateIn(tx, it)
	})
}

// unchangeable lists what a body says otherwise than it is and can't be changed.
func (d Disk) unchangeable(b body) []arm.Detail {
	var all []arm.Detail
	same := func(target, got, have string) {
		if got != "" && !strings.EqualFold(got, have) {
			all = append(all, arm.Detail{Code: "PropertyChangeNotAllowed", Target: target, Message: "Changing property '" + target + "' is not allowed: it is '" + have + "', the request says '" + got + "'."})
		}
	}
	same("location", arm.Location(b.Location), d.Meta.Location)
	same("zones", strings.Join(b.Zones, ","), d.Zone)
	option := orElse(d.Option, "FromImage")
	same("properties.creationData.createOption", b.Properties.Creation.Option, option)
	same("properties.creationData.sourceResourceId", b.Properties.Creation.Source, d.Source)
	if d.OS() {
		same("sku.name", b.SKU.Name, d.StorageType)
	}
	add := func(code, target, format string, args ...any) {
		all = append(all, arm.Detail{Code: code, Target: target, Message: fmt.Sprintf(format, args...)})
	}
	if b.Properties.MaxShares > 1 || b.Properties.Incremental {
		add("PropertyChangeNotAllowed", "properties", "Disks are not shared here, and snapshots are whole.")
	}
	const size = "properties.diskSizeGB"
	switch n := b.Properties.SizeGiB; {
	case n == 0 || n == d.SizeGiB:
	case d.OS() || d.Meta.ID.Type == SnapshotType:
		add("PropertyChangeNotAllowed", size, "Changing property '%s' is not allowed: only data disks are resized here.", size)
	case n < d.SizeGiB:
		add("ResizeDiskError", size, "diskSizeGB is %d; the disk has %d, and a disk never shrinks.", n, d.SizeGiB)
	case n > MaxGiB:
		add("InvalidParameter", size, "diskSizeGB is %d; want at most %d.", n, MaxGiB)
	}
	return all
}
