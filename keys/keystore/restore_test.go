package keystore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/keystore"
)

// shelf is a keystore with copies of its files from after each change.
type shelf struct {
	t      *testing.T
	files  keystore.Files
	stores [][]byte
	anchor [][]byte
}

func newShelf(t *testing.T, changes int) *shelf {
	t.Helper()
	s := &shelf{t: t, files: keystore.In(filepath.Join(t.TempDir(), "keystore"))}
	for n := range changes {
		s.change(uint64(n + 1))
		s.stores, s.anchor = append(s.stores, s.read(s.files.Store)), append(s.anchor, s.read(s.files.Anchor))
	}
	return s
}

var guestKey = keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gs"}

// change writes one record, in a process of its own.
func (s *shelf) change(confirmed uint64) {
	s.t.Helper()
	b, err := keystore.OpenSoftware(s.files, passphrase, cheap)
	if err != nil {
		s.t.Fatal(err)
	}
	err = b.Update(s.t.Context(), guestKey, func(*keystore.Key) (*keystore.Key, error) {
		return &keystore.Key{ID: guestKey, GuestState: &keystore.GuestState{Confirmed: confirmed}}, nil
	})
	if err := errors.Join(err, b.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) read(path string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// lay puts files in place; nil takes one away.
func (s *shelf) lay(store, anchor []byte) {
	s.t.Helper()
	for path, b := range map[string][]byte{s.files.Store: store, s.files.Anchor: anchor} {
		err := os.Remove(path)
		if b != nil {
			err = os.WriteFile(path, b, 0o600)
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// open gives the generation that the store tells of and its epoch.
func (s *shelf) open() (confirmed, epoch uint64, err error) {
	s.t.Helper()
	b, err := keystore.OpenSoftware(s.files, passphrase, cheap)
	if err != nil {
		return 0, 0, err
	}
	k, err := b.Get(s.t.Context(), guestKey)
	if err == nil {
		confirmed = k.GuestState.Confirmed
	}
	return confirmed, b.Epoch(), errors.Join(err, b.Close())
}

func TestHD08AnOlderCopyIsNoticed(t *testing.T) {
	s := newShelf(t, 3)
	other := newShelf(t, 3)
	// Two states that each are the third write: a store that went on elsewhere from the second.
	s.lay(s.stores[1], s.anchor[1])
	s.change(33)
	fork := s.read(s.files.Store)
	flip := func(b []byte, at ...int) []byte {
		b = bytes.Clone(b)
		for _, i := range at {
			b[i] ^= 1
		}
		return b
	}
	// The latest mark is in one slot, the one before in the other.
	for _, r := range []struct {
		name          string
		store, anchor []byte
		want          evidence.Code
	}{
		{"as written", s.stores[2], s.anchor[2], ""},
		{"after a crash between the two writes", s.stores[2], s.anchor[1], ""},
		{"after a crash in the midst of the anchor's", s.stores[2], flip(s.anchor[2], 512), ""},
		{"HD-08 the keystore of the write before", s.stores[1], s.anchor[2], evidence.CodeBinding},
		{"HD-08 the keystore of long ago", s.stores[0], s.anchor[2], evidence.CodeBinding},
		{"HD-08 without its anchor", s.stores[2], nil, evidence.CodeBinding},
		{"HD-08 the anchor alone", nil, s.anchor[2], evidence.CodeBinding},
		{"an anchor that is too old", s.stores[2], s.anchor[0], evidence.CodeBinding},
		{"a store that went on elsewhere", fork, s.anchor[2], evidence.CodeBinding},
		{"the anchor of another keystore", s.stores[2], other.anchor[2], evidence.CodeBinding},
		{"both of another keystore", other.stores[2], s.anchor[2], evidence.CodeBinding},
		{"an anchor with both slots changed", s.stores[2], flip(s.anchor[2], 7, 512+7), evidence.CodeBinding},
		{"an anchor's epoch changed", s.stores[2], flip(s.anchor[2], 15, 512+15), evidence.CodeBinding},
		{"an anchor's digest changed", s.stores[2], flip(s.anchor[2], 20, 512+20), evidence.CodeBinding},
		{"a cut anchor", s.stores[2], s.anchor[2][:512], evidence.CodeBinding},
		{"an empty anchor", s.stores[2], []byte{}, evidence.CodeBinding},
		{"a longer anchor", s.stores[2], append(bytes.Clone(s.anchor[2]), 0), evidence.CodeBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			s.t = t
			s.lay(r.store, r.anchor)
			confirmed, _, err := s.open()
			if evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") {
				t.Fatalf("%v, want %q", err, r.want)
			}
			if err == nil && confirmed != 3 {
				t.Errorf("generation %d", confirmed)
			}
			if err != nil && r.store != nil && !bytes.Equal(s.read(s.files.Store), r.store) {
				t.Error("a refused keystore was changed")
			}
		})
	}
}

func TestRestoreSoftware(t *testing.T) {
	s := newShelf(t, 3)
	other := newShelf(t, 1)
	logged := func(uint64) error { return nil }
	backup, err := func() ([]byte, error) {
		s.lay(s.stores[0], s.anchor[0])
		return keystore.Snapshot(s.files, passphrase)
	}()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name          string
		store, anchor []byte
		backup        []byte
		replace       bool
		want          evidence.Code
		epoch         uint64
	}{
		{"over the present one", s.stores[2], s.anchor[2], backup, true, "", 1},
		{"where the keystore was lost", nil, s.anchor[2], backup, false, "", 1},
		{"on another machine", nil, nil, backup, false, "", 1},
		{"over the present one, without consent", s.stores[2], s.anchor[2], backup, false, evidence.CodePolicy, 0},
		{"a changed backup", s.stores[2], s.anchor[2], append(bytes.Clone(backup), 0), true, evidence.CodeBinding, 0},
		{"HD-16 a backup under another passphrase", nil, nil, foreignStore(t), true, evidence.CodeBinding, 0},
		{"the backup of another keystore, beside this one's anchor", nil, s.anchor[2], other.stores[0], false, evidence.CodeBinding, 0},
		{"another kind of file", nil, nil, []byte("hello"), false, evidence.CodeParse, 0},
		{"an empty backup", nil, nil, nil, false, evidence.CodeParse, 0},
	} {
		t.Run(r.name, func(t *testing.T) {
			s.t = t
			s.lay(r.store, r.anchor)
			epoch, err := keystore.RestoreSoftware(s.files, passphrase, r.backup, r.replace, logged)
			if evidence.CodeOf(err) != r.want || (err == nil) != (r.want == "") || epoch != r.epoch {
				t.Fatalf("epoch %d, %v, want %q", epoch, err, r.want)
			}
			if err != nil {
				if got, err := os.ReadFile(s.files.Store); r.store != nil && (err != nil || !bytes.Equal(got, r.store)) || r.store == nil && err == nil {
					t.Error("the keystore was changed")
				}
				return
			}
			confirmed, epoch, err := s.open()
			if err != nil || confirmed != 1 || epoch != r.epoch {
				t.Errorf("generation %d, epoch %d, %v", confirmed, epoch, err)
			}
		})
	}
	t.Run("each restore has an epoch of its own", func(t *testing.T) {
		s.t = t
		s.lay(s.stores[2], s.anchor[2])
		for want := uint64(1); want < 4; want++ {
			epoch, err := keystore.RestoreSoftware(s.files, passphrase, backup, true, logged)
			if err != nil || epoch != want {
				t.Fatalf("epoch %d, %v, want %d", epoch, err, want)
			}
			s.change(want)
		}
	})
	t.Run("SVC-35 what can't be logged is not done", func(t *testing.T) {
		s.t = t
		s.lay(s.stores[2], s.anchor[2])
		full := errors.New("full")
		if _, err := keystore.RestoreSoftware(s.files, passphrase, backup, true, func(uint64) error { return full }); !errors.Is(err, full) {
			t.Error(err)
		}
		if confirmed, epoch, err := s.open(); err != nil || confirmed != 3 || epoch != 0 {
			t.Errorf("generation %d, epoch %d, %v", confirmed, epoch, err)
		}
	})
	t.Run("while it is in use", func(t *testing.T) {
		s.t = t
		s.lay(s.stores[2], s.anchor[2])
		b, err := keystore.OpenSoftware(s.files, passphrase, cheap)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keystore.RestoreSoftware(s.files, passphrase, backup, true, logged); err == nil {
			t.Error("restored under a running key keeper")
		}
		if got, err := keystore.Snapshot(s.files, passphrase); err != nil || !bytes.Equal(got, s.stores[2]) {
			t.Errorf("a backup of a running one: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Each kind of record is in a store of which then each byte is changed in turn.
func TestHD08EachByteOfAStoreCounts(t *testing.T) {
	files := keystore.In(filepath.Join(t.TempDir(), "keystore"))
	b, err := keystore.OpenSoftware(files, passphrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	version := []keystore.Version{{ID: "1", Material: keystore.Material{Handle: []byte("handle")}}}
	for _, k := range []*keystore.Key{
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "key"}, Versions: version, Policy: &keystore.Policy{Data: []byte("{}")}},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "serves"}, Versions: version, Serves: true},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gone"}, Deleted: &keystore.Deleted{}},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gs-1"}, Versions: version, GuestState: &keystore.GuestState{Confirmed: 4, Pending: &keystore.Pending{Generation: 5}}},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gs-2"}, GuestState: &keystore.GuestState{Approval: &keystore.Approval{Generation: 3, By: "owner"}}},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gs-3"}, GuestState: &keystore.GuestState{}, Customer: &keystore.CustomerKey{Name: "serves", Version: "1"}},
		{ID: keystore.ID{Vault: keystore.VaultID{Tenant: "t", Name: "v"}, Name: "gs-4"}, Destroyed: true},
		{ID: keystore.ID{Name: "roles-v"}, Extra: map[string][]byte{"roleAssignments": []byte("[]")}},
		{ID: keystore.ID{Name: "response-key"}, Versions: version},
	} {
		if err := b.Update(t.Context(), k.ID, func(*keystore.Key) (*keystore.Key, error) { return k, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(files.Store)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.Snapshot(files, passphrase); err != nil {
		t.Fatalf("the positive twin: %v", err)
	}
	for i := range good {
		good[i] ^= 1
		if err := os.WriteFile(files.Store, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keystore.Snapshot(files, passphrase); err == nil {
			t.Errorf("byte %d of %d changed, and nobody noticed", i, len(good))
		}
		good[i] ^= 1
	}
}

// foreignStore is a keystore that somebody else made.
func foreignStore(t *testing.T) []byte {
	t.Helper()
	files := keystore.In(filepath.Join(t.TempDir(), "keystore"))
	b, err := keystore.OpenSoftware(files, []byte("the attacker's passphrase"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(files.Store)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
