//go:build boot

package integration

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/guest/luks2"
)

// TestHello is one confidential VM's life, from an empty machine to nothing left, with attacks on the way. The parts
// build on each other.
func TestHello(t *testing.T) {
	s := newSystem(t)
	s.image()
	s.run("up")

	t.Run("the installation is ready for Azure's clients", s.sub(testInstallation))
	t.Run("bad requests are refused and change nothing", s.sub(testBadRequests))
	t.Run("templates are deployed, and secure parameters are nowhere", s.sub(testTemplates))
	t.Run("the VM comes up and proves itself", s.sub(testCreate))
	t.Run("the evidence is as predicted", s.sub(testEvidence))
	t.Run("HD-06 inside, nothing of the host's arrived", s.sub(testInside))
	t.Run("the data disk and the temporary disk are there", s.sub(testDataDisk))
	t.Run("TPM-16 inside, tpm2-tools and go-tpm use the vTPM", s.sub(testTPM))
	t.Run("CP-09 an agent that was killed finds its VM again", s.sub(testAdoption))
	t.Run("CP-09 a service that was killed comes back", s.sub(testServices))
	t.Run("CP-09 a killed paravisor means a new start, unlocked by the vTPM", s.sub(testParavisorKilled))
	t.Run("the data disk keeps what was written, the temporary disk does not", s.sub(testDataDiskAgain))
	t.Run("attacks at rest", s.sub(testAttacksAtRest))
	t.Run("HD-18 no secret is in a log or on a command line", s.sub(testSecrets))
	t.Run("deleting leaves nothing", s.sub(testDelete))
}

func (s *system) sub(test func(*system)) func(*testing.T) {
	return func(t *testing.T) {
		part := *s
		part.t = t
		test(&part)
	}
}

