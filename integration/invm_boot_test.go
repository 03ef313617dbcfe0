//go:build boot

package integration

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inside is where the VM gets the programs of testTPM.
const inside = "/tmp/inside"

// testTPM runs the tests of the folder invm in the VM, with go-tpm and with this machine's own tpm2-tools.
func testTPM(s *system) {
	program := filepath.Join(s.t.TempDir(), "invm.test")
	build := exec.Command("go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-tags", "invm", "-o", program, "./invm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("compiling the tests for the VM: %v\n%s", err, out)
	}
	files, loader := tpm2Tools(s.t)
	files["invm.test"] = program

	archive, writer := io.Pipe()
	go func() { writer.CloseWithError(pack(writer, files)) }()
	s.inVMWith(archive, "mkdir -p "+inside+" && tar -xz -C "+inside)
	s.t.Cleanup(func() { archive.Close() })

	command := inside + "/" + loader + " --library-path " + inside + " " + inside + "/tpm2"
	out := s.inVM("sudo env CLOISTER_TPM2='" + command + "' " + inside + "/invm.test -test.v; echo exit status $?")
	s.t.Log("\n" + out)
	if !strings.Contains(out, "exit status 0\n") {
		s.t.Error("the tests in the VM failed")
	}
	for _, name := range []string{"ReportNamesTheKeysOfThisTPM", "NewUserDataChangeTheReport", "Sessions", "TPM16ReservedHandlesStay", "Quote", "TPM2Tools"} {
		if !strings.Contains(out, "--- PASS: Test"+name+" ") {
			s.t.Errorf("Test%s did not pass in the VM", name)
		}
	}
	s.run("vm", "attest", "hello") // the tests' user data are gone
}

var sharedLibrary = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// tpm2Tools lists this machine's program "tpm2" with everything it loads, by the names it loads them by.
func tpm2Tools(t *testing.T) (files map[string]string, loader string) {
	t.Helper()
	tpm2, err := exec.LookPath("tpm2")
	if err != nil {
		t.Fatalf("%v (package tpm2-tools)", err)
	}
	files = map[string]string{"tpm2": tpm2}
	tcti, err := filepath.Glob("/usr/lib/*/libtss2-tcti-device.so.0")
	if err != nil || len(tcti) != 1 {
		t.Fatalf("libtss2-tcti-device.so.0: %v (%v), want one", tcti, err)
	}
	for _, f := range []string{tpm2, tcti[0]} {
		out, err := exec.Command("ldd", f).CombinedOutput()
		if err != nil {
			t.Fatalf("ldd %s: %v\n%s", f, err, out)
		}
		for _, m := range sharedLibrary.FindAllStringSubmatch(string(out), -1) {
			name := filepath.Base(m[1])
			files[name] = m[1]
			if strings.HasPrefix(name, "ld-linux") {
				loader = name
			}
		}
	}
	files[filepath.Base(tcti[0])] = tcti[0]
	if loader == "" || len(files) < 6 {
		t.Fatalf("what tpm2 loads: %v", files)
	}
	return files, loader
}

// pack writes files by new names as a compressed archive.
func pack(to io.Writer, files map[string]string) error {
	z := gzip.NewWriter(to)
	w := tar.NewWriter(z)
	for name, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(raw))}); err != nil {
			return err
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return z.Close()
}
