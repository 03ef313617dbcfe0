//go:build boot

package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/image/check"
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
	f, err := os.Open(m.Path(KindDisk))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	report, err := check.Run(context.Background(), f, m.Disk.Size, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(check.Software); err != nil {
		t.Errorf("it does not pass its own check: %v", err)
	}
	for tee, id := range map[check.TEE]string{check.SEVSNP: "IMG-KERNEL-SNP", check.TDX: "IMG-KERNEL-TDX"} {
		if err := report.Err(tee); evidence.CodeOf(err) != evidence.CodeConfig || !strings.HasSuffix(err.Error(), "(image check: "+id+")") {
			t.Errorf("%s: %v, want %s alone", tee, err, id)
		}
	}
	if loaded.Digest != m.Digest {
		t.Errorf("loaded digest %s, built %s", loaded.Digest, m.Digest)
	}
}