func testInstallation(s *system) {
	info, err := os.Stat(filepath.Join(s.state, "client.env"))
	if err != nil {
		s.t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		s.t.Errorf("client.env has mode %o", info.Mode().Perm())
	}
	raw, err := os.ReadFile(filepath.Join(s.state, "client.env"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range strings.Fields(`ARM_ENDPOINT AUTHORITY_HOST TENANT_ID CLIENT_ID CLIENT_SECRET SUBSCRIPTION_ID MAA_ENDPOINT
		VAULT_ENDPOINT CA_FILE LOCATION LIMITED_CLIENT_ID LIMITED_CLIENT_SECRET`) {
		if !bytes.Contains(raw, []byte(name+"=")) {
			s.t.Errorf("client.env lacks %s", name)
		}
	}
	if out := s.run("up"); strings.Count(out, "runs already") != 5 {
		s.t.Errorf("a second up:\n%s", out)
	}
	var st struct {
		Services []struct {
			Name      string
			Answers   bool
			PID       int
			MemoryMiB int
		}
	}
	s.json(&st, "status")
	if len(st.Services) != 5 {
		s.t.Errorf("status %+v", st)
	}
	for _, kind := range []string{"compute", "host", "attest", "keys", "softchip"} {
		s.run("config", "check", filepath.Join(s.state, kind, "config.yaml"))
	}
}

func testBadRequests(s *system) {
	s.refused(3, "size", "vm", "create", "bad", "--size", "Standard_D2s_v3")
	s.refused(4, "no-such-image", "vm", "create", "bad", "--image", "no-such-image")
	s.refused(2, "unknown flag", "vm", "create", "bad", "--no-such-flag")
	s.refused(3, "zone", "vm", "create", "bad", "--zone", "9")
	s.refused(3, "TrustedLaunch", "vm", "create", "bad", "--security-type", "TrustedLaunch")
	s.refused(1, "", "vm", "show", "bad")
	var list []struct{ Name string }
	s.json(&list, "vm", "list")
	if len(list) != 0 {
		s.t.Errorf("a refused request left %+v", list)
	}
}

// journey is the order in which a first start's steps are done.
var journey = []string{"rules", "placement", "evidence", "token", "guest-state-key", "vtpm", "uefi", "image", "os-disk", "distribution", "guest-attestation"}

func testCreate(s *system) {
	key := filepath.Join(s.state, "key")
	if err := sshKey(key); err != nil {
		s.t.Fatal(err)
	}
	custom := filepath.Join(s.state, "custom-data")
	if err := os.WriteFile(custom, []byte(customDataCanary), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run("disk", "create", "data", "--size-gib", "4")
	out := s.run("vm", "create", "hello", "--size", "Standard_DC2ads_v5", "--data-disk", "data", "--ssh-key", key+".pub", "--custom-data", custom)
	s.t.Log("\n" + out)
	if strings.Contains(out, "\x1b") || strings.Contains(out, "\r") {
		s.t.Error("control codes, though this is no terminal")
	}
	var done []string
	for _, e := range s.show("hello").Journey.Events {
		if e.State == "done" && slices.Contains(journey, e.Step) {
			done = append(done, e.Step)
		}
	}
	if !slices.Equal(done, journey) {
		s.t.Errorf("steps done %v, want %v", done, journey)
	}
	s.refused(3, "exists", "vm", "create", "hello")
}

func testEvidence(s *system) {
	var r struct {
		Verdict, Kind, Root string
		Authentic           bool
		Checks              []struct{ Claim, Got, Want, Result, Rule string }
		Claims              map[string]any
	}
	bundle := filepath.Join(s.state, "evidence.json")
	s.json(&r, "vm", "attest", "hello", "--evidence-out", bundle)
	if r.Verdict != "accepted" || r.Kind != "sevsnpvm" || r.Root != "software" || !r.Authentic || len(r.Checks) < 15 {
		s.t.Errorf("verdict %s, kind %s, root %s, authentic %v, %d checks", r.Verdict, r.Kind, r.Root, r.Authentic, len(r.Checks))
	}
	var rows []struct {
		Name                string
		Predicted, Reported string
		Same                bool
	}
	s.json(&rows, "vm", "measure", "hello")
	for _, m := range rows {
		if !m.Same || m.Predicted == "" {
			s.t.Errorf("%s: predicted %s, reported %s", m.Name, m.Predicted, m.Reported)
		}
	}
	if out := s.run("vm", "metadata", "hello"); !strings.Contains(out, s.show("hello").VMID) {
		s.t.Errorf("metadata %s", out)
	}
	if out, _ := s.try("vm", "metadata", "hello", "--path", "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"); strings.Contains(out, "access_token") {
		s.t.Error("metadata gave an identity token to the tool")
	}
	// Somebody else judges, with a challenge of its own and files alone; under another challenge the answer is no.
	const mine, other = "AAECAwQFBgcICQoLDA0ODw==", "DwECAwQFBgcICQoLDA0ODw=="
	s.run("vm", "attest", "hello", "--nonce", mine, "--evidence-out", bundle)
	init, expect := filepath.Join(s.state, "init.json"), filepath.Join(s.state, "expect.json")
	if err := os.WriteFile(init, []byte(s.run("vm", "init-data", "hello")), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(expect, []byte(s.run("launch", "expect", "--init-data", init)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run("attest", "verify", "--evidence", bundle, "--expect", expect, "--nonce", mine)
	s.refused(3, "nonce", "attest", "verify", "--evidence", bundle, "--expect", expect, "--nonce", other)
}

// inVM runs a command in the VM, over a connection to the attested host key.
func (s *system) inVM(command string) string {
	s.t.Helper()
	return s.inVMWith(nil, command)
}

// inVMWith is inVM for a command that reads something.
func (s *system) inVMWith(input io.Reader, command string) string {
	s.t.Helper()
	return s.runWith(input, "vm", "ssh", "hello", "--identity", filepath.Join(s.state, "key"), "--", command)
}

func testInside(s *system) {
	out := s.inVM(`cat /proc/cmdline; echo; findmnt -no SOURCE /; cat /proc/swaps; ls /run/credentials 2>&1; ls /sys/firmware/qemu_fw_cfg 2>&1; sudo dmsetup table 2>/dev/null | head -1; sudo cat /proc/1/comm; id -un; hostname; sudo cat /var/lib/cloister/custom-data`)
	for what, want := range map[string]string{"the signed command line": "systemd.import_credentials=no", "the encrypted root": "/dev/dm-", "systemd": "systemd", "the user": "azureuser", "the name": "hello", "the custom data": customDataCanary} {
		if !strings.Contains(out, want) {
			s.t.Errorf("%s: no %q in\n%s", what, want, out)
		}
	}
	for what, never := range map[string]string{"HD-10 swap": "partition", "a credential": "@system"} {
		if strings.Contains(out, never) {
			s.t.Errorf("%s: %q in\n%s", what, never, out)
		}
	}
	// The NIC reaches the three link-local services and nothing else.
	out = s.inVM(`for a in 169.254.169.254/80 169.254.169.252/443 169.254.169.253/443 169.254.169.254/81 169.254.169.1/80 10.0.2.2/22; do timeout 5 bash -c "exec 3<>/dev/tcp/$a" 2>/dev/null && echo "$a open" || echo "$a shut"; done`)
	for _, want := range []string{"169.254.169.254/80 open", "169.254.169.252/443 open", "169.254.169.253/443 open", "169.254.169.254/81 shut", "169.254.169.1/80 shut", "10.0.2.2/22 shut"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func testAdoption(s *system) {
	id := s.show("hello").VMID
	_, before := s.handles(id)
	if err := s.service("host").Signal(unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.await("the agent is gone", time.Minute, func() bool { return !s.service("host").Alive() })
	if !before.Alive() {
		s.t.Fatal("the VM ended with its agent")
	}
	s.run("up")
	s.await("the VM is running again, says the agent", time.Minute, func() bool { return s.show("hello").Journey.Phase == "running" })
	if _, after := s.handles(id); after != before {
		s.t.Errorf("QEMU was %+v, is %+v", before, after)
	}
	s.run("vm", "attest", "hello")
}

func testServices(s *system) {
	id := s.show("hello").VMID
	_, before := s.handles(id)
	for _, name := range []string{"softchip", "attest", "keys", "compute"} {
		h := s.service(name)
		if err := h.Signal(unix.SIGKILL); err != nil {
			s.t.Fatal(err)
		}
		if err := h.Wait(context.Background()); err != nil {
			s.t.Fatal(err)
		}
	}
	s.run("up")
	s.await("the VM is running, says the control plane", time.Minute, func() bool { return s.show("hello").Journey.Phase == "running" })
	if _, after := s.handles(id); after != before {
		s.t.Errorf("QEMU was %+v, is %+v", before, after)
	}
	s.run("vm", "attest", "hello")
}

func testParavisorKilled(s *system) {
	from := time.Now()
	paravisor, _ := s.handles(s.show("hello").VMID)
	if err := paravisor.Signal(unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.awaitStep("hello", from, "unlock", "done")
	s.awaitStep("hello", from, "guest-attestation", "done")
	if _, again := s.since("hello", from, "os-disk", "done"); again {
		s.t.Error("the OS disk was made again")
	}
	s.run("vm", "attest", "hello")
}

// testAttacksAtRest changes what the host holds while the VM is stopped. Each attack is refused with its reason, and once
// the change is undone the VM starts: the last one all the way.
func testAttacksAtRest(s *system) {
	id := s.show("hello").VMID
	dir := filepath.Join(s.state, "host", "vms", id)
	state, disk := filepath.Join(dir, "guest", "guest.state"), filepath.Join(dir, "os.img")

	// Another VM of the same image makes a volume of its own meanwhile.
	otherMade := time.Now()
	s.run("vm", "create", "other", "--no-wait")
	s.run("vm", "stop", "hello")
	older, err := os.ReadFile(state)
	if err != nil {
		s.t.Fatal(err)
	}
	// A session begins and ends, so that the copy is of an older one.
	from := time.Now()
	s.run("vm", "start", "hello", "--no-wait")
	s.awaitStep("hello", from, "uefi", "started")
	s.run("vm", "deallocate", "hello")

	s.t.Run("HD-09 guest state restored from an older copy", func(t *testing.T) {
		part := *s
		part.t = t
		newest, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		write(t, state, older)
		part.failsWith("refuse/binding", "rolled back")
		write(t, state, newest)
	})
	s.t.Run("HD-09 guest state of nobody", func(t *testing.T) {
		part := *s
		part.t = t
		newest, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(state, 0); err != nil {
			t.Fatal(err)
		}
		part.failsWith("refuse/", "")
		write(t, state, newest)
	})
	s.t.Run("HD-13 one byte of the kernel image changed", func(t *testing.T) {
		part := *s
		part.t = t
		defer change(t, disk, find(t, disk, []byte("systemd.import_credentials=no")), []byte("S"))()
		part.failsWith("fail/boot", "Secure Boot refused")
	})
	s.awaitStep("other", otherMade, "os-disk", "started")
	foreign := s.headerOf("other")
	s.run("vm", "delete", "other")
	volume := find(s.t, disk, headerStart)
	own := read(s.t, disk, volume, luks2.Region)
	for _, r := range []struct {
		name, says string
		header     []byte
	}{
		{"HD-12 the disk's LUKS header wiped", "luks2 magic", make([]byte, luks2.Region)},
		{"HD-12 LUKS header and key slot of another VM's disk", "sealed secret", foreign},
		{"HD-01 a null cipher in the key slot", "luks2 key slot cipher", withNullCipher(s.t, own)},
	} {
		s.t.Run(r.name, func(t *testing.T) {
			part := *s
			part.t = t
			defer change(t, disk, volume, r.header)()
			part.failsWith("fail/boot", r.says)
		})
	}
	if !bytes.Equal(read(s.t, disk, volume, luks2.Region), own) {
		s.t.Error("the volume's own header was not put back, or the VM wrote to a volume that it refused")
	}
	from = time.Now()
	s.run("vm", "start", "hello", "--no-wait")
	s.awaitStep("hello", from, "unlock", "done")
	s.awaitStep("hello", from, "guest-attestation", "done")
	s.run("vm", "attest", "hello")
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0) // the same file: its owner stays
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
}

// failsWith starts the VM and wants it to fail with a code and a reason.
func (s *system) failsWith(code, reason string) {
	s.t.Helper()
	s.run("vm", "start", "hello", "--no-wait")
	var last show
	s.await("the VM has failed", bootLimit, func() bool {
		last = s.show("hello")
		return last.Journey.Phase == "failed" && last.Journey.Failure != nil
	})
	f := last.Journey.Failure
	if text := f.Field + " " + f.Got + " " + f.Want; !strings.HasPrefix(f.Code, code) || !strings.Contains(text, reason) {
		s.t.Errorf("failure %+v, want code %s and %q", f, code, reason)
	}
	s.run("vm", "deallocate", "hello")
}

func testDelete(s *system) {
	id := s.show("hello").VMID
	paravisor, qemu := s.handles(id)
	s.run("vm", "delete", "hello")
	s.refused(1, "NotFound", "vm", "show", "hello")
	s.await("nothing of the VM is left", time.Minute, func() bool {
		_, err := os.Stat(filepath.Join(s.state, "host", "vms", id))
		return os.IsNotExist(err) && !paravisor.Alive() && !qemu.Alive()
	})
	s.run("vm", "delete", "hello") // again: nothing to do
	testDataDiskEnd(s)
}
