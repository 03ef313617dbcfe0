package vtpm

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTPM2Tools reads the served indexes with tpm2-tools, as guests do.
func TestTPM2Tools(t *testing.T) {
	for program, pkg := range map[string]string{"tpm2_nvread": "tpm2-tools", "socat": "socat"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: install %s", program, pkg)
		}
	}
	r := newRig(t)
	dir := scratch(t)
	socket := filepath.Join(dir, "raw")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			for {
				message, err := readTPMMessage(conn)
				if err != nil {
					break
				}
				answer, err := r.tpm.Send(message)
				if err != nil {
					break
				}
				if _, err := conn.Write(answer); err != nil {
					break
				}
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	run := func(args ...string) ([]byte, error) {
		c := exec.CommandContext(t.Context(), args[0], args[1:]...)
		c.Env = append(os.Environ(), "TPM2TOOLS_TCTI=cmd:socat - UNIX-CONNECT:"+socket)
		c.Dir = dir
		out, err := c.CombinedOutput()
		t.Logf("%v: %v, %d bytes", args, err, len(out))
		return out, err
	}
	for index, want := range map[string][]byte{"0x1400001": r.gate.report, "0x1C101D0": r.gate.akCert} {
		if out, err := run("tpm2_nvread", "-C", "o", "-o", "read.bin", index); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "read.bin")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("index %s: %d bytes, %v", index, len(got), err)
		}
	}
	if out, err := run("tpm2_readpublic", "-c", "0x81000003", "-f", "pem", "-o", "ak.pem"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := run("tpm2_quote", "-c", "0x81000003", "-l", "sha256:4,7,11", "-q", "abcd", "-m", "quote", "-s", "signature"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, refused := range [][]string{
		{"tpm2_clear", "-c", "p"},
		{"tpm2_evictcontrol", "-C", "o", "-c", "0x81000003"},
		{"tpm2_nvundefine", "-C", "p", "0x1400001"},
		{"tpm2_nvundefine", "-C", "o", "0x1500010"},
		{"tpm2_changeeps"},
	} {
		if _, err := run(refused...); err == nil {
			t.Errorf("%v was done", refused)
		}
	}
}
