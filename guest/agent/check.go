package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// maxDrift is how far the guest's clock may be from the verifier's signed time.
const maxDrift = 2 * time.Minute

// Finding is one health check.
type Finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Health looks at a running system through its files. ready tells whether the vTPM answers and fits its report.
type Health struct {
	Root  fs.FS
	Ready func() error
}

// Check reports; it changes nothing.
func (h Health) Check() []Finding {
	return []Finding{h.swap(), h.clock(), h.secureBoot(), h.vtpm()}
}

// PlainSwap lists swap areas that are not on an encrypted device.
func (h Health) PlainSwap() ([]string, error) {
	text, err := fs.ReadFile(h.Root, "proc/swaps")
	if err != nil {
		return nil, err
	}
	var plain []string
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 2 {
			continue // heading
		}
		// A swap file lies on the OS volume or on a disk of the operator's: the guest can't tell cheaply, so it counts as plain.
		if f[1] == "partition" && h.isCrypt(path.Base(f[0])) {
			continue
		}
		plain = append(plain, f[0])
	}
	return plain, nil
}

func (h Health) isCrypt(device string) bool {
	id, err := fs.ReadFile(h.Root, "sys/block/"+device+"/dm/uuid")
	return err == nil && strings.HasPrefix(string(id), "CRYPT-")
}

func (h Health) swap() Finding {
	plain, err := h.PlainSwap()
	switch {
	case err != nil:
		return Finding{"swap", false, err.Error()}
	case len(plain) > 0:
		return Finding{"swap", false, "not encrypted: " + strings.Join(plain, " ")}
	}
	return Finding{"swap", true, "none in plain text"}
}

func (h Health) clock() Finding {
	raw, err := fs.ReadFile(h.Root, strings.TrimPrefix(ResultPath, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{"clock", false, "no signed time yet: the guest was not attested since it started"}
	}
	var r Result
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return Finding{"clock", false, err.Error()}
	}
	drift := r.Local.Sub(r.IssuedAt)
	direction := "ahead of"
	if drift < 0 {
		direction = "behind"
	}
	return Finding{"clock", drift.Abs() <= maxDrift, fmt.Sprintf("%s %s the verifier's signed time at the last attestation", drift.Abs().Round(time.Second), direction)}
}

func (h Health) secureBoot() Finding {
	b, err := fs.ReadFile(h.Root, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	switch {
	case err != nil:
		return Finding{"secure boot", false, err.Error()}
	case len(b) != 5 || b[4] != 1:
		return Finding{"secure boot", false, "off"}
	}
	return Finding{"secure boot", true, "on"}
}

func (h Health) vtpm() Finding {
	if err := h.Ready(); err != nil {
		return Finding{"vTPM", false, err.Error()}
	}
	return Finding{"vTPM", true, "answers, and its keys are those of the HCL report"}
}
