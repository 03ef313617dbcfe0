package keys_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys"
	"cloister.dev/cloister/keys/client"
)

func (w *world) environment() keys.Environment {
	return keys.Environment{Now: w.now, Getenv: os.Getenv}
}

// restoreStore ends the key keeper, restores its store and starts it again.
func (w *world) restoreStore(backup []byte) {
	w.t.Helper()
	if err := w.service.Close(); err != nil {
		w.t.Fatal(err)
	}
	if _, err := keys.Restore(w.cfg, w.environment(), backup, true); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) approve(bearer, vm string, body string) reply {
	w.t.Helper()
	return w.call("POST", "main", "/gueststate/"+vm+"/approve-restore?api-version="+client.APIVersion, bearer, body)
}

func (w *world) auditLog() string {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.cfg.StateDir, keys.AuditFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(raw)
}

// A tenant restores a disk from its backup; a host that does the same without the tenant gets nowhere, before and after.
func TestHD09ApprovedRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	c := w.client(w.vm(vmID))
	n := 0
	start := func(generation uint64) (uint64, error) {
		n++
		o, err := c.Open(t.Context(), openRequest(w, &key.PublicKey, generation, n))
		if err != nil {
			return 0, err
		}
		return o.Next, c.Confirm(t.Context(), confirmRequest(w, &key.PublicKey, o.Next, n))
	}
	for g := range uint64(3) {
		if next, err := start(g); err != nil || next != g+1 {
			t.Fatalf("%d, %v", next, err)
		}
	}
	refused := func(generation uint64) {
		t.Helper()
		if _, err := start(generation); evidence.CodeOf(err) != evidence.CodeBinding {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	refused(1)
	if r := w.approve(w.signIn(identitytest.AdminID, nil), vmID, `{"generation":1}`); r.status != 200 {
		t.Fatal(r.body)
	}
	w.restart() // an approval is durable
	refused(2)
	first := uint64(1) << client.CountBits
	if next, err := start(1); err != nil || next != first {
		t.Fatalf("the approved generation: %d, %v", next, err)
	}
	for _, g := range []uint64{1, 2, 3, 4} {
		refused(g)
	}
	if next, err := start(first); err != nil || next != first+1 {
		t.Errorf("the new branch: %d, %v", next, err)
	}
	log := w.auditLog()
	for _, want := range []string{`"event":"approve-restore","outcome":"granted"`, `"approvedBy":"` + identitytest.AdminID + `"`} {
		if strings.Count(log, want) != 1 {
			t.Errorf("the log says %d times %s:\n%s", strings.Count(log, want), want, log)
		}
	}
}

// Each row is an approval that changes nothing; the last two are accepted.
func TestApproveRestoreRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	admin := w.signIn(identitytest.AdminID, nil)
	for _, r := range []struct {
		name, bearer, vm, body string
		status                 int
	}{
		{"no sign-in", "", vmID, `{"generation":1}`, 401},
		{"no role", w.signIn(stranger, nil), vmID, `{"generation":1}`, 403},
		{"a role for release", w.signIn(releaser, nil), vmID, `{"generation":1}`, 403},
		{"the operator, whatever its role", w.signIn(operator, nil), vmID, `{"generation":1}`, 403},
		{"SVC-13 the officer of another vault", w.signIn(tenantB, nil), vmID, `{"generation":1}`, 403},
		{"the VM itself", w.vm(vmID), vmID, `{"generation":1}`, 403},
		{"a VM without a key", admin, otherVM, `{"generation":1}`, 404},
		{"a generation that needs none", admin, vmID, `{"generation":0}`, 403},
		{"no generation", admin, vmID, `{}`, 400},
		{"no body", admin, vmID, ``, 400},
		{"a negative generation", admin, vmID, `{"generation":-1}`, 400},
		{"a generation as text", admin, vmID, `{"generation":"1"}`, 400},
		{"SVC-20 two generations", admin, vmID, `{"generation":1,"generation":2}`, 400},
		{"SVC-20 one generation in two cases", admin, vmID, `{"generation":1,"Generation":2}`, 400},
		{"beyond all generations", admin, vmID, `{"generation":9007199254740992}`, 400},
		{"SVC-12 a VM id that climbs", admin, "..%2fkeys", `{"generation":1}`, 400},
		{"SVC-12 a VM id in upper case", admin, strings.ToUpper(vmID), `{"generation":1}`, 400},
		{"the owner", admin, vmID, `{"generation":1}`, 200},
		{"the owner, again", admin, vmID, `{"generation":2}`, 200},
	} {
		t.Run(r.name, func(t *testing.T) {
			if got := w.approve(r.bearer, r.vm, r.body); got.status != r.status {
				t.Errorf("%d %s, want %d", got.status, got.body, r.status)
			}
		})
	}
	if n := strings.Count(w.auditLog(), `"event":"approve-restore","outcome":"granted"`); n != 2 {
		t.Errorf("%d approvals in the log", n)
	}
}

