//go:build boot

package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// diskCanary is written to the data disk of a VM, in clear.
const diskCanary = "canary-of-the-data-disk"

// dataFiles are the data disks and snapshots on the host.
func (s *system) dataFiles() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.state, "host", "disks", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// testDataDisk uses the data disk at LUN 0 and the temporary disk of the size. The evidence that was judged before is of a VM that has
// both: neither enters what is measured.
func testDataDisk(s *system) {
	out := s.inVM(`for d in cloister-lun0 cloister-temp; do echo $d $(sudo blockdev --getsize64 /dev/disk/by-id/virtio-$d); echo ` + diskCanary + ` | sudo dd of=/dev/disk/by-id/virtio-$d conv=fsync status=none; done`)
	for _, want := range []string{"cloister-lun0 4294967296", "cloister-temp 80530636800"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("no %q in\n%s", want, out)
		}
	}
	files := s.dataFiles()
	if len(files) != 1 {
		s.t.Fatalf("disks on the host: %v", files)
	}
	if at := find(s.t, files[0], []byte(diskCanary)); at != 0 {
		s.t.Errorf("what was written at the disk's beginning is at %d", at)
	}
	s.refused(3, "no hot-plug", "vm", "disk", "detach", "hello", "--disk", "data")
	s.refused(3, "not deallocated", "snapshot", "create", "early", "--disk", "data")
	s.refused(3, "not deallocated", "disk", "resize", "data", "--size-gib", "5")
	s.refused(3, "attached to VM", "disk", "delete", "data")
}

func testDataDiskAgain(s *system) {
	out := s.inVM(`for d in cloister-lun0 cloister-temp; do echo $d $(sudo head -c ` + strconv.Itoa(len(diskCanary)) + ` /dev/disk/by-id/virtio-$d | tr -d '\0'); done`)
	if !strings.Contains(out, "cloister-lun0 "+diskCanary) || strings.Contains(out, "cloister-temp "+diskCanary) {
		s.t.Errorf("after a start:\n%s", out)
	}
}

// testDataDiskEnd is after the VM was deleted: its data disk stayed, and goes when that is asked.
func testDataDiskEnd(s *system) {
	s.run("disk", "resize", "data", "--size-gib", "5")
	s.run("snapshot", "create", "last", "--disk", "data")
	s.run("disk", "create", "again", "--from-snapshot", "last")
	var disks []struct {
		Name    string
		SizeGiB int
	}
	s.json(&disks, "disk", "list")
	if len(disks) != 2 || disks[0].SizeGiB != 5 || disks[1].SizeGiB != 5 {
		s.t.Errorf("disks %+v", disks)
	}
	files := s.dataFiles()
	if len(files) != 3 {
		s.t.Errorf("on the host: %v", files)
	}
	for _, f := range files {
		if at := find(s.t, f, []byte(diskCanary)); at != 0 {
			s.t.Errorf("%s: the canary is at %d", f, at)
		}
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			s.t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	for _, c := range [][]string{{"disk", "delete", "data"}, {"snapshot", "delete", "last"}, {"disk", "delete", "again"}} {
		s.run(c...)
	}
	s.await("nothing of the disks is left", time.Minute, func() bool { return len(s.dataFiles()) == 0 })
}
