package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/launcher"
	"cloister.dev/cloister/host/process"
	"cloister.dev/cloister/host/qemu"
	"cloister.dev/cloister/image"
	imagedisk "cloister.dev/cloister/image/disk"
	"cloister.dev/cloister/internal/localhost"
	paravisor "cloister.dev/cloister/paravisor/client"
)

// vaultAudience is whom the VM's identity token is for: the key keeper.
const vaultAudience = "https://vault.azure.net"

// start runs the VM: disks, launch, paravisor; and only when that has its evidence accepted, QEMU.
func (m *machine) start(ctx context.Context, spec api.VMSpec) error {
	l := m.layout()
	if err := l.make(); err != nil {
		return err
	}
	m.mu.Lock()
	m.rec.Session = &sessionRecord{}
	m.mu.Unlock()
	if err := m.save(); err != nil {
		return err
	}
	img, err := m.disks(ctx, spec, l)
	if err != nil {
		return err
	}
	data, err := m.dataDisks(ctx, spec, l)
	if err != nil {
		return err
	}
	defer data.close() // QEMU has its own by then, and with them the locks
	launched, err := m.agent.deps.Launcher.Launch(ctx, spec)
	if err != nil {
		return fmt.Errorf("launch: %w", err)
	}
	defer launched.Firmware.Close()
	if err := m.update(func(r *sessionRecord) { r.Launch, r.Notes = launched.Handle, launched.Notes }); err != nil {
		return err
	}
	if err := m.startParavisor(ctx, spec, l, img, launched); err != nil {
		return err
	}
	if err := m.startQEMU(spec, l, launched, data); err != nil {
		return err
	}
	return m.attach(ctx)
}

// update changes the session's record and writes it.
func (m *machine) update(change func(*sessionRecord)) error {
	m.mu.Lock()
	change(m.rec.Session)
	m.mu.Unlock()
	return m.save()
}

// disks lays out what QEMU is given. The image must still be the one that was asked for.
func (m *machine) disks(ctx context.Context, spec api.VMSpec, l layout) (*image.Manifest, error) {
	name := spec.Image.Name
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, evidence.Refuse(evidence.CodeParse, "image name", name, "a plain name")
	}
	img, err := image.Load(filepath.Join(m.agent.cfg.ImagesDir, name))
	if err != nil {
		return nil, unavailable("image "+name, err.Error(), "an image on this host")
	}
	if img.Digest != spec.Image.Digest {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "image "+name, img.Digest, spec.Image.Digest)
	}
	if err := disk.FromImage(ctx, img.Path(image.KindDisk), l.osDisk(), int64(spec.OSDisk.SizeGiB)<<30, imagedisk.Grow); err != nil {
		return nil, fmt.Errorf("OS disk: %w", err)
	}
	if err := disk.InitData(l.initDisk(), spec.InitData); err != nil {
		return nil, fmt.Errorf("init data: %w", err)
	}
	return img, nil
}

// startParavisor starts the VM's trusted part and waits until its evidence was accepted and its vTPM runs.
func (m *machine) startParavisor(ctx context.Context, spec api.VMSpec, l layout, img *image.Manifest, launched *launcher.Launched) error {
	dir := l.paravisorDir()
	vars, err := os.ReadFile(img.Path(image.KindVars))
	if err != nil {
		return unavailable("image "+spec.Image.Name, err.Error(), "its UEFI variables")
	}
	cfg, err := json.Marshal(paravisor.Config{
		VMID: spec.VMID, Mode: spec.Mode, RunDir: dir, ScratchDir: l.shm, SecureBoot: spec.SecureBoot,
		GuestStateFile: "/proc/self/fd/4/guest.state", InitDataFile: filepath.Join(dir, "initdata.json"), FirmwareVars: filepath.Join(dir, "vars.fd"),
		SoftchipSocket: launched.Socket, SoftchipHandle: launched.Handle, Connect: loopback(spec.InitData),
	})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"config.json": cfg, "initdata.json": spec.InitData, "vars.fd": vars} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if err := l.own(path, l.paravisorUID, l.gid); err != nil {
			return err
		}
	}
	program, err := os.Open(m.agent.cfg.Paravisor)
	if err != nil {
		return err
	}
	defer program.Close()
	guest, err := os.Open(l.guest)
	if err != nil {
		return err
	}
	defer guest.Close()
	h, err := process.Start(process.Spec{
		// The program and the guest state's folder come as open files: the VM's user need not reach their paths.
		Path: "/proc/self/fd/3", Name: "cloister-paravisor", Args: []string{"run", "--config", filepath.Join(dir, "config.json")},
		Dir: "/", Log: filepath.Join(l.state, "paravisor.log"), Files: []*os.File{program, guest}, UID: l.paravisorUID, GID: l.gid,
	})
	if err != nil {
		return err
	}
	if err := m.update(func(r *sessionRecord) { r.Paravisor = h }); err != nil {
		return err
	}
	return m.awaitParavisor(ctx, h, paravisor.Dial(filepath.Join(dir, "control.sock")))
}