// After a restore of the store nothing is opened before its owner approved it, whatever the record says.
func TestHD08RestoredStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	w.createGuestState(otherVM, identitytest.AdminID, nil)
	key := rsaKey(t)
	n := 0
	start := func(vm string, generation uint64) error {
		n++
		req := openRequest(w, &key.PublicKey, generation, n)
		req.VMID = vm
		c := w.client(w.vm(vm))
		o, err := c.Open(t.Context(), req)
		if err != nil {
			return err
		}
		confirm := confirmRequest(w, &key.PublicKey, o.Next, n)
		confirm.VMID = vm
		return c.Confirm(t.Context(), confirm)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(start(vmID, 0))
	backup, err := keys.Backup(w.cfg, w.environment())
	must(err)
	must(start(vmID, 1))
	must(start(vmID, 2))
	w.restoreStore(backup)
	for vm, generations := range map[string][]uint64{vmID: {0, 1, 2, 3}, otherVM: {0}} {
		for _, g := range generations {
			if err := start(vm, g); evidence.CodeOf(err) != evidence.CodePolicy || !strings.Contains(err.Error(), "restored from a backup") {
				t.Errorf("VM %s at generation %d: %v", vm, g, err)
			}
		}
	}
	admin := w.signIn(identitytest.AdminID, nil)
	for vm, g := range map[string]int{vmID: 3, otherVM: 0} {
		if r := w.approve(admin, vm, fmt.Sprintf(`{"generation":%d}`, g)); r.status != 200 {
			t.Fatal(r.body)
		}
	}
	if err := start(vmID, 2); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("another generation than the approved one: %v", err)
	}
	must(start(vmID, 3))
	must(start(otherVM, 0))
	if err := start(vmID, 3); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("an approval served twice: %v", err)
	}
	// A VM made in the new epoch needs none.
	third := "0e4a1b7c-0000-4000-8000-000000000003"
	w.createGuestState(third, identitytest.AdminID, nil)
	must(start(third, 0))
	if !strings.Contains(w.auditLog(), `"event":"restore-store","outcome":"granted"`) {
		t.Error("the restore is not in the log")
	}
	// An approval ends with the epoch it was given in.
	if r := w.approve(admin, vmID, `{"generation":1}`); r.status != 200 {
		t.Fatal(r.body)
	}
	if backup, err = keys.Backup(w.cfg, w.environment()); err != nil {
		t.Fatal(err)
	}
	w.restoreStore(backup)
	if err := start(vmID, 1); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("an approval of before the restore: %v", err)
	}
}

// A session that opened before a restore of the store doesn't confirm after it.
func TestHD08ConfirmAfterARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.createGuestState(vmID, identitytest.AdminID, nil)
	key := rsaKey(t)
	if _, err := w.client(w.vm(vmID)).Open(t.Context(), openRequest(w, &key.PublicKey, 0, 1)); err != nil {
		t.Fatal(err)
	}
	backup, err := keys.Backup(w.cfg, w.environment())
	if err != nil {
		t.Fatal(err)
	}
	w.restoreStore(backup)
	if err := w.client(w.vm(vmID)).Confirm(t.Context(), confirmRequest(w, &key.PublicKey, 1, 1)); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Error(err)
	}
}
