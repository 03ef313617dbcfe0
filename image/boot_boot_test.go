//go:build boot

package image

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/image/disk"
	"cloister.dev/cloister/image/uki"
)

// boot starts a disk under emulation with Secure Boot and a plain vTPM, and gives the first serial line that holds
// one of the ends. Refused images leave the firmware waiting for ever, so there is a deadline.
func boot(t *testing.T, img, vars string, ends ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	dir := t.TempDir()
	own, err := os.ReadFile(vars)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vars.fd"), own, 0o600); err != nil {
		t.Fatal(err)
	}
	tpm := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+dir+"/tpm.sock", "--log", "file="+dir+"/swtpm.log", "--terminate")
	if err := tpm.Start(); err != nil {
		t.Fatalf("swtpm (package swtpm): %v", err)
	}
	defer func() { cancel(); _ = tpm.Wait() }()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil { // QEMU does not wait for the socket
		if _, err := os.Stat(dir + "/tpm.sock"); err == nil {
			break
		}
		<-again.C
	}
	start := time.Now()
	q := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-machine", "q35,smm=on", "-accel", "tcg", "-cpu", "EPYC", "-smp", "1", "-m", "512",
		"-display", "none", "-no-reboot", "-serial", "stdio", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "-drive", "if=pflash,format=raw,unit=1,file="+dir+"/vars.fd",
		"-drive", "if=none,id=d0,format=raw,snapshot=on,file="+img, "-device", "virtio-blk-pci,drive=d0,bootindex=1",
		"-chardev", "socket,id=tpm0,path="+dir+"/tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0")
	serial, err := q.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ownGroup(q)
	if err := q.Start(); err != nil {
		t.Fatalf("qemu (package qemu-system-x86): %v", err)
	}
	defer func() { endGroup(q); _ = q.Wait() }()
	var all strings.Builder
	lines := bufio.NewReader(io.TeeReader(serial, &all))
	for {
		l, err := lines.ReadString('\n')
		for _, e := range ends {
			if strings.Contains(l, e) {
				t.Logf("%.1fs: %s", time.Since(start).Seconds(), strings.TrimSpace(l))
				return l
			}
		}
		if err != nil {
			t.Fatalf("the serial port ended (%v) before any of %q:\n%s", err, ends, all.String())
		}
	}
}

func TestBootSmoke(t *testing.T) {
	t.Setenv("CLOISTER_GUEST", compile(t, "./testdata/tinyinit"))
	m := wholeImage(t)
	const started, refused = "TINYINIT pid=1", "Access Denied"
	if l := boot(t, m.Path(KindDisk), m.Path(KindVars), started, refused); !strings.Contains(l, started) {
		t.Fatalf("positive twin: the signed image was refused")
	}
	signed, err := os.ReadFile(m.Path(KindUKI))
	if err != nil {
		t.Fatal(err)
	}
	sections, err := uki.Sections(signed)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := os.ReadFile(DefaultStub)
	if err != nil {
		t.Fatal(err)
	}
	var ours []uki.Section
	for _, name := range []string{".osrel", ".cmdline", ".uname", ".initrd", ".linux"} {
		data, ok := uki.Find(sections, name)
		if !ok {
			t.Fatalf("no section %s", name)
		}
		ours = append(ours, uki.Section{Name: name, Data: data})
	}
	unsigned, err := uki.Assemble(stub, ours)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), signed...)
	changed[len(changed)/2] ^= 1
	for name, pe := range map[string][]byte{"HD-13 unsigned": unsigned, "HD-13 one byte changed": changed} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			small := func(name string, data []byte) string {
				p := filepath.Join(dir, name)
				if err := os.WriteFile(p, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return p
			}
			img := filepath.Join(dir, "disk.img")
			if err := disk.Write(context.Background(), img, small("uki", pe), small("root", make([]byte, 1<<20)), small("hashes", make([]byte, 8192)), Epoch); err != nil {
				t.Fatal(err)
			}
			if l := boot(t, img, m.Path(KindVars), started, refused); !strings.Contains(l, refused) {
				t.Errorf("booted: %s", l)
			}
		})
	}
}