// loopback says where the services are that init data name under localhost, for resolvers that don't know. TLS still
// checks the name.
func loopback(initData []byte) map[string]string {
	d, err := initdata.Parse(initData)
	if err != nil {
		return nil // the paravisor refuses such init data with the reason
	}
	connect := map[string]string{}
	for _, s := range []initdata.Service{d.Attest, d.Keys} {
		if u, err := url.Parse(s.URL); err == nil && u.Port() != "" && localhost.Is(u.Hostname()) {
			connect[u.Host] = net.JoinHostPort("127.0.0.1", u.Port())
		}
	}
	return connect
}

// awaitParavisor hands over the VM's identity and relays the paravisor's steps until it is ready or has refused.
func (m *machine) awaitParavisor(ctx context.Context, h process.Handle, control *paravisor.Client) error {
	m.set(api.PhaseAttesting, "")
	told, given := 0, false
	for {
		if !h.Alive() {
			return unavailable("paravisor", "it ended", "a running paravisor; see paravisor.log in the VM's folder")
		}
		st, err := control.Status(ctx)
		if err != nil { // not listening yet
			if !sleep(ctx, 20*time.Millisecond) {
				return ctx.Err()
			}
			continue
		}
		for ; told < len(st.Events); told++ {
			e := st.Events[told]
			m.agent.tellEvent(api.Event{VMID: m.id, Time: e.Time, Step: e.Step, State: e.State, Detail: e.Detail})
		}
		switch {
		case st.Phase == paravisor.PhaseReady:
			return nil
		case st.Phase == paravisor.PhaseFailed || st.Phase == paravisor.PhaseStopped:
			if st.Failure != nil {
				return st.Failure
			}
			return unavailable("paravisor", string(st.Phase), "ready")
		case st.Phase == paravisor.PhaseWaitingIdentity && !given:
			token, err := m.agent.deps.Control.Identity(ctx, m.id, vaultAudience)
			if err != nil {
				return unavailable("identity token", err.Error(), "the VM's managed identity")
			}
			if err := control.PutIdentity(ctx, token); err != nil {
				return fmt.Errorf("paravisor: %w", err)
			}
			given = true
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// firstDataFD is QEMU's descriptor of the first data disk, after those that every VM has.
const firstDataFD = 8

// startQEMU runs the VM with the firmware that was measured.
func (m *machine) startQEMU(spec api.VMSpec, l layout, launched *launcher.Launched, data dataDisks) error {
	m.agent.tell(m.id, "uefi", api.StepStarted, nil)
	osDisk, err := os.OpenFile(l.osDisk(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer osDisk.Close()
	osDiskRO, err := os.Open(l.osDisk())
	if err != nil {
		return err
	}
	defer osDiskRO.Close()
	initDisk, err := os.Open(l.initDisk())
	if err != nil {
		return err
	}
	defer initDisk.Close()
	console, err := os.OpenFile(l.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	info, err := console.Stat()
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	args, err := qemu.Args(qemu.Machine{
		Name: spec.Name, UUID: spec.VMID, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB, CPUModel: spec.CPUModel, Accel: launched.Accel,
		FirmwareFD: 3, OSDiskFD: 4, InitDataFD: 5, SerialFD: 6, OSDiskROFD: 7, DataDisks: data.qemu(firstDataFD),
		VarsSocket: l.paravisorDir() + "/vars.sock", TPMSocket: l.paravisorDir() + "/tpm.sock", QMPSocket: l.qemuDir() + "/qmp.sock",
		MAC: mac(spec), Forward: m.agent.forward, Metadata: l.networkDir() + "/metadata.sock", Attest: l.networkDir() + "/attest.sock", Keys: l.networkDir() + "/keys.sock", SSHPort: port,
	})
	if err != nil {
		return err
	}
	h, err := process.Start(process.Spec{Path: m.agent.cfg.QEMU, Name: "qemu-system-x86_64", Args: args, Dir: "/", Log: filepath.Join(l.state, "qemu.log"),
		Files: append([]*os.File{launched.Firmware, osDisk, initDisk, console, osDiskRO}, data.files...), UID: l.qemuUID, GID: l.gid})
	if err != nil {
		return err
	}
	return m.update(func(r *sessionRecord) {
		r.QEMU, r.SSHPort, r.ConsoleOffset = h, port, info.Size()
	})
}

// mac gives the first NIC's address in QEMU's form.
func mac(s api.VMSpec) string {
	for _, n := range s.NICs {
		if len(n.MAC) == 12 {
			raw := strings.ToLower(n.MAC)
			return strings.Join([]string{raw[0:2], raw[2:4], raw[4:6], raw[6:8], raw[8:10], raw[10:12]}, ":")
		}
	}
	return "52:54:00:00:00:01"
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("a TCP listener has no TCP address")
	}
	return addr.Port, nil
}

// readTail reads the last bytes of a file.
func readTail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(max(0, size-most), io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
