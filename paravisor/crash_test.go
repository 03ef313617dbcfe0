//go:build failpoints

package paravisor

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/internal/failpoint"
	"cloister.dev/cloister/paravisor/client"
	"cloister.dev/cloister/paravisor/vtpm"
)

// The child process of TestCrashAtEachDurableWrite: one life of a VM on the files of CLOISTER_CRASH_DIR.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("CLOISTER_CRASH_DIR")
	if dir == "" {
		t.Skip("only as a child of TestCrashAtEachDurableWrite")
	}
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	vars, err := os.ReadFile(filepath.Join(w.dir, "vars.fd"))
	if err != nil {
		t.Fatal(err)
	}
	w.dir = dir
	w.pin(sameKey(t, filepath.Join(dir, "verifier.key")))
	if err := os.WriteFile(filepath.Join(dir, "vars.fd"), vars, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "keeper.json")
	w.keeper.load(t, file)
	w.keeper.save = func() { w.keeper.store(t, file) }
	r := w.ready()
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(gateTPM{r.gate}); err != nil {
		t.Fatal(err)
	}
	if !r.vars.WriteAt([]byte{byte(w.keeper.confirmed)}, 7) {
		t.Fatal("variables refused")
	}
	if err := r.vars.Flush(); err != nil {
		t.Fatal(err)
	}
	w.halt(r)
	if err := os.WriteFile(filepath.Join(dir, "ak"), w.aks[0].AKPublic, 0o600); err != nil {
		t.Fatal(err)
	}
}

// gateTPM sends commands as the VM does.
type gateTPM struct{ gate *vtpm.Gate }

func (g gateTPM) Send(command []byte) ([]byte, error) {
	return g.gate.Exchange(context.Background(), command)
}

// sameKey is a verifier's key that outlives the process.
func sameKey(t *testing.T, file string) *rsa.PrivateKey {
	t.Helper()
	raw, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		raw = x509.MarshalPKCS1PrivateKey(verifierKey())
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS1PrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type keeperState struct {
	Confirmed, Pending uint64
	Session            string
}

func (k *fakeKeeper) load(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return
	}
	var s keeperState
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	k.confirmed, k.pending, k.session = s.Confirmed, s.Pending, s.Session
}

func (k *fakeKeeper) store(t *testing.T, file string) {
	raw, err := json.Marshal(keeperState{k.confirmed, k.pending, k.session})
	if err == nil {
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestCrashAtEachDurableWrite kills the process at every durable write of a first and of a later boot.
// Nobody is locked out, and an identity that was once given out stays.
func TestCrashAtEachDurableWrite(t *testing.T) {
	life := func(t *testing.T, dir, point string) (killed bool) {
		t.Helper()
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashChild$")
		c.Env = append(os.Environ(), "CLOISTER_CRASH_DIR="+dir, "CLOISTER_FAILPOINT="+point)
		out, err := c.CombinedOutput()
		if err == nil {
			return false
		}
		if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return true
		}
		t.Fatalf("the life with %q failed: %v\n%s", point, err, out)
		return false
	}
	points := slices.DeleteFunc(failpoint.Names(), func(n string) bool {
		return !strings.HasPrefix(n, "vmgs/") && !strings.HasPrefix(n, "paravisor/")
	})
	hit := map[string]bool{}
	for _, before := range []int{0, 1} {
		for _, name := range points {
			for nth := 1; nth <= 3; nth++ {
				point := fmt.Sprintf("%s#%d", name, nth)
				t.Run(fmt.Sprintf("%d boots before, %s", before, point), func(t *testing.T) {
					dir := shortDir(t)
					var ak []byte
					for range before {
						life(t, dir, "")
						ak, _ = os.ReadFile(filepath.Join(dir, "ak"))
					}
					if !life(t, dir, point) {
						return // a life has fewer such writes
					}
					hit[name] = true
					if life(t, dir, "") {
						t.Fatal("killed without a failpoint")
					}
					after, err := os.ReadFile(filepath.Join(dir, "ak"))
					if err != nil {
						t.Fatal(err)
					}
					if before > 0 && string(after) != string(ak) {
						t.Error("TPM-16 another AK after the crash")
					}
				})
			}
		}
	}
	for _, name := range points {
		if !hit[name] {
			t.Errorf("no life came to %s", name)
		}
	}
}
