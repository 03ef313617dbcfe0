// Package software launches VMs under software emulation, with evidence of the software root. It protects from
// nothing on its own host, and says so in the notes of every VM.
package software

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/launcher"
	"cloister.dev/cloister/softchip/client"
)

// Policy is the guest policy of a launch: SMT allowed, bit 17 as the specification demands, nothing else; no debug
// and no migration. Source: SEV-SNP firmware ABI, guest policy.
const Policy = 1<<16 | 1<<17

// maxFirmware bounds the firmware file, in bytes.
const maxFirmware = 64 << 20

// Launcher is the software launcher.
type Launcher struct {
	Firmware string // path of the firmware image
	Socket   string // of the software chip
	Accel    string // "tcg" unless the installation says otherwise
}

var _ launcher.Launcher = (*Launcher)(nil)

// Name is "software".
func (*Launcher) Name() string { return "software" }

// TEEs are those whose evidence the software chip makes.
func (*Launcher) TEEs() []string { return []string{"snp"} }

// Launch copies the firmware into sealed memory, so that what is measured and what runs can't differ, and has the
// software chip measure it.
func (l *Launcher) Launch(ctx context.Context, s api.VMSpec) (*launcher.Launched, error) {
	fw, err := sealed("cloister-firmware", l.Firmware)
	if err != nil {
		return nil, err
	}
	handle, err := client.Dial(l.Socket).Launch(ctx, client.Launch{
		Firmware: fw, VCPUs: s.VCPUs, CPUModel: s.CPUModel, Policy: Policy, HostData: initdata.SNPHostData(s.InitData),
	})
	if err != nil {
		fw.Close()
		return nil, fmt.Errorf("software chip: %w", err)
	}
	return &launcher.Launched{Firmware: fw, Handle: handle, Socket: l.Socket, Accel: l.Accel, Notes: []string{
		"Software mode: evidence is signed by this installation's software root; nothing protects the VM from its own host.",
	}}, nil
}

// Probe has the chip measure the firmware alone, with one processor and no host data, and report on that.
func (l *Launcher) Probe(ctx context.Context, tee string, reportData [64]byte) (report, chainPEM []byte, err error) {
	if !slices.Contains(l.TEEs(), tee) {
		return nil, nil, evidence.Refuse(evidence.CodeUnsupported, "probe", tee, strings.Join(l.TEEs(), ", "))
	}
	fw, err := sealed("cloister-firmware", l.Firmware)
	if err != nil {
		return nil, nil, err
	}
	defer fw.Close()
	chip := client.Dial(l.Socket)
	handle, err := chip.Launch(ctx, client.Launch{Firmware: fw, VCPUs: 1, CPUModel: probeModel, Policy: Policy})
	if err != nil {
		return nil, nil, fmt.Errorf("software chip: %w", err)
	}
	// Also after the caller gave up: the chip keeps launches until it is told.
	defer func() { err = errors.Join(err, chip.Destroy(context.WithoutCancel(ctx), handle)) }()
	return chip.Report(ctx, handle, reportData)
}

// probeModel is the processor of a probe. It enters the launch digest, which nobody looks at.
const probeModel = "EPYC"

// Destroy forgets a launch.
func (l *Launcher) Destroy(ctx context.Context, handle string) error {
	return client.Dial(l.Socket).Destroy(ctx, handle)
}

// sealed copies a file into anonymous memory that nobody can change any more.
func sealed(name, path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	defer src.Close()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("firmware: %w", err)
	}
	mem := os.NewFile(uintptr(fd), name)
	n, err := io.Copy(mem, io.LimitReader(src, maxFirmware+1))
	if err == nil && n > maxFirmware {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFirmware)
	}
	if err == nil {
		_, err = unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err == nil {
		// Each use opens the memory anew and read-only: descriptors share no offset then.
		var ro *os.File
		if ro, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			mem.Close()
			return ro, nil
		}
	}
	mem.Close()
	return nil, fmt.Errorf("firmware: %w", err)
}
