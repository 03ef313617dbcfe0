package host

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
)

const (
	diskA = "0e4a1b7c-0000-4000-8000-00000000000a"
	diskB = "0e4a1b7c-0000-4000-8000-00000000000b"
	diskC = "0e4a1b7c-0000-4000-8000-00000000000c"
)

func (w *world) disk(s api.DiskSpec) {
	if s.Kind == "" {
		s.Kind = api.KindDisk
	}
	w.control.messages <- api.Message{Kind: api.MessageDisk, Disk: &s}
}

func (w *world) awaitDisk(id string, generation uint64, state string) api.DiskStatus {
	w.t.Helper()
	deadline := time.After(time.Minute)
	for {
		w.control.mu.Lock()
		s, changed := w.control.disks[id], w.control.changed
		w.control.mu.Unlock()
		if s.Generation == generation && s.State == state {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("disk %s is never %s: %+v", id, state, s)
		}
	}
}

func (w *world) file(id string) string { return filepath.Join(w.cfg.StateDir, "disks", id+".img") }

func TestADataDisksLife(t *testing.T) {
	w := newWorld(t)
	w.spec.DataDisks = []api.DataDisk{{LUN: 3, DiskID: diskA}}
	w.spec.TempDiskGiB = 75
	w.run()
	w.disk(api.DiskSpec{ID: diskA, Resource: "a", SizeGiB: 4, Generation: 1}) // the VM, which came first, waits for it
	if got := w.awaitDisk(diskA, 1, api.DiskReady); got.Resource != "a" {
		t.Errorf("%+v", got)
	}
	w.awaitPhase(api.PhaseRunning)
	pid := w.session().QEMU.PID
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.ReplaceAll(string(raw), "\x00", " ")
	for _, want := range []string{"serial=cloister-lun3", "serial=cloister-temp", "-add-fd fd=8,set=4 -add-fd fd=9,set=4 -add-fd fd=10,set=5 -add-fd fd=11,set=5"} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %s", want, args)
		}
	}
	for fd, want := range map[int]string{8: w.file(diskA), 9: w.file(diskA)} {
		if got, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "fd", strconv.Itoa(fd))); err != nil || got != want {
			t.Errorf("descriptor %d is %s, %v; want %s", fd, got, err, want)
		}
	}
	temp := w.cfg.layout(vmID, 0).tempDisk()
	if info, err := os.Stat(temp); err != nil || info.Size() != 75<<30 {
		t.Errorf("temporary disk: %v, %v", info, err)
	}

	// In use: not copied, not resized, not deleted, by this agent or the next one.
	w.stop()
	w.run()
	w.disk(api.DiskSpec{ID: diskA, SizeGiB: 4, Generation: 1})
	w.awaitDisk(diskA, 1, api.DiskReady)
	w.disk(api.DiskSpec{ID: diskB, Kind: api.KindSnapshot, From: diskA, Generation: 1})
	if got := w.awaitDisk(diskB, 1, api.DiskFailed); got.Failure.Code != evidence.CodePolicy {
		t.Errorf("snapshot: %+v", got)
	}
	w.disk(api.DiskSpec{ID: diskA, SizeGiB: 5, Generation: 2})
	if got := w.awaitDisk(diskA, 2, api.DiskFailed); got.Failure.Code != evidence.CodePolicy {
		t.Errorf("resize: %+v", got)
	}
	w.disk(api.DiskSpec{ID: diskA, SizeGiB: 4, Generation: 3, Deleted: true})
	if got := w.awaitDisk(diskA, 3, api.DiskFailed); got.Failure.Code != evidence.CodePolicy {
		t.Errorf("delete: %+v", got)
	}
	w.disk(api.DiskSpec{ID: diskA, SizeGiB: 5, Generation: 4})
	w.awaitDisk(diskA, 4, api.DiskFailed)

	// Stopped: what waited is done.
	if err := os.WriteFile(temp, []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.want(func(s *api.VMSpec) { s.Power, s.SkipShutdown = api.PowerDeallocated, true })
	w.awaitPhase(api.PhaseStopped)
	if _, err := os.Stat(temp); !os.IsNotExist(err) {
		t.Errorf("the temporary disk of a VM that is down: %v", err)
	}
	w.awaitDisk(diskA, 4, api.DiskReady)
	w.awaitDisk(diskB, 1, api.DiskReady)
	if info, err := os.Stat(w.file(diskA)); err != nil || info.Size() != 5<<30 {
		t.Errorf("%v, %v", info, err)
	}
	if err := overwrite(w.file(diskA), "LUKS"); err != nil {
		t.Fatal(err)
	}
	w.disk(api.DiskSpec{ID: diskC, From: diskB, SizeGiB: 6, Generation: 1})
	w.awaitDisk(diskC, 1, api.DiskReady)

	// Nobody names A any more: it stays. Deleted by name it goes, its beginning first; what came of it stays.
	w.stop()
	w.run()
	w.disk(api.DiskSpec{ID: diskC, From: diskB, SizeGiB: 6, Generation: 1})
	w.awaitDisk(diskC, 1, api.DiskReady)
	kept, err := os.Open(w.file(diskA))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	w.disk(api.DiskSpec{ID: diskA, SizeGiB: 5, Generation: 5, Deleted: true})
	w.awaitDisk(diskA, 5, api.DiskDeleted)
	begin := make([]byte, 4)
	if _, err := kept.ReadAt(begin, 0); err != nil || !bytes.Equal(begin, make([]byte, 4)) {
		t.Errorf("the deleted disk begins with %q, %v", begin, err)
	}
	for path, want := range map[string]bool{w.file(diskA): false, w.file(diskC): true, filepath.Join(w.cfg.StateDir, "disks", diskB+".snap"): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestDisksRefused(t *testing.T) {
	w := newWorld(t)
	w.spec.Power = api.PowerStopped
	w.run()
	for name, s := range map[string]api.DiskSpec{
		"a size that cannot be":      {ID: diskA, SizeGiB: 3, Generation: 1},
		"another kind":               {ID: diskB, Kind: "image", Generation: 1},
		"a source that is not there": {ID: diskC, SizeGiB: 4, From: diskA, Generation: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w.disk(s)
			if got := w.awaitDisk(s.ID, 1, api.DiskFailed); got.Failure == nil {
				t.Errorf("%+v", got)
			}
		})
	}
	t.Run("an id that is a path is left alone", func(t *testing.T) {
		w.disk(api.DiskSpec{ID: "../../x", SizeGiB: 4, Generation: 1, Deleted: true})
		w.disk(api.DiskSpec{ID: diskC, SizeGiB: 4, Generation: 2})
		w.awaitDisk(diskC, 2, api.DiskReady)
		w.control.mu.Lock()
		defer w.control.mu.Unlock()
		if _, told := w.control.disks["../../x"]; told {
			t.Error("it has a status")
		}
	})
	t.Run("a LUN that is none", func(t *testing.T) {
		w.want(func(s *api.VMSpec) { s.Power, s.DataDisks = api.PowerRunning, []api.DataDisk{{LUN: 64, DiskID: diskC}} })
		if got := w.awaitPhase(api.PhaseFailed); got.Failure == nil || got.Failure.Code != evidence.CodeParse {
			t.Errorf("%+v", got)
		}
	})
	t.Run("positive twin", func(t *testing.T) {
		w.want(func(s *api.VMSpec) { s.DataDisks = []api.DataDisk{{LUN: 63, DiskID: diskC}} })
		w.awaitPhase(api.PhaseRunning)
	})
}

func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(text), 0)
	return err
}
