package keystore

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o opened
		at := Address{Key: ID{Vault: VaultID{Tenant: "t", Name: "v"}, Name: "k"}, Version: "1"}
		a := Material{Handle: []byte("a")}.name(at)
		if o.get(a) != nil {
			t.Fatal("there before it was put")
		}
		o.put(a, "key")
		elsewhere := at
		elsewhere.Version = "2"
		if o.get(Material{Handle: []byte("a")}.name(elsewhere)) != nil {
			t.Error("found under another address")
		}
		if o.get(Material{Handle: []byte("b")}.name(at)) != nil {
			t.Error("found for other material")
		}
		for range 5 {
			<-time.After(keptOpen - time.Second)
			if o.get(a) == nil {
				t.Fatal("forgotten while in use")
			}
		}
		<-time.After(keptOpen)
		synctest.Wait()
		if o.get(a) != nil || len(o.keys) != 0 {
			t.Error("kept after its time")
		}
		for n := range 2 * maxOpen {
			o.put(Material{Handle: fmt.Append(nil, n)}.name(at), n)
		}
		if len(o.keys) != maxOpen {
			t.Errorf("%d keys are kept", len(o.keys))
		}
		o.drop()
		if len(o.keys) != 0 {
			t.Error("kept after the end")
		}
	})
}

// A key that was used is not usable at an address that it was not sealed for, not even while it is readable.
func TestOpenedKeyStaysAtItsAddress(t *testing.T) {
	s, err := OpenSoftware(In(filepath.Join(t.TempDir(), "keystore")), []byte("a passphrase of tests"), Cost{Time: 1, MemoryKiB: 64, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	at := Address{Key: ID{Vault: VaultID{Tenant: "t", Name: "v"}, Name: "k"}, Version: "1"}
	m, err := s.Generate(t.Context(), at, Spec{Kty: "EC", Crv: "P-256"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Sign(t.Context(), at, m, "ES256", make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
	}
	for name, other := range map[string]Address{
		"another tenant":  {Key: ID{Vault: VaultID{Tenant: "u", Name: "v"}, Name: "k"}, Version: "1"},
		"another vault":   {Key: ID{Vault: VaultID{Tenant: "t", Name: "w"}, Name: "k"}, Version: "1"},
		"another key":     {Key: ID{Vault: VaultID{Tenant: "t", Name: "v"}, Name: "l"}, Version: "1"},
		"another version": {Key: at.Key, Version: "2"},
	} {
		if _, err := s.Sign(t.Context(), other, m, "ES256", make([]byte, 32)); err == nil {
			t.Errorf("signed for %s", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
