package qemu

import (
	"strings"
	"testing"
)

func machine() Machine {
	return Machine{Name: "web", UUID: "0e4a1b7c-0000-4000-8000-000000000001", VCPUs: 2, MemoryMiB: 768, CPUModel: "EPYC", Accel: "tcg",
		FirmwareFD: 3, OSDiskFD: 4, InitDataFD: 5, SerialFD: 6, OSDiskROFD: 7, VarsSocket: "/run/c/pv/vars.sock", TPMSocket: "/run/c/pv/tpm.sock", QMPSocket: "/run/c/qemu/qmp.sock",
		MAC: "52:54:00:00:00:01", Forward: "/opt/cloister-forward", Metadata: "/run/c/net/metadata.sock", Attest: "/run/c/net/attest.sock", Keys: "/run/c/net/keys.sock", SSHPort: 2222}
}

func TestArgs(t *testing.T) {
	args, err := Args(machine())
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{
		"-nodefaults -no-user-config -display none -no-reboot", "-sandbox on,obsolete=deny,resourcecontrol=deny", "-machine q35,smm=on,vmport=off -accel tcg -cpu EPYC -smp 2 -m 768",
		"driver=cfi.pflash01,property=secure,value=on", "-add-fd fd=3,set=0 -add-fd fd=4,set=1 -add-fd fd=7,set=1 -add-fd fd=5,set=2 -add-fd fd=6,set=3",
		"if=pflash,format=raw,unit=0,readonly=on,file=/dev/fdset/0", "unit=1,file=nbd+unix:///?socket=/run/c/pv/vars.sock", "serial=cloister-init", "cache=writeback",
		"restrict=on", "guestfwd=tcp:169.254.169.254:80-cmd:/opt/cloister-forward /run/c/net/metadata.sock", "hostfwd=tcp:127.0.0.1:2222-169.254.169.15:22", "romfile=,mac=52:54:00:00:00:01",
		"-qmp unix:/run/c/qemu/qmp.sock,server=on,wait=off",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in\n%s", want, line)
		}
	}
	with := machine()
	with.DataDisks = []DataDisk{{Serial: "cloister-lun3", FD: 8, ROFD: 9}, {Serial: "cloister-temp", FD: 10, ROFD: 11}}
	if args, err = Args(with); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-add-fd fd=8,set=4 -add-fd fd=9,set=4 -add-fd fd=10,set=5", "file=/dev/fdset/4 -device virtio-blk-pci,drive=data0,serial=cloister-lun3", "drive=data1,serial=cloister-temp"} {
		if !strings.Contains(strings.Join(args, " "), want) {
			t.Errorf("no %q in\n%s", want, args)
		}
	}
	// No way in, nothing nested, nothing of the host's: HD-06, HD-15 and "no operator access".
	for _, never := range []string{"-monitor", "-gdb", "-s ", "-vnc", "-spice", "fw_cfg", "smbios", "-incoming", "-loadvm", "snapshot", "+svm", "+vmx", "cache=unsafe", "-cpu host"} {
		if strings.Contains(line, never) {
			t.Errorf("%q in\n%s", never, line)
		}
	}
}

func TestArgsRefuse(t *testing.T) {
	for name, change := range map[string]func(*Machine){
		"a comma in a path":      func(m *Machine) { m.TPMSocket = "/run/a,b" },
		"a blank in a path":      func(m *Machine) { m.Metadata = "/run/a b" },
		"a URL's sign in a path": func(m *Machine) { m.VarsSocket = "/run/a&b" },
		"no socket":              func(m *Machine) { m.QMPSocket = "" },
		"no forward program":     func(m *Machine) { m.Forward = "" },
		"no processor":           func(m *Machine) { m.VCPUs = 0 },
		"no CPU model":           func(m *Machine) { m.CPUModel = "" },
		"too little memory":      func(m *Machine) { m.MemoryMiB = 64 },
		"no port for SSH":        func(m *Machine) { m.SSHPort = 0 },
		"two data disks of one serial": func(m *Machine) {
			m.DataDisks = []DataDisk{{Serial: "a", FD: 8, ROFD: 9}, {Serial: "a", FD: 8, ROFD: 9}}
		},
		"a data disk without a serial": func(m *Machine) { m.DataDisks = []DataDisk{{FD: 8, ROFD: 9}} },
		"an option in a serial":        func(m *Machine) { m.DataDisks = []DataDisk{{Serial: "a,b=c", FD: 8, ROFD: 9}} },
		"a line break in a path":       func(m *Machine) { m.Keys = "/run/a\nb" },
	} {
		t.Run(name, func(t *testing.T) {
			m := machine()
			change(&m)
			if _, err := Args(m); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestConsole(t *testing.T) {
	var c Console
	feed := func(text string) []Finding { return c.Feed([]byte(text)) }
	if f := feed("\x1b[2J\x1b[01;01Hnoise CLOISTER-EVENT {\"step\":\"uefi\","); len(f) != 0 {
		t.Errorf("half a line gave %+v", f)
	}
	if f := feed("\"state\":\"done\",\"detail\":{\"secureBoot\":\"true\"}}\r\nmore\n"); len(f) != 1 || f[0].Event == nil || f[0].Event.Step != "uefi" || f[0].Event.Detail["secureBoot"] != "true" {
		t.Errorf("got %+v", f)
	}
	for name, text := range map[string]string{
		"HD-13 a refused image": "BdsDxe: failed to load Boot0001 \"UEFI Misc Device\" from PciRoot(0x0): Access Denied\n",
		"nothing to boot":       "\x1b[0mBdsDxe: No bootable option or device was found.\n",
		"a kernel that panics":  "[ 1.0] Kernel panic - not syncing: x\n",
	} {
		if f := feed(text); len(f) != 1 || f[0].BootFailed == "" {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	for name, text := range map[string]string{
		"an event that is no JSON":     "CLOISTER-EVENT x\n",
		"an event without a step":      "CLOISTER-EVENT {\"state\":\"done\"}\n",
		"SVC-11 a line without an end": strings.Repeat("x", 1<<20) + "\n",
		"plain text":                   "hello login: \n",
	} {
		if f := feed(text); len(f) != 0 {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	if len(c.line) > maxLine {
		t.Errorf("kept %d bytes of one line", len(c.line))
	}
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("CLOISTER-EVENT {\"step\":\"a\",\"state\":\"b\"}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c Console
		for _, found := range c.Feed(raw) {
			if found.Event == nil && found.BootFailed == "" {
				t.Fatal("an empty finding")
			}
		}
	})
}
