package embedded

import (
	"os"
	"path/filepath"
	"testing"
)

// The peer socket must lie in a folder that only the owner enters.
func TestListensOnlyInPrivateFolder(t *testing.T) {
	e, err := Start(t.Context(), Options{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	info, err := os.Stat(e.sockets)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("socket folder: %v, %v; want 0700", info, err)
	}
	for _, l := range e.etcd.Peers {
		if filepath.Dir(l.Addr().String()) != e.sockets {
			t.Errorf("listens at %s, want under %s", l.Addr(), e.sockets)
		}
	}
	if len(e.etcd.Clients) != 0 {
		t.Errorf("%d client listeners, want none", len(e.etcd.Clients))
	}
}
