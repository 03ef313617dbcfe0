package vmgs

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var (
	afterCreate = failpoint.New("vmgs/created")
	afterSlot   = failpoint.New("vmgs/slot-written")
)

// File is a guest-state file that this process alone has open.
//
// It goes through three states: locked (after Open: the slots were read once, nothing is authentic),
// unlocked (after Unlock or Create: contents are authentic), closed.
type File struct {
	mu       sync.Mutex
	path     string
	lock     *os.File
	file     *os.File // nil until the file exists
	vm       VMID
	key      []byte
	slots    [2]*sealedSlot // as read by Open; dropped by Unlock
	slotErrs [2]error
	current  Contents
	newest   uint32 // slot that holds current
	sequence uint64
	broken   error // a write failed: nothing may be acknowledged any more
	rand     io.Reader
}

// Open locks the path for this process and reads what is there. A missing file is generation 0.
//
// Errors: refuse/binding when another process has it, or when it is another VM's; refuse/parse when it is cut or neither slot is whole;
// refuse/unsupported for another version.
func Open(path string, vm VMID) (*File, error) {
	if vm == (VMID{}) {
		return nil, evidence.Refuse(evidence.CodeParse, "VM id", "all zero", "the VM's UUID")
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the guest state's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, evidence.Refuse(evidence.CodeBinding, "guest state", "another process has it open", "one paravisor for one VM")
		}
		return nil, fmt.Errorf("locking the guest state: %w", err)
	}
	f := &File{path: path, lock: lock, vm: vm, rand: rand.Reader}
	if err := f.load(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) load() error {
	file, err := os.OpenFile(f.path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the guest state: %w", err)
	}
	f.file = file
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("opening the guest state: %w", err)
	}
	if info.Size() != FileSize {
		return evidence.Refuse(evidence.CodeParse, "guest state file", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprint(FileSize))
	}
	raw := make([]byte, FileSize)
	if _, err := file.ReadAt(raw, 0); err != nil {
		return fmt.Errorf("reading the guest state: %w", err)
	}
	f.slots, f.slotErrs = readSlots(raw)
	return f.checkSlots()
}

// readSlots splits a whole file. Everything later works on these copies: the host may change the file meanwhile.
func readSlots(raw []byte) (slots [2]*sealedSlot, errs [2]error) {
	for i := range slots {
		slots[i], errs[i] = readSlot(raw[i*SlotSize:(i+1)*SlotSize], uint32(i))
	}
	return slots, errs
}

func (f *File) checkSlots() error {
	for i, s := range f.slots {
		// A version from the future is no torn write: falling back to the other slot would be a silent rollback.
		if evidence.CodeOf(f.slotErrs[i]) == evidence.CodeUnsupported {
			return f.slotErrs[i]
		}
		if s != nil && s.vm != f.vm {
			return evidence.Refuse(evidence.CodeBinding, "guest state VM id", s.vm.String(), f.vm.String())
		}
	}
	if f.newestSlot() == nil {
		r := evidence.Refuse(evidence.CodeParse, "guest state file", "no whole slot", "at least one")
		if err := errors.Join(f.slotErrs[:]...); err != nil {
			return fmt.Errorf("%w: %w", r, err)
		}
		return r
	}
	return nil
}

func (f *File) newestSlot() *sealedSlot {
	var best *sealedSlot
	for _, s := range f.slots {
		if s != nil && (best == nil || s.sequence > best.sequence) {
			best = s
		}
	}
	return best
}

// Generation is what the file says before there is a key, authenticated by nothing; 0 where there is no file.
// Unlock refuses contents of any other generation.
func (f *File) Generation() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.key != nil {
		return f.current.Generation
	}
	if s := f.newestSlot(); s != nil {
		return s.generation
	}
	return 0
}

