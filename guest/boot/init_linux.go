// Package boot is the first program of a confidential VM (process 1 in the initrd): from the kernel to the distribution.
//
// Everything it reads is the host's until shown otherwise: disks, init data, TPM answers, clock. Every failure ends in one
// line on the console and power off. There is no shell, no prompt and no parameter that changes this.
package boot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/guest/devmapper"
	"cloister.dev/cloister/guest/event"
	"cloister.dev/cloister/guest/luks2"
	"cloister.dev/cloister/guest/provision"
	"cloister.dev/cloister/guest/tpm"
)

// Where things are in the running system.
const (
	RunDir       = "/run/cloister"
	InitDataPath = RunDir + "/initdata.json"
	ProgramPath  = RunDir + "/cloister-guest"
)

const (
	newRoot    = "/new"
	deviceWait = 15 * time.Second // for disks and TPM to appear
	pollEvery  = 10 * time.Millisecond
	secureBoot = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	modeDisk   = "DiskWithVMGuestState"
)

// Main runs as process 1 and does not return: it becomes the distribution's init, or ends the machine.
func Main() {
	b := &boot{console: os.Stderr, step: "uefi"}
	defer func() { // a crash of process 1 would be a kernel panic without a reason
		if r := recover(); r != nil {
			b.fail(fmt.Errorf("defect in the guest program: %v", r))
		}
	}()
	b.fail(b.run())
}

type boot struct {
	console io.Writer
	step    string // what is under way
}

func (b *boot) report(step, state string, detail map[string]string) {
	b.step = step
	// A console that does not take a line is no reason to stop: nobody decides by it.
	_, _ = b.console.Write(event.Event{Time: time.Now().UTC(), Step: step, State: state, Detail: detail}.Line())
}

// fail says why, and powers off.
func (b *boot) fail(err error) {
	b.explain(err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not return
}

// explain writes the one line, and the event.
func (b *boot) explain(err error) {
	if err == nil {
		err = errors.New("nothing left to do")
	}
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	code := string(evidence.CodeOf(err))
	if code == "" {
		code = string(evidence.CodeBoot)
	}
	b.report(b.step, event.Failed, map[string]string{"code": code, "error": text})
	_, _ = fmt.Fprintf(b.console, "cloister: %s: %s\n", evidence.CodeBoot, strings.TrimPrefix(text, string(evidence.CodeBoot)+": "))
}

func (b *boot) run() error {
	if err := mounts(); err != nil {
		return err
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b.console = console
	for fd := range 3 { // the cpio may have no console node, and then process 1 starts without descriptors
		if err := unix.Dup2(int(console.Fd()), fd); err != nil {
			return err
		}
	}
	if err := loadModules("/lib/modules"); err != nil {
		return err
	}
	// Best effort: without these, Secure Boot reads as off and the event log as missing, which the checks then say.
	_ = unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	_ = unix.Mount("securityfs", "/sys/kernel/security", "securityfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")

	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	verity, err := verityOf(string(cmdline))
	if err != nil {
		return err
	}
	found, err := waitForDisks()
	if err != nil {
		return err
	}
	rawInit, err := readInitData(found.initData)
	if err != nil {
		return err
	}
	data, err := initdata.Parse(rawInit)
	if err != nil {
		return err
	}
	on := secureBootOn()
	if data.OSDiskEncryption == modeDisk && !on {
		return evidence.Refuse(evidence.CodeBoot, "Secure Boot", "off", "on").By("osDiskEncryption " + modeDisk)
	}
	dev, err := openTPM(rawInit)
	if err != nil {
		return err
	}
	b.report("uefi", event.Done, map[string]string{"secureBoot": strconv.FormatBool(on)})

	node, err := b.openRoot(dev, found, verity, data)
	if err != nil {
		return err
	}
	b.report("distribution", event.Started, nil)
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(node, newRoot, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mounting the OS volume: %w", err)
	}
	if err := provision.System(newRoot, *data, rand.Reader); err != nil {
		return fmt.Errorf("setting up the system: %w", err)
	}
	if err := prepareRun(rawInit); err != nil {
		return err
	}
	// From here on nothing can unseal the disk secret.
	if err := dev.Measure(tpm.PCRUKI, []byte(tpm.LeaveInitrd)); err != nil {
		return err
	}
	return switchRoot()
}

func (b *boot) openRoot(dev *tpm.Device, found disks, verity devmapper.Verity, data *initdata.InitData) (string, error) {
	size := verity.DataBlocks * devmapper.BlockSize
	if size > found.image.sectors*512 {
		return "", evidence.Refuse(evidence.CodeBoot, "image partition", fmt.Sprintf("%d bytes", found.image.sectors*512), fmt.Sprintf("at least %d", size))
	}
	room := found.root.sectors * 512
	if data.OSDiskEncryption == modeDisk {
		room -= min(room, luks2.DataOffset)
	}
	if room < size {
		return "", evidence.Refuse(evidence.CodeBoot, "OS partition", fmt.Sprintf("room for %d bytes", room), fmt.Sprintf("at least %d", size))
	}
	device, err := os.OpenFile(found.root.node, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer device.Close()
	v := volumes{tpm: dev, random: rand.Reader, device: device, report: b.report,
		mapped: func(key []byte) (string, error) {
			return devmapper.OpenCrypt(devmapper.Crypt{Name: "cloister-root", Device: found.root.node, Cipher: luks2.Cipher, Key: key,
				Offset: luks2.DataOffset / 512, Sectors: room / 4096 * 8, SectorSize: luks2.SectorSize})
		},
		copy: func(node string) error { return b.copyFrom(found, verity, node, size) },
	}
	if data.OSDiskEncryption == modeDisk {
		return v.encrypted()
	}
	return v.plain(found.root.node)
}

// copyFrom copies the image, read through its hash tree, to a device.
func (b *boot) copyFrom(found disks, verity devmapper.Verity, node string, size uint64) (err error) {
	const name = "cloister-image"
	b.report("image", event.Started, nil)
	mapped, err := devmapper.OpenVerity(name, verity, found.image.node, found.verity.node)
	if err != nil {
		return err
	}
	src, err := os.Open(mapped)
	if err != nil {
		return err
	}
	b.report("image", event.Done, map[string]string{"verity": verity.RootHash})
	b.step = "os-disk"
	dst, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	err = copyImage(dst, src, size, dst.Sync, func(percent int) {
		b.report("os-disk", event.Started, map[string]string{"percent": strconv.Itoa(percent)})
	})
	if err = errors.Join(err, dst.Close(), src.Close()); err != nil {
		return fmt.Errorf("copying the image: %w", err)
	}
	return devmapper.Remove(name)
}

func mounts() error {
	for _, m := range []struct {
		fs, at string
		flags  uintptr
		data   string
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}, // not noexec: the agent runs from here
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.at, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	return nil
}

// loadModules loads what the file "order" lists, one name a line. A module whose hardware is missing is no failure here:
// what needed it fails and says so.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close() // opened for reading
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("loading module %s: %w", name, err)
		}
	}
	return nil
}

