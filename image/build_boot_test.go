//go:build boot

package image

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wholeImage builds (or takes from the cache) the real image. CLOISTER_IMAGE_OUT keeps it between runs.
func wholeImage(t *testing.T) *Manifest {
	t.Helper()
	out := os.Getenv("CLOISTER_IMAGE_OUT")
	if out == "" {
		out = filepath.Join(t.TempDir(), Default)
	}
	guest := os.Getenv("CLOISTER_GUEST")
	if guest == "" {
		guest = compile(t, "cloister.dev/cloister/cmd/cloister-guest")
	}
	start := time.Now()
	m, err := Build(context.Background(), BuildOptions{
		Out: out, GuestBinary: guest, SecureBootKeys: filepath.Join(filepath.Dir(out), "keys"), Refresh: os.Getenv("CLOISTER_IMAGE_REFRESH") != "",
		Progress: func(s string) { t.Logf("%6.1fs %s", time.Since(start).Seconds(), s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%6.1fs done: %s", time.Since(start).Seconds(), m.Digest)
	return m
}

func TestBuildWholeImage(t *testing.T) {
	m := wholeImage(t)
	loaded, err := Load(filepath.Dir(m.Path(KindDisk)))
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Check(filepath.Dir(m.Path(KindDisk))); err != nil {
		t.Fatal(err)
	}
	if loaded.Digest != m.Digest {
		t.Errorf("loaded digest %s, built %s", loaded.Digest, m.Digest)
	}
}
