package policystore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/attest/policy"
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

func TestCompiledOnceForAsLongAsItHolds(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "policies.json"))
	if err != nil {
		t.Fatal(err)
	}
	const permit, deny = "version=1.0; authorizationrules { => permit(); }; issuancerules {};", "version=1.0; authorizationrules { => deny(); }; issuancerules {};"
	compile := func(kind, text string) *policy.Policy {
		t.Helper()
		p, err := s.Compiled(kind, text)
		if err != nil || p.Text() != text {
			t.Fatalf("%v, %v", p, err)
		}
		return p
	}
	first := compile("SevSnpVm", permit)
	if compile("SevSnpVm", permit) != first {
		t.Error("the same text was parsed twice")
	}
	compile("TdxVm", deny)
	if compile("SevSnpVm", permit) != first {
		t.Error("another type's policy displaced this one's")
	}
	if compile("SevSnpVm", deny) == first {
		t.Error("another text got the policy before it")
	}
	if p, err := s.Compiled("SevSnpVm", "version=1.0; authorizationrules { => allow(); };"); err == nil {
		t.Errorf("a text that is no policy: %v", p)
	}
	compile("SevSnpVm", deny) // what could not be parsed displaced nothing
}
