package keys_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/keys/audit"
)

type fullDisk struct{ full atomic.Bool }

func (d *fullDisk) Write(audit.Entry) error {
	if d.full.Load() {
		return evidence.Refuse(evidence.CodeUnavailable, "audit log", errors.New("no space left on device").Error(), "an entry on disk before any answer")
	}
	return nil
}

// Without the entry nothing is released, and nothing changes for the session before.
func TestSVC35NoReleaseWithoutAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	disk := &fullDisk{}
	w.audit = disk
	w.restart()
	w.createGuestState(vmID, identitytest.AdminID, nil)
	if r := w.call("POST", "main", "/keys/data/create?api-version=7.4", w.signIn(identitytest.AdminID, nil), `{"kty":"oct","attributes":{"exportable":true},"release_policy":{"data":"`+b64(w.policy())+`"}}`); r.status != 200 {
		t.Fatal(r.body)
	}
	key := rsaKey(t)
	c := w.client(w.vm(vmID))
	release := func() int {
		return w.call("POST", "main", "/keys/data/release?api-version=7.4", w.signIn(releaser, nil), `{"target":"`+w.token(&key.PublicKey)+`"}`).status
	}
	if _, err := c.Open(t.Context(), openRequest(w, &key.PublicKey, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if got := release(); got != 200 {
		t.Fatalf("release: %d", got)
	}
	disk.full.Store(true)
	if _, err := c.Open(t.Context(), openRequest(w, &key.PublicKey, 0, 2)); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("open: %v", err)
	}
	if _, err := c.Open(t.Context(), openRequest(w, &key.PublicKey, 7, 3)); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("an open that would be refused: %v", err)
	}
	if err := c.Confirm(t.Context(), confirmRequest(w, &key.PublicKey, 1, 1)); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("confirm: %v", err)
	}
	if got := release(); got != 503 {
		t.Errorf("release: %d", got)
	}
	disk.full.Store(false)
	if err := c.Confirm(t.Context(), confirmRequest(w, &key.PublicKey, 1, 1)); err != nil {
		t.Errorf("the session before is still the latest: %v", err)
	}
	if got := release(); got != 200 {
		t.Errorf("release afterwards: %d", got)
	}
}
