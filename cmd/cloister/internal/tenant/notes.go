package tenant

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"cloister.dev/cloister/evidence"
)

// note is what the tenant keeps of a VM it asked for: what its evidence is judged by comes from here, never from what
// the operator answers.
type note struct {
	VMID     string `json:"vmId"`
	Size     string `json:"size"`
	Image    string `json:"image"`
	Digest   string `json:"imageDigest"`
	InitData []byte `json:"initData"`
	Mode     string `json:"osDiskEncryption"`
	// KeyService is the file of the key keeper that has the guest-state key; empty: the installation's.
	KeyService string `json:"keyService,omitempty"`
}

func (t *Tenant) notePath(vm string) string {
	return filepath.Join(t.Notes, t.Group, vm+".json")
}

// remember keeps a note before the VM is asked for.
func (t *Tenant) remember(p *Prepared) error {
	raw, err := json.MarshalIndent(note{VMID: p.VMID, Size: p.Request.Size, Image: p.Request.Image, Digest: p.Expected.Image.Digest, InitData: p.InitData,
		Mode: p.Request.Encryption, KeyService: p.Request.KeyService}, "", "  ")
	if err != nil {
		return err
	}
	path := t.notePath(p.Request.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

func (t *Tenant) note(vm string) (*note, error) {
	raw, err := os.ReadFile(t.notePath(vm))
	if errors.Is(err, os.ErrNotExist) {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "expectations of VM "+vm, "no note of it here", "a VM that was created from this machine")
	}
	if err != nil {
		return nil, err
	}
	var n note
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, fmt.Errorf("%s: %w", t.notePath(vm), err)
	}
	return &n, nil
}

// InitData are the exact bytes that a VM was asked for with.
func (t *Tenant) InitData(vm string) ([]byte, error) {
	n, err := t.note(vm)
	if err != nil {
		return nil, err
	}
	return n.InitData, nil
}

// Recall computes again what a VM's evidence must say, from the tenant's own note and files.
func (t *Tenant) Recall(vm string) (*Expected, string, error) {
	n, err := t.note(vm)
	if err != nil {
		return nil, "", err
	}
	e, err := Expect(t.Conn.Trust, n.Size, n.Image, n.InitData)
	if err != nil {
		return nil, "", err
	}
	if e.Image.Digest != n.Digest {
		return nil, "", evidence.Refuse(evidence.CodeMeasurement, "image "+n.Image, e.Image.Digest, n.Digest+", which the VM was created from")
	}
	return e, n.VMID, nil
}

// forget drops the note of a deleted VM.
func (t *Tenant) forget(vm string) error {
	if err := os.Remove(t.notePath(vm)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
