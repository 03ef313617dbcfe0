package image

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/uki"
	"cloister.dev/cloister/image/verity"
)

// Words that the command line of every image must have.
const (
	// noCredentials keeps systemd from taking credentials from the host by SMBIOS or fw_cfg: no PCR would show them.
	noCredentials = "systemd.import_credentials=no"
	verityWord    = "cloister.verity="
)

// CommandLine is the whole command line of an image: it is signed and measured.
func CommandLine(t verity.Table) string {
	return "console=ttyS0 quiet panic=-1 " + noCredentials + " " + verityWord + t.CommandLine()
}

// Check compares the files in dir with the manifest and the kernel image with the policy for images.
func (m *Manifest) Check(dir string) error {
	for _, kind := range []string{KindUKI, KindVars, KindDisk} {
		if err := checkFile(filepath.Join(dir, m.files()[kind].Name), kind, m.files()[kind]); err != nil {
			return fmt.Errorf("checking image %s: %w", m.Name, err)
		}
	}
	pe, err := os.ReadFile(filepath.Join(dir, m.UKI.Name))
	if err != nil {
		return fmt.Errorf("checking image %s: %w", m.Name, err)
	}
	vars, err := os.ReadFile(filepath.Join(dir, m.Vars.Name))
	if err != nil {
		return fmt.Errorf("checking image %s: %w", m.Name, err)
	}
	if err := m.checkUKI(pe, vars); err != nil {
		return fmt.Errorf("checking image %s: %w", m.Name, err)
	}
	return nil
}

func checkFile(path, kind string, want File) error {
	got, err := describe(path)
	if err != nil {
		return err
	}
	if got != want {
		return evidence.Refuse(evidence.CodeMeasurement, "image/"+kind, fmt.Sprintf("%s (%d bytes)", got.SHA256, got.Size), fmt.Sprintf("%s (%d bytes)", want.SHA256, want.Size)).By("manifest")
	}
	return nil
}

func describe(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return File{filepath.Base(path), hex.EncodeToString(h.Sum(nil)), n}, nil
}

// checkUKI is the policy of images: signed by the certificate that vars enrols, and with a command line that
// takes nothing from the host.
func (m *Manifest) checkUKI(pe, vars []byte) error {
	block, rest := pem.Decode([]byte(m.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return evidence.Refuse(evidence.CodeParse, "manifest/dbCertificate", "no certificate", "one PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return evidence.Refuse(evidence.CodeParse, "manifest/dbCertificate", err.Error(), "a certificate")
	}
	if !bytes.Contains(vars, cert.Raw) {
		return evidence.Refuse(evidence.CodeChain, "image/vars", "a store without the manifest's db certificate", "a store that enrols it")
	}
	if err := uki.Verify(pe, cert); err != nil {
		return err
	}
	sections, err := uki.Sections(pe)
	if err != nil {
		return err
	}
	for _, name := range []string{".osrel", ".cmdline", ".initrd", ".linux"} {
		if _, ok := uki.Find(sections, name); !ok {
			return evidence.Refuse(evidence.CodeConfig, "uki/"+name, "absent", "present").By("image policy")
		}
	}
	line, _ := uki.Find(sections, ".cmdline")
	if err := checkCommandLine(string(line)); err != nil {
		return err
	}
	if string(line) != m.CommandLine {
		return evidence.Refuse(evidence.CodeMeasurement, "uki/.cmdline", string(line), m.CommandLine).By("manifest")
	}
	if !strings.HasSuffix(m.CommandLine, verityWord+strings.ReplaceAll(m.Verity, " ", "_")) {
		return evidence.Refuse(evidence.CodeMeasurement, "manifest/verity", m.Verity, "the table on the command line")
	}
	stub, err := uki.StubVersion(pe)
	if err != nil {
		return err
	}
	if stub != m.Stub {
		return evidence.Refuse(evidence.CodeMeasurement, "uki/stub", stub, m.Stub).By("manifest")
	}
	return nil
}

// forbidden parameters open a shell or another init, or take the root from elsewhere.
var forbidden = []string{"init=", "rdinit=", "root=", "single", "emergency", "rescue", "systemd.unit=", "systemd.debug", "systemd.debug-shell", "rd.break", "1", "s", "S"}

func checkCommandLine(line string) error {
	refuse := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeConfig, "uki/.cmdline/"+field, got, want).By("image policy")
	}
	var credentials, tables []string
	for _, w := range strings.Fields(line) {
		key, value, _ := strings.Cut(w, "=")
		switch {
		case key == "systemd.import_credentials":
			credentials = append(credentials, w)
		case key == "cloister.verity":
			tables = append(tables, value)
		}
		for _, f := range forbidden {
			if w == f || (strings.HasSuffix(f, "=") && strings.HasPrefix(w, f)) || (f == "systemd.debug" && strings.HasPrefix(w, f)) {
				return refuse(key, w, "absent")
			}
		}
	}
	if len(credentials) != 1 || credentials[0] != noCredentials {
		return refuse("systemd.import_credentials", fmt.Sprintf("%q", credentials), noCredentials+", once")
	}
	if len(tables) != 1 {
		return refuse("cloister.verity", fmt.Sprintf("%d tables", len(tables)), "one")
	}
	if _, err := verity.ParseTable(strings.ReplaceAll(tables[0], "_", " ")); err != nil {
		return fmt.Errorf("the command line's cloister.verity: %w", err)
	}
	return nil
}

// Supports tells whether the image can be started in a TEE ("software", "sevsnp", "tdx").
func (m *Manifest) Supports(tee string) error {
	for _, g := range m.Guests {
		if g.TEE == tee {
			if g.Supported {
				return nil
			}
			return evidence.Refuse(evidence.CodeUnsupported, "image/"+tee, g.Reason, "a kernel with the guest driver of "+tee)
		}
	}
	return evidence.Refuse(evidence.CodeUnsupported, "image/"+tee, "not named in the manifest", "a TEE that the image was checked for")
}

// guestsOf reads from the kernel's configuration what evidence it can make.
func guestsOf(config string) []Guest {
	has := func(option string) bool {
		return strings.Contains("\n"+config, "\n"+option+"=y\n") || strings.Contains("\n"+config, "\n"+option+"=m\n")
	}
	out := []Guest{{"software", true, "needs no guest driver"}}
	for _, t := range []struct{ tee, option string }{{"sevsnp", "CONFIG_SEV_GUEST"}, {"tdx", "CONFIG_TDX_GUEST_DRIVER"}} {
		g := Guest{t.tee, has(t.option), "the kernel has " + t.option}
		if !g.Supported {
			g.Reason = "the kernel lacks " + t.option
		}
		out = append(out, g)
	}
	return out
}
