package vm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/encryptionset"
	"cloister.dev/cloister/compute/network"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/compute/rules"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/identity"
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
	id := r.ID()
	if err := s.Groups.Require(ctx, nil, id.Subscription, id.Group); err != nil {
		return nil, err
	}
	_, err := s.VMs.Get(ctx, id.Key())
	switch {
	case err == nil:
		return s.update(ctx, r, b, func(v *VM) { v.Meta.Tags = b.Tags })
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	if err := tracked.Match(r.HTTP.Header, ""); err != nil {
		return nil, err
	}
	for {
		resp, err := s.create(ctx, r, b)
		if errors.Is(err, store.ErrConflict) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if _, getErr := s.VMs.Get(ctx, id.Key()); getErr == nil {
				return nil, err // the same VM was made by another call
			}
			continue // quota, placement or a NIC was taken meanwhile: decide again
		}
		return resp, err
	}
}

// create decides on one view of the world and writes everything in one transaction.
func (s *Service) create(ctx context.Context, r *arm.Request, b body) (*arm.Response, error) {
	id := r.ID()
	tx := s.DB.Txn()
	if err := s.Groups.Require(ctx, tx, id.Subscription, id.Group); err != nil {
		return nil, err
	}
	hosts, candidates, err := s.candidates(ctx)
	if err != nil {
		return nil, err
	}
	var launchers []string
	for _, h := range hosts {
		launchers = append(launchers, h.Value.Launcher)
	}
	req, facts, err := s.lookUp(ctx, r.Principal, id, b, launchers)
	if err != nil {
		return nil, err
	}
	if err := violations(rules.Check(req, s.installation(candidates))); err != nil {
		return nil, err
	}
	v, err := s.build(id, b, facts)
	if err != nil {
		return nil, err
	}

	usage, err := s.Usages.Get(ctx, usageKey(id.Subscription))
	if errors.Is(err, store.ErrNotFound) {
		usage = store.Item[quota.Usage]{ID: usageKey(id.Subscription)}
	} else if err != nil {
		return nil, err
	}
	if err := usage.Value.Take(s.Limits, v.quotaNeed()); err != nil {
		return nil, s.quotaError(err)
	}
	if v.Host, err = scheduler.Pick(holding(candidates, facts.disks), v.need()); err != nil {
		return nil, allocationError(err)
	}
	place, err := s.placement(ctx, v.Host)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(candidates, func(c scheduler.Candidate) bool { return c.Host.Name == v.Host })
	if why := scheduler.Unfit(scheduler.Candidate{Host: candidates[i].Host, Placement: place.Value, Alive: true}, v.need()); why != "" {
		return nil, store.ErrConflict // filled since it was picked
	}
	if place.Value.VMs == nil {
		place.Value.VMs = map[string]scheduler.Need{}
	}
	place.Value.VMs[v.VMID] = v.need()

	op := s.Operations.New(id.Subscription, id.String())
	v.Operation = op.ID
	s.attachIn(tx, &v, facts.disks)
	s.VMs.CreateIn(tx, id.Key(), v)
	s.Identities.CreateIn(tx, v.VMID, Identity{VM: id.Key()})
	s.Usages.UpdateIn(tx, usage)
	s.Placements.UpdateIn(tx, place)
	s.Hosts.UnchangedIn(tx, hosts[i])
	s.Operations.Store.CreateIn(tx, op.ID, op)
	if facts.set != nil {
		s.EncryptionSets.UseIn(tx, *facts.set, id.String())
	}
	for _, nic := range facts.nics {
		nic.Value.VM = id.String()
		s.Network.NICs.UpdateIn(tx, nic)
	}
	s.Disks.Store.CreateIn(tx, v.OSDisk.ID.Key(), disk.Disk{
		Meta:     tracked.Meta{ID: v.OSDisk.ID, Location: s.Location, Tags: v.Meta.Tags, Etag: tracked.NewEtag(), Created: v.Meta.Created},
		UniqueID: uuid.NewString(), SizeGiB: v.OSDisk.SizeGiB, StorageType: v.OSDisk.StorageType, Encryption: v.Encryption, EncryptionSet: v.setID(), ImageID: v.ImageID, VM: id.String()})
	s.Journeys.PutIn(tx, v.VMID, Journey{Events: s.firstEvents(v)})
	if err := tx.Commit(ctx); err != nil {
		return nil, s.explainConflict(ctx, err, v)
	}
	afterCreate.Hit()
	wire, err := s.render(ctx, v, r)
	if err != nil {
		return nil, err
	}
	return &arm.Response{Status: http.StatusCreated, Header: s.Operations.Header(op, r.Version), Body: wire}, nil
}

