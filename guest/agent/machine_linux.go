package agent

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/guest/attestation"
	"cloister.dev/cloister/guest/provision"
	"cloister.dev/cloister/guest/tpm"
)

// Files of the running system; the initrd leaves the init data.
const (
	runDir       = "/run/cloister/"
	initDataPath = runDir + "initdata.json"
	ResultPath   = runDir + "attestation.json"
	eventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"
	softRootName = "cloister.softroot="
)

// New makes the agent of this machine.
func New(log *slog.Logger, t transport.TPM) (*Agent, error) {
	raw, err := os.ReadFile(initDataPath)
	if err != nil {
		return nil, err
	}
	data, err := initdata.Parse(raw)
	if err != nil {
		return nil, err
	}
	transport, err := attestation.ServiceHTTP(data.Attest, attestation.VerifierAddress)
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	verifier := client.New(client.Options{URL: data.Attest.URL, HTTP: transport})
	metadata := Metadata{URL: MetadataURL, HTTP: &http.Client{}}
	guest := attestation.Guest{TPM: t, HostKey: hostKey, EventLog: func() ([]byte, error) { return os.ReadFile(eventLogPath) },
		Chain: metadata.Chain, SoftRoot: softRoot(string(cmdline)), Now: time.Now, Wait: wait}
	return &Agent{Metadata: metadata, Collect: guest.Collect, Result: ResultPath, Now: time.Now, Wait: wait, Log: log,
		Token: func(ctx context.Context, e *attestation.Evidence) (*token.Token, string, error) {
			return attestation.Token(ctx, verifier, data.Attest, e, raw, system(), time.Now())
		}}, nil
}

// OpenTPM opens this machine's TPM.
func OpenTPM() (transport.TPMCloser, error) { return tpm.Open() }

func hostKey() ([]byte, error) {
	pub, err := os.ReadFile(provision.HostKeyPubPath)
	if err != nil {
		return nil, err
	}
	return provision.ParseHostKey(pub)
}

func softRoot(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(word, softRootName); ok {
			return v
		}
	}
	return ""
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// system reads os-release; what is missing stays empty.
func system() attestation.System {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return attestation.System{Distro: "unknown"}
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			values[k] = strings.Trim(v, `"'`)
		}
	}
	s := attestation.System{Distro: values["ID"], Build: values["VERSION"]}
	major, minor, _ := strings.Cut(values["VERSION_ID"], ".")
	s.Major, _ = strconv.Atoi(major)
	s.Minor, _ = strconv.Atoi(minor)
	return s
}

// SwapOff switches one swap area off.
func SwapOff(area string) error {
	p, err := unix.BytePtrFromString(area)
	if err != nil {
		return err
	}
	return swapoff(p)
}

// Ready tells whether the vTPM answers and has the keys of its report.
func Ready(t transport.TPM) error { return attestation.Ready(t) }
