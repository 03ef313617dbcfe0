package narrate

import (
	"strings"
	"testing"
	"time"
)

func TestPlainLinesHaveNoControlCodes(t *testing.T) {
	var out strings.Builder
	at := time.Unix(0, 0)
	n := Narrator{Out: &out, Now: func() time.Time { return at }}
	n.Step(at, "token", "started", nil)
	n.Tick()
	n.Step(at.Add(1500*time.Millisecond), "token", "done", map[string]string{"root": "software", "issuer": strings.Repeat("ab", 32), "kid": "x"})
	n.Step(at, "uefi", "failed", map[string]string{"reason": "refused"})
	want := "✓ token from the verifier                       1.5 s  issuer abababababab…, root software\n✗ UEFI, Secure Boot                                    reason refused\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
}

func TestLiveLineIsOverwritten(t *testing.T) {
	var out strings.Builder
	at := time.Unix(0, 0)
	n := Narrator{Out: &out, Live: true, Now: func() time.Time { return at.Add(2 * time.Second) }}
	n.Step(at, "os-disk", "started", nil)
	n.Tick()
	if !strings.Contains(out.String(), "2.0 s") {
		t.Errorf("no time on the live line: %q", out.String())
	}
	n.Step(at.Add(3*time.Second), "os-disk", "done", nil)
	if !strings.HasSuffix(strings.TrimRight(out.String(), " \n"), "3.0 s") || !strings.Contains(out.String(), "\r\x1b[K✓") {
		t.Errorf("the end did not overwrite the live line: %q", out.String())
	}
}

func TestAPlainDiskIsNotCalledEncrypted(t *testing.T) {
	var out strings.Builder
	n := Narrator{Out: &out, Now: time.Now}
	n.Step(time.Now(), "os-disk", "done", map[string]string{"encryption": "luks2"})
	n.Step(time.Now(), "os-disk", "done", map[string]string{"encryption": "none in the VM"})
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], "encrypted with a key made inside") || !strings.Contains(lines[1], "not encrypted") {
		t.Errorf("got %q", lines)
	}
}
