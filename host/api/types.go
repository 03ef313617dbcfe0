// Package api is what a host agent and the control plane say to each other: wire types and a small client.
//
// The agent opens every connection. It joins once with a one-time token, and from then on shows the client
// certificate it got. JSON; byte slices are base64; times are RFC 3339 in UTC.
package api

import (
	"encoding/json"
	"time"

	"cloister.dev/cloister/evidence"
)

// Paths of the agent API.
const (
	PathJoin   = "/agent/v1/join"
	PathRenew  = "/agent/v1/renew"
	PathWatch  = "/agent/v1/watch"
	PathReport = "/agent/v1/report"
	PathVMs    = "/agent/v1/vms/" // {vmid}/identity, {vmid}/answers/{id}
)

// JoinRequest asks for a client certificate. The common name of the request is the host's name.
type JoinRequest struct {
	Token string `json:"token"` // one-time
	CSR   string `json:"csr"`   // PEM
}

// RenewRequest asks for a new certificate over a connection that shows the old one.
type RenewRequest struct {
	CSR string `json:"csr"` // PEM
}

// JoinResponse is the answer to both.
type JoinResponse struct {
	Host        string `json:"host"`        // the name the certificate carries
	Certificate string `json:"certificate"` // PEM, leaf first
	CA          string `json:"ca"`          // PEM of the agent CA
}

// Power is the power state that a VM should have, or has.
type Power string

// The power states. A stopped VM keeps its cores and memory reserved; a deallocated one keeps only its disks;
// a deleted one keeps nothing.
const (
	PowerRunning     Power = "running"
	PowerStopped     Power = "stopped"
	PowerDeallocated Power = "deallocated"
	PowerDeleted     Power = "deleted"
)

// The OS disk encryption modes.
const (
	ModeDisk         = "DiskWithVMGuestState"
	ModeGuestState   = "VMGuestStateOnly"
	ModeNonPersisted = "NonPersistedTPM"
)

