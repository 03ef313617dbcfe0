package software

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/softchip"
)

func TestSealedMemoryStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fw")
	content := bytes.Repeat([]byte("firmware"), 512)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := sealed("fw", path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the memory is not the file as it was: %d bytes, %v", len(got), err)
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL; err != nil || seals != want {
		t.Errorf("seals %x, %v; want %x", seals, err, want)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the descriptor can be written to")
	}
}

func TestSealedRefuses(t *testing.T) {
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, maxFirmware+1); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{huge, huge + "-missing", t.TempDir()} {
		if f, err := sealed("fw", path); err == nil {
			f.Close()
			t.Errorf("%s was taken", path)
		}
	}
}

func TestLaunchAgainstTheChip(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	if err := softchip.Init(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- softchip.Run(ctx, softchip.Config{Dir: dir, Socket: socket}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for up := false; !up; {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatal(err)
		default:
		}
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			up = true
		}
	}
	fw := filepath.Join(dir, "fw")
	if err := os.WriteFile(fw, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &Launcher{Firmware: fw, Socket: socket, Accel: "tcg"}
	spec := api.VMSpec{VCPUs: 1, CPUModel: "EPYC", InitData: []byte("{}")}
	got, err := l.Launch(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Firmware.Close()
	if got.Handle == "" || got.Socket != socket || got.Accel != "tcg" || len(got.Notes) == 0 {
		t.Errorf("launched: %+v", got)
	}
	for range 2 { // a launch that is gone is no error
		if err := l.Destroy(ctx, got.Handle); err != nil {
			t.Error(err)
		}
	}
	probed(t, l, dir)
	spec.VCPUs = 0
	if _, err := l.Launch(ctx, spec); err == nil {
		t.Error("a launch without processors was taken")
	}
	l.Firmware += "-missing"
	spec.VCPUs = 1
	if _, err := l.Launch(ctx, spec); err == nil {
		t.Error("a launch without firmware was taken")
	}
}

// probed judges a probe as the control plane does, with a floor at what the chip claims and one above it.
func probed(t *testing.T, l *Launcher, dir string) {
	t.Helper()
	data := api.ProbeData("host-1", bytes.Repeat([]byte{1}, api.NonceSize))
	report, chain, err := l.Probe(t.Context(), "snp", data)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ark.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := soft.ParseRoot(pem)
	if err != nil {
		t.Fatal(err)
	}
	at := sevsnp.TCB{BootLoader: 4, SNP: 24, Microcode: 219}
	above := at
	above.Microcode++
	for name, r := range map[string]struct {
		floor sevsnp.TCB
		roots []soft.Root
		data  [64]byte
		want  evidence.Verdict
	}{
		"fit":                            {at, []soft.Root{root}, data, evidence.Accepted},
		"SNP-27 below the floor":         {above, []soft.Root{root}, data, evidence.Refused},
		"SVC-24 a root nobody named":     {at, nil, data, evidence.Refused},
		"SVC-14 another challenge":       {at, []soft.Root{root}, api.ProbeData("host-1", nil), evidence.Refused},
		"CP-05 another host's challenge": {at, []soft.Root{root}, api.ProbeData("host-2", bytes.Repeat([]byte{1}, api.NonceSize)), evidence.Refused},
	} {
		floor := health.Floor{TCB: map[sevsnp.Product]sevsnp.TCB{sevsnp.Milan: r.floor}, Provisional: evidence.Exactly(false), AliasCheck: evidence.Any[bool](),
			SMT: evidence.Any[bool](), CiphertextHiding: evidence.Any[bool](), RAPLDisabled: evidence.Any[bool]()}
		if s := health.SEVSNP(report, chain, floor, health.Options{At: time.Now(), Challenge: r.data, Software: r.roots}); s.Verdict != r.want {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if _, _, err := l.Probe(t.Context(), "tdx", data); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("a TEE that the launcher hasn't: %v", err)
	}
}