// waitForDisks waits until both disks are there; devices appear some milliseconds after their driver.
func waitForDisks() (disks, error) {
	deadline := time.Now().Add(deviceWait)
	for {
		d, err := findDisks(os.DirFS("/sys"))
		if err == nil {
			err = nodesExist(d)
		}
		if err == nil || time.Now().After(deadline) {
			return d, err
		}
		time.Sleep(pollEvery)
	}
}

func nodesExist(d disks) error {
	for _, p := range []partition{d.initData, d.image, d.verity, d.root} {
		if _, err := os.Stat(p.node); err != nil {
			return err
		}
	}
	return nil
}

func readInitData(p partition) ([]byte, error) {
	const most = initdata.MaxSize + blockSize // the disk's size is rounded up
	if p.sectors*512 > most {
		return nil, evidence.Refuse(evidence.CodeParse, "init data disk", fmt.Sprintf("%d bytes", p.sectors*512), fmt.Sprintf("at most %d", most))
	}
	raw, err := os.ReadFile(p.node)
	if err != nil {
		return nil, fmt.Errorf("reading init data: %w", err)
	}
	return initdata.Trim(raw), nil
}

// secureBootOn reads the firmware's variable: 4 bytes of attributes, then 1.
func secureBootOn() bool {
	b, err := os.ReadFile(secureBoot)
	return err == nil && len(b) == 5 && b[4] == 1
}

// openTPM reads the HCL report, checks it, and matches the TPM with it.
func openTPM(rawInit []byte) (*tpm.Device, error) {
	deadline := time.Now().Add(deviceWait)
	for {
		if _, err := os.Stat(tpm.Path); err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(pollEvery)
	}
	t, err := tpm.Open()
	if err != nil {
		return nil, fmt.Errorf("opening the vTPM: %w", err)
	}
	report, err := tpm.ReadNV(t, tpm.NVHCLReport)
	if err != nil {
		return nil, err
	}
	keys, err := checkReport(report, rawInit)
	if err != nil {
		return nil, err
	}
	return tpm.Bind(t, keys.ek, keys.ak)
}

const agentUnit = `[Unit]
Description=Cloister guest agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=` + ProgramPath + ` agent
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
`

// prepareRun leaves in /run what the running system needs, so that the distribution on the disk stays unmodified.
func prepareRun(rawInit []byte) error {
	const units = "/run/systemd/system"
	for _, d := range []string{RunDir, units + "/multi-user.target.wants"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{{ProgramPath, self, 0o755}, {InitDataPath, rawInit, 0o644}, {units + "/cloister-agent.service", []byte(agentUnit), 0o644}} {
		if err := os.WriteFile(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	return os.Symlink("../cloister-agent.service", units+"/multi-user.target.wants/cloister-agent.service")
}

// switchRoot makes the OS volume the root and becomes its init.
func switchRoot() error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := os.MkdirAll(newRoot+d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(d, newRoot+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", d, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries { // the initrd lives in memory
		if name := "/" + e.Name(); name != newRoot {
			_ = os.RemoveAll(name) // what stays costs memory only
		}
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"})
}
