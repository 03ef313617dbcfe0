// Package qemu knows QEMU: its arguments, its machine protocol, and what its serial console says.
package qemu

import (
	"fmt"
	"strconv"
	"strings"
)

// Machine is a VM as QEMU is told of it. Paths and descriptors are as the QEMU process sees them.
type Machine struct {
	Name      string
	UUID      string
	VCPUs     int
	MemoryMiB int
	CPUModel  string
	Accel     string // "tcg"

	FirmwareFD int // read-only, sealed memory
	OSDiskFD   int // read-write
	OSDiskROFD int // the same, read-only: QEMU opens it that way first
	InitDataFD int // read-only
	SerialFD   int // write, append
	DataDisks  []DataDisk
	VarsSocket string // NBD: UEFI variables
	TPMSocket  string // control channel of the vTPM
	QMPSocket  string

	MAC      string // aa:bb:cc:dd:ee:ff
	Forward  string // program that joins its standard streams to a Unix socket
	Metadata string // Unix sockets behind the three link-local addresses
	Attest   string
	Keys     string
	SSHPort  int // on 127.0.0.1
}

// DataDisk is a disk beside the OS disk.
type DataDisk struct {
	Serial string // what the guest knows it by; at most 20 bytes
	FD     int    // read-write
	ROFD   int    // the same, read-only
}

// maxSerial is virtio-blk's limit, in bytes.
const maxSerial = 20

// The addresses on the VM's link-local network. Only these answer; everything else is cut off.
const (
	GuestAddress    = "169.254.169.15"
	MetadataAddress = "169.254.169.254"
	AttestAddress   = "169.254.169.252"
	KeysAddress     = "169.254.169.253"
)

// Args lists QEMU's arguments. There is no display, no monitor and no default device; the machine protocol
// is on a private socket; the sandbox takes away what an escaped guest would want first.
func Args(m Machine) ([]string, error) {
	for what, path := range map[string]string{"vars": m.VarsSocket, "tpm": m.TPMSocket, "qmp": m.QMPSocket,
		"forward": m.Forward, "metadata": m.Metadata, "attest": m.Attest, "keys": m.Keys} {
		// QEMU splits options at commas and the guest-forward command at blanks.
		if path == "" || strings.ContainsAny(path, ", \t\n\"'\\?&#%") {
			return nil, fmt.Errorf("%s path %q: must not be empty or contain blanks, commas, quotes or URL signs", what, path)
		}
	}
	if m.VCPUs < 1 || m.MemoryMiB < 128 || m.CPUModel == "" || m.SSHPort < 1 {
		return nil, fmt.Errorf("machine %s: %d vCPUs, %d MiB, CPU %q, SSH port %d", m.Name, m.VCPUs, m.MemoryMiB, m.CPUModel, m.SSHPort)
	}
	fdset := func(n int) string { return "/dev/fdset/" + strconv.Itoa(n) }
	args := []string{
		"-name", "cloister-" + m.UUID, "-uuid", m.UUID,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// elevateprivileges would also forbid the setsid with which QEMU's network starts cloister-forward. What it
		// guards is shut anyway: QEMU runs as the VM's own user, and the filter comes with no_new_privs.
		"-sandbox", "on,obsolete=deny,resourcecontrol=deny",
		"-machine", "q35,smm=on,vmport=off", "-accel", m.Accel, "-cpu", m.CPUModel,
		"-smp", strconv.Itoa(m.VCPUs), "-m", strconv.Itoa(m.MemoryMiB),
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
	}
	sets := [][]int{{m.FirmwareFD}, {m.OSDiskFD, m.OSDiskROFD}, {m.InitDataFD}, {m.SerialFD}}
	var disks []string
	serials := map[string]bool{}
	for i, d := range m.DataDisks {
		if d.Serial == "" || len(d.Serial) > maxSerial || strings.ContainsAny(d.Serial, ", =") || serials[d.Serial] {
			return nil, fmt.Errorf("machine %s: serial %q of a data disk is empty, longer than %d bytes, odd or there twice", m.Name, d.Serial, maxSerial)
		}
		serials[d.Serial] = true
		id := "data" + strconv.Itoa(i)
		disks = append(disks, "-drive", "if=none,id="+id+",format=raw,cache=writeback,discard=unmap,file="+fdset(len(sets)),
			"-device", "virtio-blk-pci,drive="+id+",serial="+d.Serial)
		sets = append(sets, []int{d.FD, d.ROFD})
	}
	for set, fds := range sets {
		for _, fd := range fds {
			args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set))
		}
	}
	forward := func(address string, port int, socket string) string {
		return fmt.Sprintf("guestfwd=tcp:%s:%d-cmd:%s %s", address, port, m.Forward, socket)
	}
	return append(append(args,
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+fdset(0),
		"-drive", "if=pflash,format=raw,unit=1,file=nbd+unix:///?socket="+m.VarsSocket,
		"-drive", "if=none,id=os,format=raw,cache=writeback,discard=unmap,file="+fdset(1),
		"-device", "virtio-blk-pci,drive=os,bootindex=1,serial=cloister-os",
		"-drive", "if=none,id=init,format=raw,readonly=on,file="+fdset(2),
		"-device", "virtio-blk-pci,drive=init,serial=cloister-init",
		"-chardev", "file,id=serial0,append=on,path="+fdset(3), "-serial", "chardev:serial0",
		"-chardev", "socket,id=tpm0,path="+m.TPMSocket, "-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0",
		"-netdev", strings.Join([]string{"user,id=n0,restrict=on,ipv6=off,net=169.254.169.0/24,host=169.254.169.1,dns=169.254.169.3,dhcpstart=" + GuestAddress,
			forward(MetadataAddress, 80, m.Metadata), forward(AttestAddress, 443, m.Attest), forward(KeysAddress, 443, m.Keys),
			fmt.Sprintf("hostfwd=tcp:127.0.0.1:%d-%s:22", m.SSHPort, GuestAddress)}, ","),
		"-device", "virtio-net-pci,netdev=n0,romfile=,mac="+m.MAC,
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
		"-qmp", "unix:"+m.QMPSocket+",server=on,wait=off",
	), disks...), nil
}