// explainConflict finds conflicts that trying again won't mend.
func (s *Service) explainConflict(ctx context.Context, err error, v VM) error {
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	if it, getErr := s.Disks.Store.Get(ctx, v.OSDisk.ID.Key()); getErr == nil {
		return arm.Errorf(http.StatusConflict, "ConflictingUserInput", "Disk '%s' already exists.", it.Value.Meta.ID).At("properties.storageProfile.osDisk.name")
	}
	return err
}

func (s *Service) firstEvents(v VM) []api.Event {
	now := s.Now().UTC()
	return []api.Event{
		{VMID: v.VMID, Time: now, Step: "rules", State: api.StepDone, Detail: map[string]string{"size": v.Size, "encryption": v.Encryption, "image": v.Image.Name, "imageDigest": v.Image.Digest}},
		{VMID: v.VMID, Time: now, Step: "placement", State: api.StepDone, Detail: map[string]string{"host": v.Host, "quotaFamily": v.quotaNeed().Family, "notes": strings.Join(v.Notes, "; ")}},
	}
}

// facts are the things that a request names, as they are now.
type facts struct {
	image   api.Image
	imageID string
	minDisk int
	nics    []store.Item[network.NIC]
	disks   []dataDisk
	set     *store.Item[encryptionset.Set]
	init    []byte // exact bytes from the tenant; nil: none
	parsed  *initdata.InitData
}

