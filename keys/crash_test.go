//go:build failpoints

package keys_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
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
		{"open", "keys/audit-entry"}, {"open", "keys/keystore-file"}, {"open", "keys/keystore-anchor"}, {"open", "keys/guest-state-opened"},
		{"confirm", "keys/audit-entry"}, {"confirm", "keys/keystore-file"}, {"confirm", "keys/keystore-anchor"}, {"confirm", "keys/guest-state-confirmed"},
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

// The key keeper is killed after each durable write of its first start, and then starts as if nothing had been.
func TestKilledAtTheFirstStart(t *testing.T) {
	for _, point := range []string{"keys/keystore-file", "keys/keystore-file#2", "keys/keystore-anchor"} {
		t.Run(point, func(t *testing.T) {
			p := newProcess(t)
			p.killedAtStart(point)
			p.start("")
			p.createGuestState(vmID, identitytest.AdminID, nil)
			p.stop()
		})
	}
}

// The key keeper is killed while an owner approves a restore: the approval was given in whole or not at all, was logged
// if it was given, and serves once.
func TestKilledInAnApproval(t *testing.T) {
	p := newProcess(t)
	key := rsaKey(t)
	p.start("")
	p.createGuestState(vmID, identitytest.AdminID, nil)
	n := 0
	start := func(generation uint64) (uint64, error) {
		n++
		o, err := p.client().Open(t.Context(), openRequest(p.world, &key.PublicKey, generation, n))
		if err != nil {
			return 0, err
		}
		return o.Next, p.client().Confirm(t.Context(), confirmRequest(p.world, &key.PublicKey, o.Next, n))
	}
	latest := uint64(0)
	advance := func() {
		t.Helper()
		next, err := start(latest)
		if err != nil {
			t.Fatal(err)
		}
		latest = next
	}
	advance()
	p.stop()
	for _, point := range []string{"keys/audit-entry", "keys/keystore-file", "keys/keystore-anchor", "keys/restore-approved"} {
		t.Run(point, func(t *testing.T) {
			p.start("")
			old := latest
			advance()
			advance()
			p.stop()
			p.start(point)
			body := fmt.Sprintf(`{"generation":%d}`, old)
			if status, err := p.try("POST", "/gueststate/"+vmID+"/approve-restore?api-version="+client.APIVersion, p.signIn(identitytest.AdminID, nil), body); err == nil {
				t.Fatalf("the key keeper lived, and answered %d", status)
			}
			_ = p.cmd.Wait() // killed
			p.start("")
			next, err := start(old)
			if given := point != "keys/audit-entry"; given != (err == nil) {
				t.Fatalf("opened by approval: %v", err)
			} else if given {
				if _, err := start(latest); err == nil {
					t.Error("the branch that was left was opened")
				}
				latest = next
			}
			if _, err := start(old); err == nil {
				t.Error("an approval served twice")
			}
			p.stop()
			if !strings.Contains(p.auditLog(), `"event":"approve-restore","outcome":"granted"`) {
				t.Error("an approval is not in the log")
			}
		})
	}
}

// A restore of the store is killed after each of its durable writes: what is served afterwards is the store of before, or
// the restored one in its new epoch, and never the backup as if it were the latest.
func TestKilledInARestore(t *testing.T) {
	p := newProcess(t)
	key := rsaKey(t)
	p.start("")
	p.createGuestState(vmID, identitytest.AdminID, nil)
	n := 0
	start := func(generation uint64) error {
		n++
		o, err := p.client().Open(t.Context(), openRequest(p.world, &key.PublicKey, generation, n))
		if err != nil {
			return err
		}
		return p.client().Confirm(t.Context(), confirmRequest(p.world, &key.PublicKey, o.Next, n))
	}
	backup, err := keys.Backup(p.cfg, p.environment())
	if err != nil {
		t.Fatal(err)
	}
	if err := start(0); err != nil {
		t.Fatal(err)
	}
	p.stop()
	state := func() map[string][]byte {
		out := map[string][]byte{}
		for _, name := range []string{"keystore", "keystore.anchor"} {
			b, err := os.ReadFile(filepath.Join(p.cfg.StateDir, name))
			if err != nil {
				t.Fatal(err)
			}
			out[name] = b
		}
		return out
	}
	before := state()
	for _, r := range []struct {
		point    string
		restored bool
	}{{"keys/audit-entry", false}, {"keys/keystore-file", true}, {"keys/keystore-restored", true}} {
		t.Run(r.point, func(t *testing.T) {
			for name, b := range before {
				if err := os.WriteFile(filepath.Join(p.cfg.StateDir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p.killedInRestore(backup, r.point)
			p.start("")
			err := start(0)
			if r.restored && evidence.CodeOf(err) != evidence.CodePolicy || !r.restored && evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("the generation of the backup: %v", err)
			}
			if err := start(1); (err != nil) != r.restored {
				t.Errorf("the latest generation: %v", err)
			}
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

// try makes a call that the key keeper may not live to answer.
func (p *process) try(method, path, bearer, body string) (int, error) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url("main")+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// killedAtStart starts a key keeper that dies before it listens.
func (p *process) killedAtStart(point string) {
	p.t.Helper()
	p.killed(exec.Command(os.Args[0]), point)
}

// killedInRestore restores the store in a process that dies on the way.
func (p *process) killedInRestore(backup []byte, point string) {
	p.t.Helper()
	from := filepath.Join(p.t.TempDir(), "backup")
	if err := os.WriteFile(from, backup, 0o600); err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{restoreEnv + "=" + from}
	p.killed(cmd, point)
}

func (p *process) killed(cmd *exec.Cmd, point string) {
	p.t.Helper()
	cmd.Env = append(append(os.Environ(), cmd.Env...), configEnv+"="+p.config, "CLOISTER_FAILPOINT="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		p.t.Fatalf("it lived: %v\n%s", err, out)
	}
}
