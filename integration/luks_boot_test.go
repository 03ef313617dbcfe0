//go:build boot

package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/guest/luks2"
	"cloister.dev/cloister/internal/sbin"
)

// headerStart is magic, version and size of a LUKS2 header: the magic alone is also in the guest's program.
var headerStart = []byte("LUKS\xba\xbe\x00\x02\x00\x00\x00\x00\x00\x00\x40\x00")

func read(t *testing.T, path string, at int64, size int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

// headerOf ends a VM that copies its image, and gives headers and key slot of the volume that it made before.
func (s *system) headerOf(vm string) []byte {
	s.t.Helper()
	disk := filepath.Join(s.state, "host", "vms", s.show(vm).VMID, "os.img")
	s.await("there is a header on the disk of "+vm, time.Minute, func() bool {
		_, ok := search(s.t, disk, headerStart)
		return ok
	})
	s.run("vm", "deallocate", vm)
	header := read(s.t, disk, find(s.t, disk, headerStart), luks2.Region)
	if _, err := luks2.Read(bytes.NewReader(header)); err != nil {
		s.t.Fatalf("positive twin: %v", err)
	}
	return header
}

// withNullCipher is a volume's header with cipher_null in the key slot, and checksums that fit.
func withNullCipher(t *testing.T, volume []byte) []byte {
	t.Helper()
	const copySize, binarySize, atChecksum, checksumSize = 16384, 4096, 448, 64 // LUKS2 on-disk format, section 2.1
	out := bytes.Clone(volume)
	for n := range 2 {
		header := out[n*copySize : (n+1)*copySize]
		var m map[string]any
		if err := json.Unmarshal(bytes.TrimRight(header[binarySize:], "\x00"), &m); err != nil {
			t.Fatal(err)
		}
		slots, ok := m["keyslots"].(map[string]any)
		if !ok {
			t.Fatalf("no key slots in %v", m)
		}
		slot, ok := slots["0"].(map[string]any)
		if !ok {
			t.Fatalf("no key slot 0 in %v", slots)
		}
		area, ok := slot["area"].(map[string]any)
		if !ok {
			t.Fatalf("no area in %v", slot)
		}
		area["encryption"] = "cipher_null-ecb"
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		clear(header[binarySize:])
		copy(header[binarySize:], text)
		clear(header[atChecksum : atChecksum+checksumSize])
		sum := sha256.Sum256(header)
		copy(header[atChecksum:], sum[:])
	}
	// cryptsetup takes the header for a good one, so that what refuses it is our guest.
	img := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(img, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, luks2.DataOffset+1<<20); err != nil {
		t.Fatal(err)
	}
	dump, err := exec.Command(sbin.Path("cryptsetup"), "luksDump", img).CombinedOutput()
	if err != nil || !strings.Contains(string(dump), "cipher_null-ecb") {
		t.Fatalf("cryptsetup luksDump: %v\n%s", err, dump)
	}
	return out
}