// lookUp finds everything that the request names and puts it before the rules.
func (s *Service) lookUp(ctx context.Context, caller *identity.Principal, id arm.ID, b body, launchers []string) (rules.VM, facts, error) {
	p := b.Properties
	req := rules.VM{
		Size: p.HardwareProfile.VMSize, Location: arm.Location(b.Location), Zones: b.Zones,
		SecurityType: p.SecurityProfile.SecurityType, SecureBoot: p.SecurityProfile.UEFI.SecureBoot, VTPM: p.SecurityProfile.UEFI.VTPM,
		EncryptionAtHost: p.SecurityProfile.EncryptionAtHost, Encryption: p.StorageProfile.OSDisk.ManagedDisk.Security.Encryption,
		OSDiskGiB: p.StorageProfile.OSDisk.SizeGB, CreateOption: p.StorageProfile.OSDisk.CreateOption, Ephemeral: len(p.StorageProfile.OSDisk.DiffDiskSettings) > 0,
		KeepDisk: p.StorageProfile.OSDisk.DeleteOption == "Detach",
		OS: rules.OS{ComputerName: p.OSProfile.ComputerName, AdminUser: p.OSProfile.AdminUsername, SSHKeys: len(p.OSProfile.Linux.SSH.PublicKeys),
			Password:   p.OSProfile.AdminPassword != "" || p.OSProfile.AdminUsername != "" && (p.OSProfile.Linux.DisablePassword == nil || !*p.OSProfile.Linux.DisablePassword),
			CustomData: len(p.OSProfile.CustomData) > 0},
	}
	var f facts
	if ref := p.StorageProfile.ImageReference; ref != nil && ref.ID != "" {
		img, found, err := s.Images.Resolve(id.Subscription, ref.ID)
		if err != nil {
			return req, f, err
		}
		req.Image = rules.Image{Named: true, Found: found, Name: ref.ID, MinDiskGiB: img.MinDiskGiB, TEEs: img.TEEs(launchers)}
		f.image, f.imageID, f.minDisk = api.Image{Name: img.Name, Version: img.Version, Digest: img.Digest, ID: ref.ID}, ref.ID, img.MinDiskGiB
	}
	if ref := p.StorageProfile.OSDisk.ManagedDisk.Security.Set.ID; ref != "" {
		setID, err := arm.ParseID(ref, encryptionset.Type)
		if err != nil {
			return req, f, err
		}
		it, err := s.EncryptionSets.Store.Get(ctx, setID.Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return req, f, err
		}
		found := err == nil && arm.Key(setID.Subscription) == arm.Key(id.Subscription)
		req.EncryptionSet = rules.EncryptionSet{Named: true, Found: found, Name: ref}
		if found {
			f.set = &it
		}
	}
	for _, n := range p.NetworkProfile.NICs {
		nicID, err := arm.ParseID(n.ID, network.NICType)
		if err != nil {
			return req, f, err
		}
		it, err := s.Network.NICs.Get(ctx, nicID.Key())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return req, f, err
		}
		found := err == nil && arm.Key(nicID.Subscription) == arm.Key(id.Subscription)
		req.NICs = append(req.NICs, rules.NIC{ID: n.ID, Found: found, Location: it.Value.Meta.Location, UsedBy: it.Value.VM})
		f.nics = append(f.nics, it)
	}
	var err error
	if req.DataDisks, f.disks, err = s.dataDisks(ctx, caller, id, p.StorageProfile.DataDisks, nil); err != nil {
		return req, f, err
	}
	if p.UserData != "" {
		raw, err := base64.StdEncoding.DecodeString(p.UserData)
		if err != nil || len(raw) > rules.MaxUserData {
			req.OS.UserDataTooLarge = true
		} else if bytes.Contains(raw, []byte("cloister.initdata/")) {
			if err := s.readInit(ctx, raw, &req, &f); err != nil {
				return req, f, err
			}
		}
	}
	return req, f, nil
}

