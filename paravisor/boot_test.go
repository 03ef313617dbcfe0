//go:build boot

// Boots real firmware against the two sockets; run under -tags boot, it takes some seconds.
package paravisor

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/paravisor/client"
)

// TestFirmwareBoots lets OVMF with Secure Boot support start with our vTPM and our variables, until it
// finds nothing to boot but its own shell. Twice: the second start uses the variables that the first wrote.
func TestFirmwareBoots(t *testing.T) {
	const code, vars = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Fatal("qemu-system-x86_64 is missing: install qemu-system-x86")
	}
	empty, err := os.ReadFile(vars)
	if err != nil {
		t.Fatalf("firmware is missing, install ovmf: %v", err)
	}
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	if err := os.WriteFile(filepath.Join(w.dir, "vars.fd"), empty, 0o600); err != nil {
		t.Fatal(err)
	}
	var last []byte
	for boot := range 2 {
		r := w.ready()
		if boot == 1 && !bytes.Equal(r.vars.Contents(), last) {
			t.Error("the second boot begins with other variables")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		began := time.Now()
		q := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-machine", "q35,smm=on", "-accel", "tcg", "-cpu", "EPYC", "-smp", "1", "-m", "256",
			"-display", "none", "-no-reboot", "-serial", "stdio", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1",
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
			"-drive", "if=pflash,format=raw,unit=1,file=nbd+unix:///?socket="+filepath.Join(r.dir, client.VarsSocket),
			"-chardev", "socket,id=tpm0,path="+filepath.Join(r.dir, client.TPMSocket), "-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0")
		var complaints bytes.Buffer
		q.Stderr = &complaints
		out, err := q.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Start(); err != nil {
			t.Fatal(err)
		}
		found := false
		var serial strings.Builder
		for lines := bufio.NewScanner(out); lines.Scan(); {
			serial.WriteString(lines.Text() + "\n")
			if regexp.MustCompile(`No bootable option|UEFI Interactive Shell`).MatchString(lines.Text()) {
				found = true
				break
			}
		}
		if err := q.Process.Signal(os.Interrupt); err != nil {
			t.Log(err)
		}
		_ = q.Wait()
		cancel()
		if !found {
			t.Fatalf("the firmware did not come to its end: %s\n%s", complaints.String(), serial.String())
		}
		t.Logf("boot %d: %v, TPM %+v, %d commits of variables", boot, time.Since(began).Round(10*time.Millisecond), r.gate.Counters(), r.vars.Commits())
		if c := r.gate.Counters(); c.Commands == 0 || c.Commits == 0 {
			t.Error("the firmware did not use the TPM")
		}
		if boot == 0 && bytes.Equal(r.vars.Contents(), empty) {
			t.Error("the firmware wrote no variables")
		}
		if err := r.gate.ReportError(); err != nil {
			t.Error(err)
		}
		last = r.vars.Contents()
		if st := r.until(t, client.PhaseReady); st.Phase != client.PhaseReady {
			t.Fatalf("phase %s: %v", st.Phase, st.Failure)
		}
		w.halt(r)
	}
}
