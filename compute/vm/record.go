// Package vm keeps virtual machines: what the tenant asked for, what the host reports, and the loop that brings
// the two together.
package vm

import (
	"context"
	"log/slog"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/disk"
	"cloister.dev/cloister/compute/encryptionset"
	"cloister.dev/cloister/compute/imagesvc"
	"cloister.dev/cloister/compute/network"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/platform"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

// Type is the resource type.
const Type = "Microsoft.Compute/virtualMachines"

// The durable writes of a VM's life.
var (
	afterCreate  = failpoint.New("compute/vm-created")
	afterChange  = failpoint.New("compute/vm-changed")
	afterSettled = failpoint.New("compute/vm-settled")
	afterKeyMade = failpoint.New("compute/vm-key-made")
	afterKeyGone = failpoint.New("compute/vm-key-destroyed")
	afterRemoved = failpoint.New("compute/vm-removed")
)

// VM is what the tenant asked for, and how far it is.
type VM struct {
	Meta tracked.Meta `json:"meta"`
	VMID string       `json:"vmId"` // UUID in lower case; never used twice
	Zone string       `json:"zone,omitempty"`

	Size      string   `json:"size"`
	TEE       string   `json:"tee"`
	VCPUs     int      `json:"vcpus"`     // after the cap
	MemoryMiB int      `json:"memoryMiB"` // after the cap
	CPUModel  string   `json:"cpuModel"`
	Notes     []string `json:"notes,omitempty"`

	SecureBoot bool   `json:"secureBoot"`
	Encryption string `json:"encryption"`

	Image    api.Image `json:"image"` // the digest is fixed when the VM is asked for
	ImageID  string    `json:"imageId"`
	OSDisk   OSDisk    `json:"osDisk"`
	Customer *Customer `json:"customer,omitempty"` // the customer's key, by a disk encryption set

	DataDisks []DataDisk `json:"dataDisks,omitempty"`

	NICs     []NICRef  `json:"nics"`
	Computer string    `json:"computer"`
	Admin    string    `json:"admin,omitempty"`
	SSHKeys  []api.Key `json:"sshKeys,omitempty"`
	UserData string    `json:"userData,omitempty"` // base64 as sent

	InitData        []byte `json:"initData"` // exact bytes
	OperatorTrusted bool   `json:"operatorTrusted"`

	Host         string    `json:"host"`
	Power        api.Power `json:"power"` // wanted
	Generation   uint64    `json:"generation"`
	RestartCount uint64    `json:"restartCount"`
	SkipShutdown bool      `json:"skipShutdown,omitempty"`
	Released     bool      `json:"released,omitempty"` // deallocated: cores and memory were given back

	Provisioning string     `json:"provisioning"`
	Failure      *arm.Error `json:"failure,omitempty"`
	Operation    string     `json:"operation,omitempty"` // the one under way
	Deleting     bool       `json:"deleting,omitempty"`
	KeyPending   bool       `json:"keyPending,omitempty"` // compute has yet to make the guest-state key
	KeyDestroyed bool       `json:"keyDestroyed,omitempty"`
}

// The provisioning states.
const (
	creating  = "Creating"
	updating  = "Updating"
	succeeded = "Succeeded"
	failed    = "Failed"
	deleting  = "Deleting"
)

// OSDisk names the OS disk.
type OSDisk struct {
	ID          arm.ID `json:"id"`
	SizeGiB     int    `json:"sizeGiB"`
	StorageType string `json:"storageType"`
	Caching     string `json:"caching"`
}

// DataDisk attaches a managed disk.
type DataDisk struct {
	LUN         int    `json:"lun"`
	ID          arm.ID `json:"id"`
	UniqueID    string `json:"uniqueId"` // of the disk, on its host
	SizeGiB     int    `json:"sizeGiB"`
	StorageType string `json:"storageType"`
	Caching     string `json:"caching"`
	Made        bool   `json:"made,omitempty"`   // with the VM's request: createOption Empty
	Delete      bool   `json:"delete,omitempty"` // with the VM
}

// Customer is the disk encryption set of a VM, and what it said when the VM was asked for.
type Customer struct {
	Set       arm.ID `json:"set"`
	KeyURL    string `json:"keyUrl"`
	Latest    bool   `json:"latest,omitempty"`
	Principal string `json:"principal"` // object id of the set's identity
}

// NICRef is a network interface of the VM.
type NICRef struct {
	ID     arm.ID  `json:"id"`
	Wire   api.NIC `json:"wire"`
	Delete bool    `json:"delete,omitempty"` // with the VM
}

// Status is what the host last reported of a VM.
type Status struct {
	VM   string       `json:"vm"` // store key of the VM
	Host string       `json:"host"`
	Seen api.VMStatus `json:"seen"`
}

// Journey is what happened to a VM, oldest first. Only the last maxEvents are kept.
type Journey struct {
	Events []api.Event `json:"events"`
}

const maxEvents = 300

// Identity remembers every VM id ever used, so that none is used twice.
type Identity struct {
	VM   string `json:"vm"` // store key
	Gone bool   `json:"gone,omitempty"`
}

// Question is a request to a VM, and later its answer.
type Question struct {
	Host    string      `json:"host"`
	Request api.Request `json:"request"`
	Answer  *api.Answer `json:"answer,omitempty"`
}

// GuestStateKeys destroys the keys of guest states.
type GuestStateKeys interface {
	// Destroy destroys a VM's key; it is called before anything else of the VM goes. The text says what became of
	// the key, for the tenant: a key that is gone, or that the tenant keeps to itself, is no error.
	Destroy(ctx context.Context, v VM) (outcome string, err error)
}

// GuestStateKeyMaker makes the keys of VMs whose tenants gave no init data. Their policy is then the operator's.
// Create may be called again for a VM whose key is there.
type GuestStateKeyMaker interface {
	Create(ctx context.Context, v VM) error
}

// Service serves virtual machines.
type Service struct {
	DB         *store.DB
	VMs        store.Store[VM]
	Statuses   store.Store[Status]
	Journeys   store.Store[Journey]
	Identities store.Store[Identity]
	Questions  store.Store[Question]
	Usages     store.Store[quota.Usage]
	Hosts      store.Store[scheduler.Host]
	Placements store.Store[scheduler.Placement]
	Alive      store.Store[time.Time]       // leased
	Health     store.Store[platform.Health] // by host

	Groups         *resources.Groups
	Disks          *disk.Service
	EncryptionSets *encryptionset.Service
	Network        *network.Service
	Images         *imagesvc.Service
	Operations     *operations.Service

	Location string
	Zones    []string
	Limits   quota.Limits
	Cap      catalog.Cap
	CPUModel string
	// Services go into init data that compute makes.
	Attest, KeyService initdata.Service
	// Keys may be nil: then tenants' tools destroy guest-state keys, and compute says so.
	Keys GuestStateKeys
	// Maker may be nil: then VMs that need a key and bring no init data are refused.
	Maker GuestStateKeyMaker

	Now  func() time.Time
	Wait time.Duration // longest wait for an answer from a VM
	Log  *slog.Logger
}

func (s *Service) kind() tracked.Kind[VM] {
	return tracked.Kind[VM]{Type: Type, Store: s.VMs, Meta: func(v *VM) *tracked.Meta { return &v.Meta }, Render: s.render}
}

// Spec is the VM in the words of the agent API.
func (v VM) Spec() api.VMSpec {
	spec := api.VMSpec{
		VMID: v.VMID, ResourceID: v.Meta.ID.String(), Name: v.Meta.ID.Name, ComputerName: v.Computer, AdminUser: v.Admin, SSHKeys: v.SSHKeys,
		Mode: v.Encryption, SecureBoot: v.SecureBoot, TEE: v.TEE, SizeName: v.Size, VCPUs: v.VCPUs, MemoryMiB: v.MemoryMiB, CPUModel: v.CPUModel,
		Image:    v.Image,
		OSDisk:   api.Disk{Name: v.OSDisk.ID.Name, ID: v.OSDisk.ID.String(), SizeGiB: v.OSDisk.SizeGiB, StorageType: v.OSDisk.StorageType, Caching: v.OSDisk.Caching},
		InitData: v.InitData, OperatorTrusted: v.OperatorTrusted, UserData: v.UserData,
		Power: v.Power, Generation: v.Generation, RestartCount: v.RestartCount, SkipShutdown: v.SkipShutdown,
		Subscription: v.Meta.ID.Subscription, ResourceGroup: v.Meta.ID.Group, Location: v.Meta.Location, Zone: v.Zone, Tags: v.Meta.Tags,
	}
	if v.KeyPending && !v.Deleting {
		spec.Power = api.PowerStopped
	}
	if v.Deleting && !v.KeyDestroyed {
		// The host may throw nothing away before the key is gone; until then the VM only stops.
		spec.Power, spec.SkipShutdown = api.PowerStopped, true
	}
	size, _ := catalog.Lookup(v.Size) // checked when the VM was made
	spec.TempDiskGiB = size.TempGiB
	for _, d := range v.DataDisks {
		spec.DataDisks = append(spec.DataDisks, api.DataDisk{LUN: d.LUN, DiskID: d.UniqueID, Made: d.Made, Disk: api.Disk{Name: d.ID.Name, ID: d.ID.String(), SizeGiB: d.SizeGiB, StorageType: d.StorageType, Caching: d.Caching}})
	}
	for _, n := range v.NICs {
		spec.NICs = append(spec.NICs, n.Wire)
	}
	return spec
}

// need is what the VM takes on its host.
func (v VM) need() scheduler.Need {
	return scheduler.Need{TEE: v.TEE, VCPUs: v.VCPUs, MemoryMiB: v.MemoryMiB, Zone: v.Zone}
}

// quotaNeed is what the VM takes of the subscription's quota: what the size says, not what the cap leaves of it.
func (v VM) quotaNeed() quota.Need {
	size, _ := catalog.Lookup(v.Size) // checked when the VM was made
	return quota.Need{Family: size.Family, VCPUs: size.VCPUs}
}

func usageKey(sub string) string { return arm.Key("/subscriptions/" + sub) }