// Unlock authenticates the slot whose generation was told by Generation. Errors: refuse/binding.
func (f *File) Unlock(key []byte) (Contents, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.newestSlot()
	if s == nil {
		return Contents{}, evidence.Refuse(evidence.CodeBinding, "guest state", "no file", "a file to unlock")
	}
	plain, err := s.open(key)
	if err != nil {
		return Contents{}, err
	}
	c, err := parseContents(plain)
	if err != nil {
		return Contents{}, err
	}
	if c.Generation != s.generation {
		return Contents{}, evidence.Refuse(evidence.CodeBinding, "guest state generation", fmt.Sprint(c.Generation), fmt.Sprint(s.generation))
	}
	f.key, f.current, f.newest, f.sequence = bytes.Clone(key), *c, s.slot, s.sequence
	f.slots = [2]*sealedSlot{}
	return c.clone(), nil
}

// Create makes the file: whole and durable, or not at all. It refuses where a file exists.
func (f *File) Create(key []byte, c Contents) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		return evidence.Refuse(evidence.CodeBinding, "guest state", "exists", "none at generation 0")
	}
	slot, err := f.sealLocked(key, 0, 1, c)
	if err != nil {
		return err
	}
	tmp, err := os.OpenFile(f.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("creating the guest state: %w", err)
	}
	if err := f.publish(tmp, slot); err != nil {
		tmp.Close()
		return fmt.Errorf("creating the guest state: %w", err)
	}
	afterCreate.Hit()
	f.file, f.key, f.current, f.newest, f.sequence = tmp, bytes.Clone(key), c.clone(), 0, 1
	return nil
}

func (f *File) publish(tmp *os.File, slot []byte) error {
	if err := tmp.Truncate(FileSize); err != nil {
		return err
	}
	if _, err := tmp.WriteAt(slot, 0); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), f.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Update changes the contents and makes them durable before it returns. A generation may not go back.
// After a failed write every further Update fails: what the file holds is then unknown.
func (f *File) Update(change func(*Contents)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.broken != nil:
		return fmt.Errorf("an earlier write of the guest state failed: %w", f.broken)
	case f.key == nil || f.file == nil:
		return evidence.Refuse(evidence.CodeBinding, "guest state", "locked", "unlocked before it is written")
	}
	next := f.current.clone()
	change(&next)
	if next.equal(f.current) {
		return nil
	}
	if next.Generation < f.current.Generation {
		return evidence.Refuse(evidence.CodeBinding, "guest state generation", fmt.Sprint(next.Generation), fmt.Sprintf("at least %d", f.current.Generation))
	}
	if f.sequence == math.MaxUint64 {
		return evidence.Refuse(evidence.CodeUnsupported, "guest state sequence", "at its end", "a sequence that can grow")
	}
	target := 1 - f.newest
	slot, err := f.sealLocked(f.key, target, f.sequence+1, next)
	if err != nil {
		return err
	}
	if err := f.writeSlot(target, slot); err != nil {
		f.broken = err
		return fmt.Errorf("writing the guest state: %w", err)
	}
	afterSlot.Hit()
	f.current, f.newest, f.sequence = next, target, f.sequence+1
	return nil
}

func (f *File) writeSlot(number uint32, slot []byte) error {
	if _, err := f.file.WriteAt(slot, int64(number)*SlotSize); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *File) sealLocked(key []byte, slot uint32, sequence uint64, c Contents) ([]byte, error) {
	h := header{slot: slot, vm: f.vm, generation: c.Generation, sequence: sequence}
	if _, err := io.ReadFull(f.rand, h.nonce[:]); err != nil {
		return nil, fmt.Errorf("making a nonce: %w", err)
	}
	return h.seal(key, c.marshal())
}

// Contents is a copy of what was last made durable or unlocked.
func (f *File) Contents() Contents {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.clone()
}

// Close forgets the key and gives the file free.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.key)
	f.key = nil
	var errs []error
	if f.file != nil {
		errs = append(errs, f.file.Close())
		f.file = nil
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
		f.lock = nil
	}
	return errors.Join(errs...)
}

func (c Contents) clone() Contents {
	c.VTPM, c.UEFIVars = bytes.Clone(c.VTPM), bytes.Clone(c.UEFIVars)
	return c
}

func (c Contents) equal(o Contents) bool {
	return c.Generation == o.Generation && c.Mode == o.Mode && c.InitDataDigest == o.InitDataDigest &&
		bytes.Equal(c.VTPM, o.VTPM) && bytes.Equal(c.UEFIVars, o.UEFIVars)
}
