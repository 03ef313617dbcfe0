package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/process"
	"cloister.dev/cloister/internal/failpoint"
)

var afterRecord = failpoint.New("host/record")

// record is what the agent keeps of a VM on disk. It is enough to find its processes again and to know what was
// reached; what should be comes from the control plane.
type record struct {
	Spec         api.VMSpec        `json:"spec"`
	Slot         int               `json:"slot"`         // which pair of user ids
	RestartCount uint64            `json:"restartCount"` // the last restart that was carried out
	Session      *sessionRecord    `json:"session,omitempty"`
	Halt         *halt             `json:"halt,omitempty"`
	Failure      *evidence.Refusal `json:"failure,omitempty"`
}

// sessionRecord is one run of a VM, from launch to end.
type sessionRecord struct {
	Launch        string         `json:"launch"` // the launcher's handle
	Paravisor     process.Handle `json:"paravisor"`
	QEMU          process.Handle `json:"qemu"`
	SSHPort       int            `json:"sshPort"`
	ConsoleOffset int64          `json:"consoleOffset"` // bytes of the console already read
	Up            bool           `json:"up"`            // the distribution has come up
	// What the guest said, newest last, at most maxTold: written before it is told, and told again by an agent that
	// takes over. The control plane drops what it has already.
	Told   []api.Event       `json:"told,omitempty"`
	GaveUp *evidence.Refusal `json:"gaveUp,omitempty"` // why the boot can't go on
	Notes  []string          `json:"notes,omitempty"`
}

// maxTold bounds what is kept of a chatty guest.
const maxTold = 64

// halt keeps a VM from being started again by itself: it failed, or its guest shut it down. A new generation of
// the spec, or a restart, lifts it.
type halt struct {
	Generation   uint64 `json:"generation"`
	RestartCount uint64 `json:"restartCount"`
}

func (h *halt) holds(s api.VMSpec) bool {
	return h != nil && h.Generation == s.Generation && h.RestartCount == s.RestartCount
}

// save writes the record so that a crash leaves the old or the new one.
func (r *record) save(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "vm.json"), raw); err != nil {
		return fmt.Errorf("VM record: %w", err)
	}
	afterRecord.Hit()
	return nil
}

// loadRecord reads a VM's record; nil when there is none.
func loadRecord(dir string) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "vm.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("VM record: %w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("VM record in %s: %w", dir, err)
	}
	return &r, nil
}