// VMSpec is what a VM on this host should be.
type VMSpec struct {
	VMID         string `json:"vmId"` // UUID in lower case
	ResourceID   string `json:"resourceId"`
	Name         string `json:"name"`
	ComputerName string `json:"computerName"`
	AdminUser    string `json:"adminUser,omitempty"`
	SSHKeys      []Key  `json:"sshKeys,omitempty"`

	Mode       string `json:"mode"` // encryption mode of the OS disk, one of the Mode constants
	SecureBoot bool   `json:"secureBoot"`
	TEE        string `json:"tee"` // "snp" or "tdx"
	SizeName   string `json:"sizeName"`
	VCPUs      int    `json:"vcpus"`     // what the VM gets, after any cap
	MemoryMiB  int    `json:"memoryMiB"` // what the VM gets, after any cap
	CPUModel   string `json:"cpuModel"`  // QEMU's name; enters the launch digest

	Image  Image `json:"image"`
	OSDisk Disk  `json:"osDisk"`
	NICs   []NIC `json:"nics"`

	DataDisks   []DataDisk `json:"dataDisks,omitempty"`   // as they are at the VM's next start
	TempDiskGiB int        `json:"tempDiskGiB,omitempty"` // 0: none. An empty disk at each start

	InitData        []byte `json:"initData"` // the exact bytes
	OperatorTrusted bool   `json:"operatorTrusted"`
	UserData        string `json:"userData,omitempty"` // base64 as the tenant sent it, for the metadata service

	Power        Power  `json:"power"`
	Generation   uint64 `json:"generation"`   // goes up with every change of this spec; reports repeat it
	RestartCount uint64 `json:"restartCount"` // goes up by one for each restart that was asked for
	SkipShutdown bool   `json:"skipShutdown,omitempty"`

	Subscription  string            `json:"subscription"`
	ResourceGroup string            `json:"resourceGroup"`
	Location      string            `json:"location"`
	Zone          string            `json:"zone,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
}

// Key is an SSH public key and the file it belongs in.
type Key struct {
	Path    string `json:"path"`
	KeyData string `json:"keyData"`
}

// Image names an image by the digest it had when the VM was asked for.
type Image struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Digest  string `json:"digest"`
	ID      string `json:"id,omitempty"` // resource id, for the metadata service
}

// Disk is an OS disk, or what the tenant calls a data disk.
type Disk struct {
	Name        string `json:"name"`
	ID          string `json:"id"`
	SizeGiB     int    `json:"sizeGiB"`
	StorageType string `json:"storageType,omitempty"`
	Caching     string `json:"caching,omitempty"`
}

// MaxLUN is the highest logical unit number.
const MaxLUN = 63

// DataDisk attaches a managed disk to a VM. The VM sees it as virtio-blk with the serial number cloister-lunN.
type DataDisk struct {
	LUN    int    `json:"lun"`    // 0 to MaxLUN, once in a VM
	DiskID string `json:"diskId"` // of a DiskSpec; the VM's start waits for it

	// For the metadata service.
	Disk Disk `json:"disk,omitzero"`
	Made bool `json:"made,omitempty"` // with the VM
}

// Kinds of managed disks.
const (
	KindDisk     = "disk"
	KindSnapshot = "snapshot" // read-only, of the disk named by From
)

// DiskSpec is what a managed disk on this host, or a snapshot of one, should be. It is never deleted because nobody names
// it: only by Deleted, which destroys the part that holds the keys of its encryption first, and then the blocks.
type DiskSpec struct {
	ID         string `json:"id"`       // UUID in lower case
	Resource   string `json:"resource"` // what the control plane keeps it under; reports repeat it
	Kind       string `json:"kind"`
	SizeGiB    int    `json:"sizeGiB"`        // of a disk: grows with a later generation, never shrinks
	From       string `json:"from,omitempty"` // UUID of the disk or snapshot on this host whose blocks it begins with; a disk without one reads as zeros
	Deleted    bool   `json:"deleted,omitempty"`
	Generation uint64 `json:"generation"` // goes up with every change of this spec; reports repeat it
}

// States of a managed disk.
const (
	DiskReady   = "ready"
	DiskFailed  = "failed" // Failure says why; it is tried again while that may pass
	DiskDeleted = "deleted"
)

// DiskStatus is what a managed disk is.
type DiskStatus struct {
	ID         string            `json:"id"`
	Resource   string            `json:"resource"`
	Generation uint64            `json:"generation"` // of the spec this status answers to
	State      string            `json:"state"`
	Failure    *evidence.Refusal `json:"failure,omitempty"`
}

// NIC is a network interface.
type NIC struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	MAC       string `json:"mac"`       // 12 hex digits, upper case, no separators
	PrivateIP string `json:"privateIp"` // IPv4
	Prefix    string `json:"prefix"`    // of the subnet, CIDR
	Primary   bool   `json:"primary"`
}

// Kinds of messages in the watch stream.
const (
	MessageSnapshot = "snapshot" // first on each stream: all VMs of this host; what is not in it is not wanted
	MessageVM       = "vm"       // one VM is new or changed
	MessageGone     = "gone"     // one VM's record is gone, after it was reported deleted
	MessageRequest  = "request"  // a question for one VM
	MessageDisk     = "disk"     // one managed disk: each of this host's after the snapshot, then what is new or changed. One that is not named stays as it is
	MessagePing     = "ping"     // keeps the stream alive
)

// Message is one line of the watch stream.
type Message struct {
	Kind    string   `json:"kind"`
	VMs     []VMSpec `json:"vms,omitempty"`
	VM      *VMSpec  `json:"vm,omitempty"`
	VMID    string   `json:"vmId,omitempty"`
	Request *Request `json:"request,omitempty"`

	Disk *DiskSpec `json:"disk,omitempty"`
}

// Kinds of requests.
const (
	RequestAttest   = "attest"
	RequestConsole  = "console"
	RequestMetadata = "metadata"
)

// Request is a question for a VM that travels down the watch stream. It may come more than once; the id tells.
type Request struct {
	ID    string `json:"id"`
	VMID  string `json:"vmId"`
	Kind  string `json:"kind"`
	Nonce []byte `json:"nonce,omitempty"` // attest: what the quote must answer to
	Path  string `json:"path,omitempty"`  // metadata: path and query below 169.254.169.254
}

// Answer is the agent's answer to a request: what was asked for, or the reason why it can't be had.
type Answer struct {
	Bundle   json.RawMessage   `json:"bundle,omitempty"`   // attest: the evidence bundle as the guest made it
	Console  []byte            `json:"console,omitempty"`  // console: the last bytes of the serial console
	Metadata *MetadataAnswer   `json:"metadata,omitempty"` // metadata: what the VM would see
	Failure  *evidence.Refusal `json:"failure,omitempty"`
}

// MetadataAnswer is an answer of a VM's metadata service.
type MetadataAnswer struct {
	Status      int    `json:"status"`
	ContentType string `json:"contentType"`
	Body        []byte `json:"body"`
}

// HostFacts is what a host says of itself. Nothing security-relevant follows from it.
type HostFacts struct {
	Name      string   `json:"name"`
	Launcher  string   `json:"launcher"` // "software", "snp" or "tdx"
	TEEs      []string `json:"tees"`     // what it can run: "snp", "tdx"
	CPUModel  string   `json:"cpuModel,omitempty"`
	VCPUs     int      `json:"vcpus"`     // that VMs may have
	MemoryMiB int      `json:"memoryMiB"` // that VMs may have
	Slots     int      `json:"slots"`     // encryption slots (ASIDs, key ids) that VMs may have
	Zone      string   `json:"zone,omitempty"`
	Version   string   `json:"version"`
	// Cordoned says why the host takes no new VMs, in words; empty when it does.
	Cordoned string `json:"cordoned,omitempty"`
}

// Phases of a VM on its host.
const (
	PhasePending   = "pending"   // not begun
	PhasePreparing = "preparing" // disks, NICs, paravisor
	PhaseAttesting = "attesting" // evidence, token, guest-state key
	PhaseBooting   = "booting"   // UEFI to distribution
	PhaseRunning   = "running"   // the distribution is up
	PhaseStopping  = "stopping"
	PhaseStopped   = "stopped" // stopped, deallocated or deleted: Power tells which
	PhaseFailed    = "failed"  // Failure says why
)

// VMStatus is what a VM is.
type VMStatus struct {
	VMID         string            `json:"vmId"`
	Generation   uint64            `json:"generation"` // of the spec this status answers to
	RestartCount uint64            `json:"restartCount"`
	Phase        string            `json:"phase"`
	Power        Power             `json:"power,omitempty"` // what has been reached (running: its processors run); empty while neither
	Failure      *evidence.Refusal `json:"failure,omitempty"`
	SSHEndpoint  string            `json:"sshEndpoint,omitempty"` // host:port
	Notes        []string          `json:"notes,omitempty"`       // what the tenant should read, such as caps of software mode
}

// Event is one step of a VM's journey.
type Event struct {
	VMID   string            `json:"vmId,omitempty"`
	Time   time.Time         `json:"time"`
	Step   string            `json:"step"`
	State  string            `json:"state"` // started, done, failed
	Detail map[string]string `json:"detail,omitempty"`
}

// States of a step.
const (
	StepStarted = "started"
	StepDone    = "done"
	StepFailed  = "failed"
)

// Report tells the control plane how things are. It also renews the host's lease, so it comes at least each
// ReportEvery, with or without news.
type Report struct {
	Host   HostFacts     `json:"host"`
	VMs    []VMStatus    `json:"vms"`              // all VMs on this host
	Events []Event       `json:"events,omitempty"` // since the last report that was answered
	Probes []ProbeReport `json:"probes,omitempty"` // likewise
	Disks  []DiskStatus  `json:"disks,omitempty"`  // likewise
}

// ReportEvery is the longest time between two reports; LeaseTTL is how long a host without report counts as alive.
const (
	ReportEvery = 5 * time.Second
	LeaseTTL    = 20 * time.Second
)

// IdentityRequest asks for the managed-identity token of a VM on this host.
type IdentityRequest struct {
	Audience string `json:"audience"` // such as https://vault.azure.net
}

// IdentityResponse carries it. The token alone authorises nothing that needs evidence.
type IdentityResponse struct {
	Token string `json:"token"`
}

// ErrorResponse is the body of every refusal of the agent API.
type ErrorResponse struct {
	Error evidence.Refusal `json:"error"`
}
