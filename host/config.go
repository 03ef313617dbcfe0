// Package host is the agent on a server: it keeps the VMs there as the control plane wants them.
//
// It starts processes that outlive it, finds them again after its own restart, and believes nothing that
// a VM or the control plane says beyond what it needs to act. Neither believes the agent: what a VM gets
// from here (metadata, disks, identity token) is input to the VM's trusted parts.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cloister.dev/cloister/host/launcher"
)

// Config is the agent's configuration file.
type Config struct {
	Name          string `json:"name"`          // of this host, unique in the installation
	Zone          string `json:"zone"`          // availability zone, may be empty
	ControlPlane  string `json:"controlPlane"`  // URL of the agent API
	CAFile        string `json:"caFile"`        // PEM; who may answer there
	JoinTokenFile string `json:"joinTokenFile"` // one-time token, needed once

	StateDir  string `json:"stateDir"`  // disks and guest state
	RunDir    string `json:"runDir"`    // sockets; every VM's user must be able to reach it
	ImagesDir string `json:"imagesDir"` // images by name

	QEMU      string `json:"qemu"`      // path of qemu-system-x86_64
	Paravisor string `json:"paravisor"` // path of cloister-paravisor
	Forward   string `json:"forward"`   // path of cloister-forward

	Software *SoftwareConfig `json:"software"` // the software launcher

	Attest string `json:"attest"` // host:port that VMs reach as 169.254.169.252:443
	Keys   string `json:"keys"`   // host:port that VMs reach as 169.254.169.253:443

	VCPUs     int    `json:"vcpus"`     // that VMs may have
	MemoryMiB int    `json:"memoryMiB"` // that VMs may have
	Slots     int    `json:"slots"`     // encryption slots that VMs may have
	UIDBase   uint32 `json:"uidBase"`   // first of the user ids for VMs, two each; used only by an agent that runs as root

	BootMinutes int    `json:"bootMinutes"` // how long a VM may take until its distribution is up
	Metrics     string `json:"metrics"`     // listen address of /metrics and /healthz
}

// SoftwareConfig configures the software launcher.
type SoftwareConfig struct {
	Firmware string `json:"firmware"` // UEFI with Secure Boot, code part
	Socket   string `json:"socket"`   // of the software chip
	Accel    string `json:"accel"`    // "tcg"; "kvm" only where it was seen to work
}

// maxRunDir leaves room for the longest socket name in a Unix socket's path, which ends at 108 bytes.
const maxRunDir = 64

// Validate reports every mistake.
func (c Config) Validate() error {
	var errs []error
	need := func(name, value string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s: is empty", name))
		}
	}
	for name, value := range map[string]string{"name": c.Name, "controlPlane": c.ControlPlane, "caFile": c.CAFile, "stateDir": c.StateDir, "runDir": c.RunDir,
		"imagesDir": c.ImagesDir, "attest": c.Attest, "keys": c.Keys} {
		need(name, value)
	}
	for name, value := range map[string]string{"qemu": c.QEMU, "paravisor": c.Paravisor, "forward": c.Forward} {
		need(name, value)
		if value == "" {
			continue
		}
		if info, err := os.Stat(value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		} else if info.Mode()&0o111 == 0 {
			errs = append(errs, fmt.Errorf("%s: %s is not executable", name, value))
		}
	}
	if len(c.RunDir) > maxRunDir || !filepath.IsAbs(c.RunDir) {
		errs = append(errs, fmt.Errorf("runDir: %q must be absolute and at most %d bytes long, since sockets live in it", c.RunDir, maxRunDir))
	}
	if c.VCPUs < 1 || c.MemoryMiB < 512 || c.Slots < 1 || c.BootMinutes < 1 {
		errs = append(errs, fmt.Errorf("capacity: vcpus %d, memoryMiB %d, slots %d, bootMinutes %d: each must be positive, memory at least 512", c.VCPUs, c.MemoryMiB, c.Slots, c.BootMinutes))
	}
	switch {
	case c.Software == nil:
		errs = append(errs, errors.New("software: no launcher is configured"))
	case c.Software.Accel != "tcg" && c.Software.Accel != "kvm":
		errs = append(errs, fmt.Errorf("software.accel: %q must be tcg or kvm", c.Software.Accel))
	default:
		need("software.socket", c.Software.Socket)
		if _, err := os.Stat(c.Software.Firmware); err != nil {
			errs = append(errs, fmt.Errorf("software.firmware: %w", err))
		}
	}
	if os.Geteuid() == 0 && c.UIDBase < 1000 {
		errs = append(errs, fmt.Errorf("uidBase: %d must be at least 1000, so that VMs share no user with the system", c.UIDBase))
	}
	return errors.Join(errs...)
}

// Deps are the parts of an agent that tests replace.
type Deps struct {
	Launcher launcher.Launcher
	Control  ControlPlane
	Log      *slog.Logger
	Now      func() time.Time
}
