// Package disk keeps managed disks and their snapshots.
//
// An OS disk is made with its VM and goes with it. The blocks of a data disk lie on a host: on that of the VM it is first
// attached to, or, for a copy, on that of its source. Until then a data disk is a record only.
package disk

import (
	"context"
	"net/http"
	"strings"
	"time"

	"cloister.dev/cloister/compute/arm"
	"cloister.dev/cloister/compute/operations"
	"cloister.dev/cloister/compute/resources"
	"cloister.dev/cloister/compute/scheduler"
	"cloister.dev/cloister/compute/tracked"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/identity"
	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/store"
)

// The resource types.
const (
	Type         = "Microsoft.Compute/disks"
	SnapshotType = "Microsoft.Compute/snapshots"
)

// The durable writes of a disk's life.
var (
	afterWritten  = failpoint.New("compute/disk-written")
	afterSettled  = failpoint.New("compute/disk-settled")
	afterDeleting = failpoint.New("compute/disk-deleting")
	afterGone     = failpoint.New("compute/disk-gone")
)

// The provisioning states.
const (
	creating  = "Creating"
	updating  = "Updating"
	succeeded = "Succeeded"
	failed    = "Failed"
	deleting  = "Deleting"
)

// How a data disk begins. An OS disk has neither.
const (
	Empty = "Empty"
	Copy  = "Copy"
)

// The sizes of data disks, in GiB.
const (
	MinGiB = 4
	MaxGiB = 32767
)

// StorageTypes are the SKUs of disks. They are names here: all lie in the same storage.
var StorageTypes = []string{"Premium_LRS", "StandardSSD_LRS", "Standard_LRS"}

// Disk is a disk, or a snapshot of one.
type Disk struct {
	Meta        tracked.Meta `json:"meta"`
	UniqueID    string       `json:"uniqueId"` // UUID; a data disk's name on its host
	SizeGiB     int          `json:"sizeGiB"`
	StorageType string       `json:"storageType"`
	Zone        string       `json:"zone,omitempty"`
	VM          string       `json:"vm,omitempty"` // id of the VM that uses it

	// Of OS disks.
	Encryption string `json:"encryption,omitempty"` // mode of the VM it was made for
	ImageID    string `json:"imageId,omitempty"`
	// EncryptionSet is the id of the disk encryption set whose key the disk is under; empty without one.
	EncryptionSet string `json:"encryptionSet,omitempty"`

	// Of data disks and snapshots.
	Option       string `json:"option,omitempty"`       // Empty or Copy; "" is an OS disk
	Source       string `json:"source,omitempty"`       // id of the disk or snapshot that it is a copy of
	SourceUnique string `json:"sourceUnique,omitempty"` // the same on the host; "" when that had no blocks yet
	Network      string `json:"network,omitempty"`      // networkAccessPolicy, as sent
	Public       string `json:"public,omitempty"`       // publicNetworkAccess, as sent
	Host         string `json:"host,omitempty"`         // where its blocks lie; "" until it is first attached
	Generation   uint64 `json:"generation,omitempty"`

	Provisioning string     `json:"provisioning,omitempty"` // "" is Succeeded
	Failure      *arm.Error `json:"failure,omitempty"`
	Operation    string     `json:"operation,omitempty"` // the one under way
	// Readers are the store keys of the copies that its host has yet to make of it. Until then no VM may write to it.
	Readers []string `json:"readers,omitempty"`
	// Doomed is a disk that was to go with its VM while it was being copied: it goes after that.
	Doomed bool `json:"doomed,omitempty"`
}

// OS tells an OS disk from a data disk.
func (d Disk) OS() bool { return d.Option == "" }

// Spec is a data disk in the words of the agent API.
func (d Disk) Spec() api.DiskSpec {
	kind := api.KindDisk
	if d.Meta.ID.Type == SnapshotType {
		kind = api.KindSnapshot
	}
	return api.DiskSpec{ID: d.UniqueID, Resource: d.Meta.ID.Key(), Kind: kind, SizeGiB: d.SizeGiB, From: d.SourceUnique, Deleted: d.Provisioning == deleting, Generation: d.Generation}
}

// Busy says what keeps a disk from being used or changed now, or "".
func (d Disk) Busy() string {
	switch {
	case d.Provisioning == creating, d.Provisioning == updating, d.Provisioning == deleting:
		return "its provisioning state is " + d.Provisioning
	case d.Provisioning == failed && d.Failure != nil:
		return "its provisioning state is Failed: " + d.Failure.Message
	case len(d.Readers) > 0:
		return "it is being copied to " + strings.Join(d.Readers, ", ")
	}
	return ""
}

// Service serves disks and snapshots.
type Service struct {
	DB         *store.DB
	Store      store.Store[Disk]
	Snapshots  store.Store[Disk]
	Hosts      store.Store[scheduler.Host]
	Groups     *resources.Groups
	Operations *operations.Service
	Location   string
	Zones      []string
	Now        func() time.Time
	// Idle tells whether a VM is deallocated, and holds the transaction to that. The error says why it is not.
	Idle func(ctx context.Context, tx *store.Txn, vmKey string) error
	// Grown is Idle, and notes the new size of a disk with its VM.
	Grown func(ctx context.Context, tx *store.Txn, vmKey, uniqueID string, gib int) error
	// Authorize asks for a caller's roles at what a request links to.
	Authorize func(p *identity.Principal, action, scope string) error
}

// MayUse refuses a caller without the right to do an action to a disk that the request names: a role where the request goes says nothing
// about there.
func (s *Service) MayUse(p *identity.Principal, action string, disk arm.ID) error {
	if s.Authorize(p, action, disk.String()) == nil {
		return nil
	}
	return arm.Errorf(http.StatusForbidden, "LinkedAuthorizationFailed", "The client '%s' does not have permission to perform action '%s' on the linked scope '%s'.", p.ObjectID, action, disk)
}

func (s *Service) kind() tracked.Kind[Disk] {
	return tracked.Kind[Disk]{Type: Type, Store: s.Store, Meta: func(d *Disk) *tracked.Meta { return &d.Meta },
		Render: func(_ context.Context, d Disk, _ *arm.Request) (any, error) { return d.wire(), nil }}
}

func (s *Service) snapshots() tracked.Kind[Disk] {
	k := s.kind()
	k.Type, k.Store = SnapshotType, s.Snapshots
	return k
}

// of is the store that keeps a resource, by its store key.
func (s *Service) of(key string) store.Store[Disk] {
	if strings.Contains(key, strings.ToLower("/providers/"+SnapshotType+"/")) {
		return s.Snapshots
	}
	return s.Store
}

// Resources lists the disks and snapshots of a group.
func (s *Service) Resources(ctx context.Context, sub, group string) ([]tracked.Meta, error) {
	snapshots, err := s.snapshots().Metas(ctx, sub, group)
	if err != nil {
		return nil, err
	}
	disks, err := s.kind().Metas(ctx, sub, group)
	return append(snapshots, disks...), err
}
