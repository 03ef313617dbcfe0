package policystore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.json")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ok := func() error { return nil }
	if err := s.Set("SevSnpVm", Policy{Text: "a"}, ok); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("AzureGuest", Policy{Text: "b"}, ok); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("the log is full")
	if err := s.Set("SevSnpVm", Policy{Text: "c"}, func() error { return refused }); !errors.Is(err, refused) {
		t.Errorf("SVC-35: %v", err)
	}
	if err := s.Reset("AzureGuest", ok); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"in memory": s, "from the file": reopen(t, path)} {
		if p, ok := s.Get("SevSnpVm"); !ok || p.Text != "a" {
			t.Errorf("%s: %v, %v", name, p, ok)
		}
		if p, ok := s.Get("AzureGuest"); ok {
			t.Errorf("%s: still %v", name, p)
		}
	}
	for _, broken := range []string{"", "null", "[]", `{"a":`} {
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil {
			t.Errorf("%q was opened: policies lost would mean the default policy", broken)
		}
	}
	if err := s.Set("x", Policy{}, ok); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("y", Policy{}, ok); err == nil {
		t.Error("a policy was set without its folder")
	}
	if _, ok := s.Get("y"); ok {
		t.Error("a policy that is not on disk holds")
	}
}

func reopen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
