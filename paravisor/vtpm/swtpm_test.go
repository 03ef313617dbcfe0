package vtpm

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func startSwtpm(t *testing.T) *Swtpm {
	t.Helper()
	s, err := Start(Process{Scratch: scratch(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cloister-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func powerOn(t *testing.T, s *Swtpm) {
	t.Helper()
	if err := s.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(s); err != nil {
		t.Fatal(err)
	}
}

func TestStateMovesToAnotherProcess(t *testing.T) {
	a := startSwtpm(t)
	powerOn(t, a)
	ek := func(s *Swtpm) []byte {
		r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: r.ObjectHandle}).Execute(s); err != nil {
			t.Fatal(err)
		}
		return r.Name.Buffer
	}
	want := ek(a)
	s1, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	s2, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s1, s2) {
		t.Error("state differs though nothing happened")
	}
	b := startSwtpm(t)
	if err := b.Load(s1); err != nil {
		t.Fatal(err)
	}
	powerOn(t, b)
	if got := ek(b); !bytes.Equal(got, want) {
		t.Error("another endorsement key after the move")
	}
	t.Logf("state has %d bytes", len(s1))
}
