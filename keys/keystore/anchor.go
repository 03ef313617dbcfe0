package keystore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var afterAnchor = failpoint.New("keys/keystore-anchor")

// The anchor is a small file beside the keystore that no backup holds. It says which state of the keystore is the latest,
// so that an older copy put in its place is noticed at the next start, and served only after a restore was declared.
//
// What it can't show: a keystore and its anchor that were set back together, as by a snapshot of the whole machine. Keep
// the anchor where snapshots don't reach.
//
// Two slots of 512 bytes are written in turn, so that a write that was cut leaves the one before. A slot: serial (8 bytes),
// epoch (8), SHA-256 of the keystore file (32), HMAC-SHA256 over these under a key of the keystore (32); big endian.
const (
	slotSize = 512
	markSize = 8 + 8 + sha256.Size
)

// mark is what tells one state of the keystore from another.
type mark struct {
	serial uint64 // of the write, from 0
	epoch  uint64 // restores before it
	digest [sha256.Size]byte
}

func (m mark) slot(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, slotSize), m.serial)
	b = binary.BigEndian.AppendUint64(b, m.epoch)
	b = append(b, m.digest[:]...)
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(b)[:slotSize]
}

func readSlot(b, key []byte) (mark, bool) {
	h := hmac.New(sha256.New, key)
	h.Write(b[:markSize])
	if !hmac.Equal(h.Sum(nil), b[markSize:markSize+sha256.Size]) {
		return mark{}, false
	}
	return mark{serial: binary.BigEndian.Uint64(b), epoch: binary.BigEndian.Uint64(b[8:]), digest: [sha256.Size]byte(b[16:])}, true
}

// readAnchor gives the later of the two slots, or nil where there is no anchor. One that this keystore did not write is
// refused.
func readAnchor(path string, key []byte) (*mark, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var latest *mark
	if len(b) == 2*slotSize {
		for _, slot := range [][]byte{b[:slotSize], b[slotSize:]} {
			if m, ok := readSlot(slot, key); ok && (latest == nil || m.serial > latest.serial) {
				latest = &m
			}
		}
	}
	if latest == nil {
		return nil, evidence.Refuse(evidence.CodeBinding, "keystore anchor", "changed, or of another keystore", "as this keystore wrote it")
	}
	return latest, nil
}

const declared = "restored by cloister-keys restore, which has owners approve what is opened"

// follows tells whether a keystore file is the state that its anchor knows, or the one whose writing a crash kept from the
// anchor. A keystore that was just made has no anchor yet, and no key in it.
func follows(file mark, anchor *mark) error {
	switch {
	case anchor == nil && file.serial == 0:
		return nil
	case anchor == nil:
		return evidence.Refuse(evidence.CodeBinding, "keystore anchor", "none", "the anchor of this keystore, or one "+declared)
	case file.serial < anchor.serial:
		return evidence.Refuse(evidence.CodeBinding, "keystore", fmt.Sprintf("an older copy: write %d", file.serial), fmt.Sprintf("write %d, or one %s", anchor.serial, declared))
	case file.serial > anchor.serial+1 || file.epoch < anchor.epoch:
		return evidence.Refuse(evidence.CodeBinding, "keystore", fmt.Sprintf("write %d, epoch %d", file.serial, file.epoch), fmt.Sprintf("write %d, epoch %d, or one %s", anchor.serial, anchor.epoch, declared))
	case file.serial == anchor.serial && (file.digest != anchor.digest || file.epoch != anchor.epoch):
		return evidence.Refuse(evidence.CodeBinding, "keystore", fmt.Sprintf("another write %d", file.serial), "the one that the anchor knows, or one "+declared)
	}
	return nil
}

// placeAnchor makes the file anew, whole or not at all.
func placeAnchor(path string, key []byte, m mark) error {
	b := make([]byte, 2*slotSize)
	copy(b[(m.serial%2)*slotSize:], m.slot(key))
	if err := writeSynced(path+".new", b); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// moveAnchor makes it durable that m is the latest state.
func moveAnchor(f *os.File, key []byte, m mark) error {
	if _, err := f.WriteAt(m.slot(key), int64(m.serial%2)*slotSize); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	afterAnchor.Hit()
	return nil
}
