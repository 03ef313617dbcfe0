//go:build boot

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestGuestStateOfAnotherVM gives a VM the guest state of another VM of the same tenant and image. It is refused before
// the firmware runs, and the VM's own one still starts it.
func TestGuestStateOfAnotherVM(t *testing.T) {
	s := newSystem(t)
	s.image()
	s.run("up")
	guestState := map[string]string{}
	for _, name := range []string{"hello", "other"} {
		from := time.Now()
		s.run("vm", "create", name, "--no-wait")
		s.awaitStep(name, from, "uefi", "started")
		guestState[name] = filepath.Join(s.state, "host", "vms", s.show(name).VMID, "guest", "guest.state")
		s.run("vm", "deallocate", name)
	}
	own, err := os.ReadFile(guestState["hello"])
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(guestState["other"])
	if err != nil {
		t.Fatal(err)
	}
	write(t, guestState["hello"], foreign)
	s.failsWith("refuse/binding", "guest state VM id")

	write(t, guestState["hello"], own)
	from := time.Now()
	s.run("vm", "start", "hello", "--no-wait")
	s.awaitStep("hello", from, "guest-state-key", "done")
	s.awaitStep("hello", from, "uefi", "started")
	for _, name := range []string{"hello", "other"} {
		s.run("vm", "delete", name)
	}
}
