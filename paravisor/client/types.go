// Package client is what a host agent needs to run and ask a paravisor: its configuration, its control
// interface's types, and an HTTP client on its unix socket.
package client

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
)

// Modes: what guest state protects. They are Azure's names of OS disk security types.
const (
	ModeDiskWithVMGuestState = "DiskWithVMGuestState"
	ModeVMGuestStateOnly     = "VMGuestStateOnly"
	ModeNonPersistedTPM      = "NonPersistedTPM"
)

// Names of the sockets in Config.RunDir.
const (
	ControlSocket = "control.sock" // this package's HTTP interface, /metrics and /healthz
	TPMSocket     = "tpm.sock"     // swtpm's control protocol, for QEMU's tpmdev emulator
	VarsSocket    = "vars.sock"    // NBD, for QEMU's pflash unit 1
)

// maxRunDir bounds RunDir, in bytes: a socket address holds a path of 107.
const maxRunDir = 107 - 1 - len(ControlSocket)

// Config starts a paravisor: `cloister-paravisor run --config FILE`, JSON, unknown members refused.
// It comes from the host, so nothing in it is believed beyond what the host may decide anyway; VMID
// and Mode must be those of the init data.
type Config struct {
	VMID           string `json:"vmId"` // UUID in lower case
	Mode           string `json:"mode"`
	RunDir         string `json:"runDir"`         // sockets; owner and group only
	GuestStateFile string `json:"guestStateFile"` // sealed; made at generation 0. Unused with NonPersistedTPM
	InitDataFile   string `json:"initDataFile"`   // exact bytes, trailing zeros are cut
	FirmwareVars   string `json:"firmwareVars"`   // the image's variable store; read at generation 0 only
	ScratchDir     string `json:"scratchDir"`     // on tmpfs
	SoftchipSocket string `json:"softchipSocket"`
	SoftchipHandle string `json:"softchipHandle"`
	SecureBoot     bool   `json:"secureBoot"`
	SwtpmProgram   string `json:"swtpmProgram,omitempty"` // default: swtpm from PATH
	SwtpmLog       string `json:"swtpmLog,omitempty"`     // default: in ScratchDir, removed at the end

	// Connect maps "host:port" of a service's URL to the address to dial instead ("127.0.0.1:8443"),
	// where names don't resolve. TLS still checks the URL's name against the init data's CA.
	Connect map[string]string `json:"connect,omitempty"`
}

// Validate reports all mistakes at once.
func (c Config) Validate() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	_, err := ParseVMID(c.VMID)
	need(err == nil, "vmId %q: want a UUID in lower case", c.VMID)
	persisted := c.Mode != ModeNonPersistedTPM
	need(c.Mode == ModeDiskWithVMGuestState || c.Mode == ModeVMGuestStateOnly || !persisted, "mode %q: want %s, %s or %s", c.Mode, ModeDiskWithVMGuestState, ModeVMGuestStateOnly, ModeNonPersistedTPM)
	for _, p := range []struct {
		name, path string
		needed     bool
	}{
		{"runDir", c.RunDir, true}, {"guestStateFile", c.GuestStateFile, persisted}, {"initDataFile", c.InitDataFile, true},
		{"firmwareVars", c.FirmwareVars, true}, {"scratchDir", c.ScratchDir, true}, {"softchipSocket", c.SoftchipSocket, true},
	} {
		need(filepath.IsAbs(p.path) || (p.path == "" && !p.needed), "%s %q: want an absolute path", p.name, p.path)
	}
	need(len(c.RunDir) <= maxRunDir, "runDir: %d bytes, want at most %d: the sockets' paths must fit a socket address", len(c.RunDir), maxRunDir)
	need(c.SoftchipHandle != "", "softchipHandle: want the handle of the launch")
	need(!strings.ContainsAny(c.ScratchDir, ","), "scratchDir %q: has a comma, which swtpm's options can't carry", c.ScratchDir)
	need(!strings.ContainsAny(c.SwtpmLog, ","), "swtpmLog %q: has a comma, which swtpm's options can't carry", c.SwtpmLog)
	return errors.Join(errs...)
}

// ParseVMID reads a UUID in lower case.
func ParseVMID(s string) (id [16]byte, err error) {
	plain := strings.ReplaceAll(s, "-", "")
	if len(s) != 36 || len(plain) != 32 || s != strings.ToLower(s) || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, evidence.Refuse(evidence.CodeParse, "VM id", fmt.Sprintf("%.40q", s), "a UUID in lower case")
	}
	if _, err := hex.Decode(id[:], []byte(plain)); err != nil {
		return id, evidence.Refuse(evidence.CodeParse, "VM id", fmt.Sprintf("%.40q", s), "a UUID in lower case")
	}
	return id, nil
}

// Phase is where a paravisor is.
type Phase string

// The phases, in order. Only in PhaseReady are the sockets for QEMU there.
const (
	PhaseWaitingIdentity Phase = "waiting-identity"
	PhaseAttesting       Phase = "attesting"
	PhaseReleasing       Phase = "releasing"
	PhaseOpening         Phase = "opening"
	PhaseReady           Phase = "ready"
	PhaseFailed          Phase = "failed"
	PhaseStopped         Phase = "stopped"
)

// Status is the answer to GET /v1/status.
type Status struct {
	Phase           Phase             `json:"phase"`
	Generation      uint64            `json:"generation"`      // of the guest state; 0 where there is none
	OperatorTrusted bool              `json:"operatorTrusted"` // the key keeper says that the operator wrote the key's policy
	Failure         *evidence.Refusal `json:"failure,omitempty"`
	Events          []Event           `json:"events"`
}

// Event is one step of the VM's journey.
type Event struct {
	Time   time.Time         `json:"time"`
	Step   string            `json:"step"`  // evidence, token, guest-state-key, vtpm or uefi
	State  string            `json:"state"` // started, done or failed
	Detail map[string]string `json:"detail,omitempty"`
}

// The states of an event.
const (
	StateStarted = "started"
	StateDone    = "done"
	StateFailed  = "failed"
)

// Identity is the body of PUT /v1/identity: the VM's managed-identity token.
type Identity struct {
	Token string `json:"token"`
}

// Evidence is the answer to GET /v1/evidence.
type Evidence struct {
	HCLReport     []byte `json:"hclReport"`
	ChainPEM      []byte `json:"chainPEM"`
	AKCertificate []byte `json:"akCertificate"` // DER
}
