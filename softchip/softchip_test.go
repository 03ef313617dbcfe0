package softchip_test

import (
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
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/softchip"
	"cloister.dev/cloister/softchip/client"
)

const allSeals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

func memfd(t *testing.T, size, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("firmware", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "firmware")
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// start runs a chip until the function that it gives is called.
func start(t *testing.T, dir string) (*client.Client, func()) {
	t.Helper()
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- softchip.Run(ctx, softchip.Config{Dir: dir, Socket: socket}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	for up := false; !up; {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			up = true
		}
	}
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return client.Dial(socket), stop
}

func TestChip(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if err := softchip.Init(dir, now); err != nil {
		t.Fatal(err)
	}
	if err := softchip.Init(dir, now); err == nil {
		t.Error("a second chip in the same directory")
	}
	if info, err := os.Stat(filepath.Join(dir, "vcek.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", info, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ark.pem"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := soft.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	chip, stop := start(t, dir)
	good := client.Launch{Firmware: memfd(t, 8192, allSeals), VCPUs: 2, CPUModel: "EPYC-v4", Policy: 0x30000, HostData: [32]byte{7}}
	handle, err := chip.Launch(ctx, good)
	if err != nil {
		t.Fatal(err)
	}
	other, err := chip.Launch(ctx, good)
	if err != nil || other == handle {
		t.Fatal("handles must differ", err)
	}
	stop()
	chip, stop = start(t, dir) // handles survive a restart
	defer stop()
	data := [64]byte{1, 2, 3}
	raw, chain, err := chip.Report(ctx, handle, data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := sevsnp.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sevsnp.ParseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	a, err := soft.Authenticate(r, c, []soft.Root{root}, now)
	if err != nil {
		t.Fatal(err)
	}
	want, err := softchip.MeasureSoftware(make([]byte, 8192), 2, "EPYC-v4")
	if err != nil {
		t.Fatal(err)
	}
	e := sevsnp.Baseline()
	e.Root, e.Measurement = evidence.Exactly(evidence.RootSoftware), evidence.Exactly(want)
	e.HostData, e.ReportData = evidence.Exactly(good.HostData), evidence.Exactly(data)
	if err := sevsnp.Refusal(sevsnp.Appraise(a, e)); err != nil {
		t.Error(err)
	}

	for _, row := range []struct {
		name string
		do   func() error
		want evidence.Code
	}{
		{"AMD's path refuses a software root", func() error { _, err := sevsnp.Authenticate(r, c, sevsnp.Options{At: now}); return err }, evidence.CodeChain},
		{"no software root named", func() error { _, err := soft.Authenticate(r, c, nil, now); return err }, evidence.CodeChain},
		{"the zero root", func() error { _, err := soft.Authenticate(r, c, []soft.Root{{}}, now); return err }, evidence.CodeChain},
		{"unsealed firmware", func() error { l := good; l.Firmware = memfd(t, 8192, 0); _, err := chip.Launch(ctx, l); return err }, evidence.CodeConfig},
		{"seals can be added", func() error {
			l := good
			l.Firmware = memfd(t, 8192, allSeals&^unix.F_SEAL_SEAL)
			_, err := chip.Launch(ctx, l)
			return err
		}, evidence.CodeConfig},
		{"not sealed against writing", func() error {
			l := good
			l.Firmware = memfd(t, 8192, allSeals&^unix.F_SEAL_WRITE)
			_, err := chip.Launch(ctx, l)
			return err
		}, evidence.CodeConfig},
		{"empty firmware", func() error { l := good; l.Firmware = memfd(t, 0, allSeals); _, err := chip.Launch(ctx, l); return err }, evidence.CodeConfig},
		{"no firmware", func() error { l := good; l.Firmware = nil; _, err := chip.Launch(ctx, l); return err }, evidence.CodeConfig},
		{"policy without bit 17", func() error { l := good; l.Policy = 0x10000; _, err := chip.Launch(ctx, l); return err }, evidence.CodeConfig},
		{"unknown handle", func() error { _, _, err := chip.Report(ctx, other[:62]+"zz", data); return err }, evidence.CodeBinding},
		{"handle as a path", func() error { _, _, err := chip.Report(ctx, "../../ark", data); return err }, evidence.CodeBinding},
		{"destroyed handle", func() error {
			if err := chip.Destroy(ctx, other); err != nil {
				return err
			}
			_, _, err := chip.Report(ctx, other, data)
			return err
		}, evidence.CodeBinding},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := row.do(); evidence.CodeOf(err) != row.want {
				t.Errorf("%v, want %s", err, row.want)
			}
		})
	}
	if _, _, err := chip.Report(ctx, handle, data); err != nil {
		t.Error("destroying one launch took another:", err)
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	if err := (softchip.Config{Dir: "/a", Socket: "/b"}).Validate(); err != nil {
		t.Error(err)
	}
	err := (softchip.Config{}).Validate()
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 2 {
		t.Errorf("%v", err)
	}
}
