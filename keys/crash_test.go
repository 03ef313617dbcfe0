//go:build failpoints

package keys_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/keystore/hsm"
	"cloister.dev/cloister/keys/keystore/hsm/softhsmtest"
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
			p.dies(err)
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

// dies wants the key keeper to have been killed in a call that failed. An answer, also a refusal, means that it lived.
func (p *process) dies(err error) {
	p.t.Helper()
	var answered *azcore.ResponseError
	if err == nil || errors.As(err, &answered) || evidence.CodeOf(err) != "" && evidence.CodeOf(err) != evidence.CodeUnavailable {
		p.t.Fatalf("the key keeper lived, and answered: %v", err)
	}
	_ = p.cmd.Wait() // killed
}

// The key keeper is killed between what it does in a token and what it writes of it. No record is without its
// material, and what was asked for can be asked for again.
func TestKilledBesideAToken(t *testing.T) {
	token := softhsmtest.New(t)
	p := newProcessWith(t, func(c *keys.Config) {
		c.Keystore.PKCS11 = &keys.PKCS11{Module: token.Module, Token: token.Label, PINFile: token.PINFile, InMemory: []hsm.InMemory{hsm.OAEPPadding, hsm.ReleaseWrapping}}
	})
	create := func() error {
		_, err := p.azkeys("main").CreateKey(t.Context(), "k", azkeys.CreateKeyParameters{Kty: to.Ptr(azkeys.KeyTypeRSAHSM)}, nil)
		return err
	}
	p.start("") // the first start makes the key that signs answers
	p.stop()
	p.start("keys/hsm-key-generated")
	p.dies(create())
	p.start("")
	_, err := p.azkeys("main").GetKey(t.Context(), "k", "", nil)
	azureError(t, err, 404, "KeyNotFound")
	if err := create(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.azkeys("main").DeleteKey(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.start("keys/hsm-key-unreferenced")
	_, err = p.azkeys("main").PurgeDeletedKey(t.Context(), "k", nil)
	p.dies(err)
	p.start("")
	_, err = p.azkeys("main").GetDeletedKey(t.Context(), "k", nil)
	azureError(t, err, 404, "KeyNotFound")
	p.stop()
}
