package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/disk"
	"cloister.dev/cloister/host/qemu"
)

const (
	// retryDisks is how long a disk that could not be made as it should be is left alone.
	retryDisks = 5 * time.Second
	// diskWait is the longest a start waits for the VM's data disks.
	diskWait = 30 * time.Second
)

// diskKeeper makes managed disks what the control plane wants them to be. A disk that it does not name stays as it is:
// only a wish that says so deletes one.
type diskKeeper struct {
	store disk.Store
	log   *slog.Logger
	news  func() // something changed that a report should tell
	wake  chan struct{}

	mu      sync.Mutex
	all     map[string]*keptDisk
	changed chan struct{} // closed at each change of a status
}

type keptDisk struct {
	spec   api.DiskSpec
	status *api.DiskStatus // nil: not looked at since the spec changed
	told   bool            // the control plane has the status
}

func newDiskKeeper(s disk.Store, log *slog.Logger, news func()) *diskKeeper {
	return &diskKeeper{store: s, log: log, news: news, wake: make(chan struct{}, 1), all: map[string]*keptDisk{}, changed: make(chan struct{})}
}

// want says what a disk should be. An older wish than the last one is passed over.
func (k *diskKeeper) want(s api.DiskSpec) {
	if !validID(s.ID) {
		k.log.Error("the control plane named a disk by something that is no id", "disk", s.ID)
		return
	}
	k.mu.Lock()
	if d := k.all[s.ID]; d == nil || s.Generation > d.spec.Generation {
		k.all[s.ID] = &keptDisk{spec: s}
	} else if s.Generation == d.spec.Generation {
		d.told = false // it is asked because the control plane waits
	}
	k.mu.Unlock()
	k.news()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// run works until the context ends.
func (k *diskKeeper) run(ctx context.Context) {
	for {
		var retry <-chan time.Time
		if k.reconcile(ctx) {
			retry = time.After(retryDisks)
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-retry:
		}
	}
}

// reconcile goes over all disks once; again says that some should be tried later.
func (k *diskKeeper) reconcile(ctx context.Context) (again bool) {
	k.mu.Lock()
	var specs []api.DiskSpec
	for _, d := range k.all {
		if d.status == nil || d.status.Failure != nil && mayPass(d.status.Failure) {
			specs = append(specs, d.spec)
		}
	}
	k.mu.Unlock()
	for _, s := range specs {
		err := k.ensure(ctx, s)
		if ctx.Err() != nil {
			return false
		}
		st := api.DiskStatus{ID: s.ID, Resource: s.Resource, Generation: s.Generation, State: api.DiskReady}
		switch {
		case err != nil:
			st.State = api.DiskFailed
			if !errors.As(err, &st.Failure) {
				st.Failure = unavailable("disk "+s.ID, err.Error(), "a disk as it was asked for")
			}
			k.log.Error("a disk is not as it should be", "disk", s.ID, "error", err)
			again = again || mayPass(st.Failure)
		case s.Deleted:
			st.State = api.DiskDeleted
		}
		k.set(st)
	}
	return again
}

func (k *diskKeeper) set(st api.DiskStatus) {
	k.mu.Lock()
	if d := k.all[st.ID]; d != nil && d.spec.Generation == st.Generation {
		d.status, d.told = &st, false
	}
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	k.news()
}

// mayPass tells whether waiting can help: something is not there yet, or a VM's processes still have the disk.
func mayPass(r *evidence.Refusal) bool {
	return r.Code == evidence.CodeUnavailable || r.Code == evidence.CodePolicy
}

// ensure makes one disk what it should be. It may run any number of times.
func (k *diskKeeper) ensure(ctx context.Context, s api.DiskSpec) error {
	if s.Deleted {
		return k.store.Delete(ctx, s.ID)
	}
	size := int64(s.SizeGiB) << 30
	info, err := k.store.Stat(ctx, s.ID)
	there := err == nil
	if !there && evidence.CodeOf(err) != evidence.CodeUnavailable {
		return err
	}
	switch {
	case s.Kind == api.KindSnapshot && there && !info.Snapshot, s.Kind == api.KindDisk && there && info.Snapshot:
		return evidence.Refuse(evidence.CodeUnsupported, "disk "+s.ID, "another kind under this id", s.Kind)
	case s.Kind == api.KindSnapshot:
		return k.store.Snapshot(ctx, s.ID, s.From)
	case s.Kind != api.KindDisk:
		return evidence.Refuse(evidence.CodeUnsupported, "kind of disk "+s.ID, fmt.Sprintf("%q", s.Kind), api.KindDisk+" or "+api.KindSnapshot)
	case there && info.Size == size:
		return nil // also while a VM uses it
	case there:
		return k.store.Resize(ctx, s.ID, size)
	case s.From != "":
		return k.store.Create(ctx, s.ID, size, disk.Source{Kind: disk.FromExisting, ID: s.From})
	}
	return k.store.Create(ctx, s.ID, size, disk.Source{Kind: disk.FromEmpty})
}

// untold lists what the control plane has not heard yet.
func (k *diskKeeper) untold() []api.DiskStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []api.DiskStatus
	for _, d := range k.all {
		if d.status != nil && !d.told {
			out = append(out, *d.status)
		}
	}
	return out
}

