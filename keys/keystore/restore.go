package keystore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/internal/failpoint"
)

var afterRestore = failpoint.New("keys/keystore-restored")

// Snapshot reads a keystore's file for a backup, also while it is in use: each state is put in place whole. The copy is
// encrypted as the file is. The anchor is no part of it, and must not be.
func Snapshot(files Files, passphrase []byte) ([]byte, error) {
	raw, err := os.ReadFile(files.Store)
	if err != nil {
		return nil, err
	}
	if _, _, err := readStore(raw, passphrase); err != nil {
		return nil, fmt.Errorf("keystore %s: %w", files.Store, err)
	}
	return raw, nil
}

// RestoreSoftware puts a backup in a keystore's place, in a new epoch: each guest state then needs its owner's approval. A
// keystore that is there is lost, and must be named by replace. It gives the epoch. Logged runs when the backup was
// checked and before anything is written.
//
// The epoch is above those that the anchor and the backup know. Where the anchor was lost, a second restore of the same
// backup elsewhere has the same epoch: nobody here can know of the other.
func RestoreSoftware(files Files, passphrase, backup []byte, replace bool, logged func(epoch uint64) error) (epoch uint64, err error) {
	lock, err := lockStore(files.Store, passphrase)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Stat(files.Store); err == nil && !replace {
		return 0, evidence.Refuse(evidence.CodePolicy, "keystore "+files.Store, "there", "none, or consent to losing it").By("restore")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	seal, c, err := readStore(backup, passphrase)
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	known, err := readAnchor(files.Anchor, seal.anchor)
	if err != nil {
		return 0, err
	}
	if known == nil {
		known = &mark{}
	}
	c.Serial, c.Epoch = max(c.Serial, known.serial)+1, max(c.Epoch, known.epoch)+1
	if err := logged(c.Epoch); err != nil {
		return 0, err
	}
	// A crash between the two leaves a keystore that is not opened, or one that is opened in its new epoch.
	at, err := writeStore(files.Store, seal, *c)
	if err != nil {
		return 0, err
	}
	afterRestore.Hit()
	return c.Epoch, placeAnchor(files.Anchor, seal.anchor, at)
}

// Digest names a backup in logs.
func Digest(backup []byte) string { return fmt.Sprintf("%x", sha256.Sum256(backup)) }