// readInit reads the tenant's init data. Strictly: two readers must never see different things in them.
func (s *Service) readInit(ctx context.Context, raw []byte, req *rules.VM, f *facts) error {
	req.Init = &rules.Init{}
	if _, err := arm.Parse(raw); err != nil {
		req.Init.Problem = err.Error()
		return nil
	}
	d, err := initdata.Parse(raw)
	if err != nil {
		req.Init.Problem = err.Error()
		return nil
	}
	f.init, f.parsed = raw, d
	req.Init.Name, req.Init.Encryption = d.Name, d.OSDiskEncryption
	switch _, err := s.Identities.Get(ctx, d.VMID); {
	case err == nil:
		req.Init.IDTaken = true
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	return nil
}

// build makes the record of a VM that the rules accepted.
func (s *Service) build(id arm.ID, b body, f facts) (VM, error) {
	p := b.Properties
	size, _ := catalog.Lookup(p.HardwareProfile.VMSize)
	granted := s.Cap.Grant(size)
	osDisk := p.StorageProfile.OSDisk
	v := VM{
		Meta: tracked.Meta{ID: id, Location: s.Location, Tags: b.Tags, Etag: tracked.NewEtag(), Created: s.Now().UTC()},
		Size: size.Name, TEE: string(size.TEE), VCPUs: granted.VCPUs, MemoryMiB: granted.MemoryMiB, Notes: granted.Notes, CPUModel: s.CPUModel,
		SecureBoot: p.SecurityProfile.UEFI.SecureBoot != nil && *p.SecurityProfile.UEFI.SecureBoot, Encryption: osDisk.ManagedDisk.Security.Encryption,
		Image: f.image, ImageID: f.imageID, Computer: p.OSProfile.ComputerName, Admin: p.OSProfile.AdminUsername, SSHKeys: p.OSProfile.Linux.SSH.PublicKeys,
		UserData: p.UserData, InitData: f.init, Power: api.PowerRunning, Generation: 1, Provisioning: creating,
	}
	if f.set != nil {
		set := f.set.Value
		v.Customer = &Customer{Set: set.Meta.ID, KeyURL: set.KeyURL, Latest: set.Latest, Principal: set.Principal}
	}
	if len(b.Zones) == 1 {
		v.Zone = b.Zones[0]
	}
	name := osDisk.Name
	if name == "" {
		name = id.Name + "_OsDisk_1_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	name = shortened(name)
	if err := arm.CheckName(name); err != nil {
		return v, err
	}
	v.OSDisk = OSDisk{ID: arm.ID{Subscription: id.Subscription, Group: id.Group, Type: disk.Type, Name: name}, SizeGiB: max(osDisk.SizeGB, f.minDisk),
		StorageType: orElse(osDisk.ManagedDisk.StorageType, "Premium_LRS"), Caching: orElse(osDisk.Caching, "ReadWrite")}
	for i, n := range f.nics {
		ref := p.NetworkProfile.NICs[i].Properties
		nic := n.Value
		v.NICs = append(v.NICs, NICRef{ID: nic.Meta.ID, Delete: ref.DeleteOption == "Delete",
			Wire: api.NIC{ID: nic.Meta.ID.String(), Name: nic.Meta.ID.Name, MAC: nic.MAC, PrivateIP: nic.Address, Prefix: nic.Prefix, Primary: i == 0}})
	}
	if f.parsed != nil {
		v.VMID, v.Computer, v.Admin = f.parsed.VMID, f.parsed.Name, f.parsed.AdminUser
		return v, nil
	}
	return v, s.makeInit(&v, p.OSProfile.CustomData)
}

// makeInit makes init data for a tenant who gave none: the VM id is compute's choice, and whatever key policy
// follows from these bytes is the operator's word.
func (s *Service) makeInit(v *VM, customData []byte) error {
	v.VMID, v.OperatorTrusted, v.KeyPending = uuid.NewString(), true, v.Encryption != api.ModeNonPersisted
	var keys []string
	for _, k := range v.SSHKeys {
		keys = append(keys, k.KeyData)
	}
	raw, err := initdata.Marshal(initdata.InitData{VMID: v.VMID, Name: v.Computer, AdminUser: v.Admin, SSHKeys: keys, CustomData: customData,
		OSDiskEncryption: v.Encryption, Attest: s.Attest, Keys: s.KeyService})
	if err != nil {
		return err
	}
	v.InitData = raw
	return nil
}

// setID is the id of the VM's disk encryption set, or "".
func (v VM) setID() string {
	if v.Customer == nil {
		return ""
	}
	return v.Customer.Set.String()
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// violations maps what the rules say to Resource Manager's form. Wrong input is 400; what stands in the way of a
// right one is 409.
func violations(found []rules.Violation) error {
	status := http.StatusBadRequest
	var all []arm.Detail
	for _, f := range found {
		all = append(all, arm.Detail{Code: f.Code, Message: f.Message, Target: f.Target})
	}
	if len(found) > 0 {
		switch found[0].Code {
		case "SkuNotAvailable", "Conflict", "ConflictingUserInput", "OperationNotAllowed":
			status = http.StatusConflict
		case "ImageNotFound", "NotFound":
			status = http.StatusNotFound
		}
	}
	return arm.Violations(status, all)
}

func (s *Service) quotaError(err error) error {
	var e *quota.Exceeded
	if !errors.As(err, &e) {
		return err
	}
	what := e.Counter + " Cores"
	switch e.Counter {
	case quota.Cores:
		what = "Total Regional Cores"
	case quota.VMs:
		what = "Virtual Machines"
	}
	return arm.Errorf(http.StatusConflict, "OperationNotAllowed",
		"Operation could not be completed as it results in exceeding approved %s quota. Additional details - Deployment Model: Resource Manager, Location: %s, Current Limit: %d, Current Usage: %d, Additional Required: %d, (Minimum) New Limit Required: %d.",
		what, s.Location, e.Limit, e.Used, e.Additional, e.Used+e.Additional)
}

func allocationError(err error) error {
	code := "AllocationFailed"
	var e *scheduler.NoHost
	if errors.As(err, &e) && e.Zonal() {
		code = "ZonalAllocationFailed"
	}
	return arm.Errorf(http.StatusConflict, code, "Allocation failed: %s.", err)
}

// candidates are all hosts as they are now, and the records they come from, in the same order.
func (s *Service) candidates(ctx context.Context) ([]store.Item[scheduler.Host], []scheduler.Candidate, error) {
	hosts, _, err := s.Hosts.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	places, _, err := s.Placements.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	alive, _, err := s.Alive.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	health, _, err := s.Health.List(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	placeOf, aliveOf, healthOf, now := byID(places), byID(alive), byID(health), s.Now()
	out := make([]scheduler.Candidate, len(hosts))
	for i, h := range hosts {
		_, reports := aliveOf[h.ID]
		out[i] = scheduler.Candidate{Host: h.Value, Placement: placeOf[h.ID], Alive: reports, Unfit: map[string]string{}}
		for _, tee := range h.Value.TEEs {
			if why := healthOf[h.ID].Unfit(tee, now); why != "" {
				out[i].Unfit[tee] = why
			}
		}
	}
	return hosts, out, nil
}

func byID[T any](items []store.Item[T]) map[string]T {
	out := make(map[string]T, len(items))
	for _, it := range items {
		out[it.ID] = it.Value
	}
	return out
}

func (s *Service) placement(ctx context.Context, host string) (store.Item[scheduler.Placement], error) {
	it, err := s.Placements.Get(ctx, host)
	if errors.Is(err, store.ErrNotFound) {
		return store.Item[scheduler.Placement]{ID: host}, nil
	}
	return it, err
}

// installation is what the rules may know of the hosts.
func (s *Service) installation(hosts []scheduler.Candidate) rules.Installation {
	in := rules.Installation{Location: s.Location, Zones: s.Zones, CanMakeKey: s.Maker != nil}
	for _, c := range hosts {
		in.TEEs = append(in.TEEs, c.Host.TEEs...)
	}
	in.Largest = func(size catalog.Size) string { return s.neverFits(hosts, size) }
	return in
}

// neverFits says why no host could run a size even when empty, or "".
func (s *Service) neverFits(hosts []scheduler.Candidate, size catalog.Size) string {
	g := s.Cap.Grant(size)
	why := "no host has joined"
	for _, c := range hosts {
		h := c.Host
		h.Cordoned = "" // a cordon ends; how large a host is doesn't change
		if why = scheduler.Never(h, scheduler.Need{TEE: string(size.TEE), VCPUs: g.VCPUs, MemoryMiB: g.MemoryMiB}); why == "" {
			return ""
		}
	}
	return "no host is large enough: " + why
}

// update answers a PUT or PATCH of a VM that is there.
func (s *Service) update(ctx context.Context, r *arm.Request, b body, edit func(*VM)) (*arm.Response, error) {
	v, err := s.change(ctx, r, func(tx *store.Txn, v *VM) error {
		if err := unchanged(*v, b); err != nil {
			return err
		}
		edit(v)
		return s.changeDataDisks(ctx, r.Principal, tx, v, b.Properties.StorageProfile.DataDisks)
	})
	if err != nil {
		return nil, err
	}
	wire, err := s.render(ctx, v, r)
	if err != nil {
		return nil, err
	}
	return arm.OK(wire), nil
}

// change edits a VM in one transaction with whatever else goes with it, on what is there when that is written.
func (s *Service) change(ctx context.Context, r *arm.Request, edit func(*store.Txn, *VM) error) (VM, error) {
	for {
		it, err := s.kind().Find(ctx, r.ID())
		if err != nil {
			return VM{}, err
		}
		v := &it.Value
		if v.Deleting {
			return VM{}, arm.Errorf(http.StatusConflict, "OperationNotAllowed", "VM '%s' is being deleted.", v.Meta.ID.Name)
		}
		if err := tracked.Match(r.HTTP.Header, v.Meta.Etag); err != nil {
			return VM{}, err
		}
		tx := s.DB.Txn()
		if err := edit(tx, v); err != nil {
			return VM{}, err
		}
		v.Meta.Etag = tracked.NewEtag()
		v.Generation++
		s.VMs.UpdateIn(tx, it)
		if err := tx.Commit(ctx); errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			continue
		} else if err != nil {
			return VM{}, err
		}
		afterChange.Hit()
		return *v, nil
	}
}

// unchanged refuses a PUT that would change what can't be changed. What the body leaves out stays as it is.
func unchanged(v VM, b body) error {
	p := b.Properties
	var all []arm.Detail
	same := func(target, got, have string) {
		if got != "" && !strings.EqualFold(got, have) {
			all = append(all, arm.Detail{Code: "PropertyChangeNotAllowed", Target: target, Message: "Changing property '" + target + "' is not allowed: it is '" + have + "', the request says '" + got + "'."})
		}
	}
	same("location", arm.Location(b.Location), v.Meta.Location)
	same("properties.hardwareProfile.vmSize", p.HardwareProfile.VMSize, v.Size)
	same("properties.securityProfile.securityType", p.SecurityProfile.SecurityType, rules.ConfidentialVM)
	same("properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType", p.StorageProfile.OSDisk.ManagedDisk.Security.Encryption, v.Encryption)
	same("properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id", p.StorageProfile.OSDisk.ManagedDisk.Security.Set.ID, v.setID())
	same("properties.storageProfile.osDisk.name", p.StorageProfile.OSDisk.Name, v.OSDisk.ID.Name)
	same("properties.osProfile.computerName", p.OSProfile.ComputerName, v.Computer)
	same("properties.osProfile.adminUsername", p.OSProfile.AdminUsername, v.Admin)
	if ref := p.StorageProfile.ImageReference; ref != nil {
		same("properties.storageProfile.imageReference.id", ref.ID, v.ImageID)
	}
	change := func(target, why string) {
		all = append(all, arm.Detail{Code: "PropertyChangeNotAllowed", Target: target, Message: "Changing property '" + target + "' is not allowed: " + why + "."})
	}
	if p.UserData != "" && p.UserData != v.UserData {
		change("properties.userData", "the evidence of the running VM is bound to it")
	}
	if n := p.StorageProfile.OSDisk.SizeGB; n != 0 && n != v.OSDisk.SizeGiB {
		change("properties.storageProfile.osDisk.diskSizeGB", "disks are not resized here")
	}
	if u := p.SecurityProfile.UEFI; u.SecureBoot != nil && *u.SecureBoot != v.SecureBoot || u.VTPM != nil && !*u.VTPM {
		change("properties.securityProfile.uefiSettings", "it is fixed at creation")
	}
	if p.OSProfile.AdminPassword != "" {
		change("properties.osProfile.adminPassword", "passwords are refused")
	}
	if p.NetworkProfile.NICs != nil && !slices.EqualFunc(p.NetworkProfile.NICs, v.NICs, func(a nicBody, n NICRef) bool {
		return arm.Key(a.ID) == n.ID.Key()
	}) {
		change("properties.networkProfile.networkInterfaces", "interfaces are fixed at creation here")
	}
	return arm.Violations(http.StatusConflict, all)
}
