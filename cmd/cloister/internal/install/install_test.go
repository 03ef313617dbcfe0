package install

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOpenTwiceChangesNothing(t *testing.T) {
	dir := t.TempDir()
	now := func() time.Time { return time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC) }
	read := func() map[string][]byte {
		i, err := Open(dir, "/programs", now)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := i.pki.server("x", "localhost", "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, name := range []string{"installation.json", "pki/ca.crt", "pki/ca.key", "pki/x.crt", "pki/x.key"} {
			if files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		return files
	}
	if there, err := Exists(dir); there || err != nil {
		t.Fatalf("empty folder: %v, %v", there, err)
	}
	first := read()
	for name, again := range read() {
		if !bytes.Equal(first[name], again) {
			t.Errorf("%s changed", name)
		}
	}
	if there, err := Exists(dir); !there || err != nil {
		t.Errorf("installation: %v, %v", there, err)
	}
	for _, name := range []string{"installation.json", "pki/ca.key", "pki/x.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %o, want 600", name, info.Mode().Perm())
		}
	}
}

func TestServerCertificates(t *testing.T) {
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	make1 := func(now time.Time, hosts ...string) *x509.Certificate {
		p, err := openPKI(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		file, _, err := p.server("x", hosts...)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckSignatureFrom(p.cert); err != nil {
			t.Error(err)
		}
		return c
	}
	first := make1(at, "localhost", "127.0.0.1")
	if !make1(at.Add(serverLifetime-renewBefore-time.Hour), "localhost").Equal(first) {
		t.Error("a good certificate was replaced")
	}
	if make1(at, "localhost", "other.localhost").Equal(first) {
		t.Error("a certificate without a name that is needed was kept")
	}
	second := make1(at, "localhost")
	if make1(at.Add(serverLifetime-renewBefore+time.Hour), "localhost").Equal(second) {
		t.Error("a certificate that ends soon was kept")
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("none"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openPKI(dir, at); err == nil {
		t.Error("a CA that can't be read was replaced silently")
	}
}