// tell notes that the control plane has heard; a disk that is gone is forgotten with that.
func (k *diskKeeper) tell(heard []api.DiskStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, st := range heard {
		d := k.all[st.ID]
		if d == nil || d.status == nil || d.status.Generation != st.Generation || d.status.State != st.State {
			continue
		}
		if d.told = true; st.State == api.DiskDeleted {
			delete(k.all, st.ID)
		}
	}
}

// open waits until a disk is as it should be, and gives it to one VM.
func (k *diskKeeper) open(ctx context.Context, id string) (write, read *os.File, err error) {
	waiting, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	for {
		k.mu.Lock()
		d, changed := k.all[id], k.changed
		var st *api.DiskStatus
		if d != nil {
			st = d.status
		}
		k.mu.Unlock()
		if st != nil && st.State == api.DiskReady {
			return k.store.Open(ctx, id)
		}
		select {
		case <-changed:
			continue
		case <-waiting.Done():
		}
		switch {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case st != nil && st.Failure != nil:
			return nil, nil, unavailable("disk "+id, st.Failure.Error(), "a disk as it was asked for")
		}
		return nil, nil, unavailable("disk "+id, "not made", "a disk that the control plane has named to this host")
	}
}

// DataSerial is the serial number of the virtio-blk device of a data disk: the guest finds it as
// /dev/disk/by-id/virtio-cloister-lunN. TempSerial is that of the temporary disk.
func DataSerial(lun int) string { return "cloister-lun" + strconv.Itoa(lun) }

// TempSerial is the serial number of the temporary disk.
const TempSerial = "cloister-temp"

// dataDisks is what a VM has beside its OS disk: its data disks and its temporary disk, open.
type dataDisks struct {
	serials []string
	files   []*os.File // of each disk, for writing and then for reading
}

func (d *dataDisks) add(serial string, write, read *os.File) {
	d.serials, d.files = append(d.serials, serial), append(d.files, write, read)
}

// qemu names the disks by QEMU's descriptors, which begin at first.
func (d dataDisks) qemu(first int) []qemu.DataDisk {
	var out []qemu.DataDisk
	for i, serial := range d.serials {
		out = append(out, qemu.DataDisk{Serial: serial, FD: first + 2*i, ROFD: first + 2*i + 1})
	}
	return out
}

// close closes what was passed on, or is of no use: nothing is lost if that fails.
func (d dataDisks) close() {
	for _, f := range d.files {
		_ = f.Close()
	}
}

// dataDisks opens a VM's disks; the caller closes them.
func (m *machine) dataDisks(ctx context.Context, spec api.VMSpec, l layout) (d dataDisks, err error) {
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, want := range spec.DataDisks {
		if want.LUN < 0 || want.LUN > api.MaxLUN {
			return d, evidence.Refuse(evidence.CodeParse, "data disk LUN", strconv.Itoa(want.LUN), fmt.Sprintf("0 to %d", api.MaxLUN))
		}
		write, read, err := m.agent.disks.open(ctx, want.DiskID)
		if err != nil {
			return d, fmt.Errorf("data disk of LUN %d: %w", want.LUN, err)
		}
		d.add(DataSerial(want.LUN), write, read)
	}
	if spec.TempDiskGiB > 0 {
		write, read, err := freshDisk(l.tempDisk(), int64(spec.TempDiskGiB)<<30)
		if err != nil {
			return d, fmt.Errorf("temporary disk: %w", err)
		}
		d.add(TempSerial, write, read)
	}
	return d, nil
}

// freshDisk makes an empty sparse disk in place of the one of an earlier start.
func freshDisk(path string, size int64) (write, read *os.File, err error) {
	if err := dropTemp(path); err != nil {
		return nil, nil, err
	}
	if write, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, nil, err
	}
	if err = write.Truncate(size); err == nil {
		read, err = os.Open(path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, write.Close())
	}
	return write, read, nil
}

// dropTemp removes a temporary disk, if there is one.
func dropTemp(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
