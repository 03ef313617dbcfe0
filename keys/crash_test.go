//go:build failpoints

package keys_test

import (
	"fmt"
	"testing"

	"cloister.dev/cloister/identity/identitytest"
)

// The key keeper is killed after each of its durable writes, while a VM opens or confirms its guest state. The VM
// then starts again with what it has on disk, and is never locked out; a generation it left behind is never opened.
func TestKilledAfterEachWrite(t *testing.T) {
	p := newProcess(t)
	key := rsaKey(t)
	p.start("")
	p.createGuestState(vmID, identitytest.AdminID, nil)
	p.stop()
	file, n := uint64(0), 0
	for _, r := range []struct{ call, point string }{
		{"open", "keys/audit-entry"}, {"open", "keys/keystore-file"}, {"open", "keys/guest-state-opened"},
		{"confirm", "keys/audit-entry"}, {"confirm", "keys/keystore-file"}, {"confirm", "keys/guest-state-confirmed"},
	} {
		t.Run(fmt.Sprintf("killed in %s after %s", r.call, r.point), func(t *testing.T) {
			open := func() error {
				n++
				_, err := p.client().Open(t.Context(), openRequest(p.world, &key.PublicKey, file, n))
				return err
			}
			confirm := func() error { return p.client().Confirm(t.Context(), confirmRequest(p.world, &key.PublicKey, file, n)) }
			if r.call == "confirm" {
				p.start("")
				if err := open(); err != nil {
					t.Fatal(err)
				}
				p.stop()
				file++ // written before it is confirmed
			}
			p.start(r.point)
			var err error
			if r.call == "open" {
				err = open()
			} else {
				err = confirm()
			}
			if err == nil {
				t.Fatal("the key keeper lived")
			}
			_ = p.cmd.Wait() // killed
			p.start("")
			if err := open(); err != nil {
				t.Fatalf("locked out: %v", err)
			}
			file++
			if err := confirm(); err != nil {
				t.Fatal(err)
			}
			file--
			if err := open(); err == nil {
				t.Error("an earlier generation was opened")
			}
			file++
			p.stop()
		})
	}
}
