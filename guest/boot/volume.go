package boot

import (
	"encoding/hex"
	"fmt"
	"io"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/guest/event"
	"cloister.dev/cloister/guest/luks2"
	"cloister.dev/cloister/guest/tpm"
	"cloister.dev/cloister/internal/failpoint"
)

var (
	afterHeader = failpoint.New("guest/luks2-header")
	afterCopy   = failpoint.New("guest/image-copied")
)

// blockDevice is the partition for the OS volume, which belongs to the host.
type blockDevice interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// volumes opens the OS volume.
type volumes struct {
	tpm    *tpm.Device
	random io.Reader
	device blockDevice
	mapped func(volumeKey []byte) (node string, err error) // maps the data segment
	copy   func(node string) error                         // copies the verified image, and reports its progress
	report func(step, state string, detail map[string]string)
}

// encrypted opens the OS volume that is encrypted in the VM.
//
// Only the vTPM's mark tells a first boot from a later one. Nothing on the disk can: an emptied or exchanged disk must
// halt a VM that once had a volume, or the host could have it start afresh under the old identity.
func (o volumes) encrypted() (node string, err error) {
	known, err := o.tpm.ReadVolume()
	if err != nil {
		return "", err
	}
	if known.Provisioned {
		return o.unlock(known.Digest)
	}
	return o.create()
}

func (o volumes) create() (string, error) {
	secret, key := make([]byte, 32), make([]byte, luks2.VolumeKeySize)
	defer clear(secret)
	defer clear(key)
	id := make([]byte, 16)
	for _, b := range [][]byte{secret, key, id} {
		if _, err := io.ReadFull(o.random, b); err != nil {
			return "", err
		}
	}
	sealed, err := o.tpm.Seal(secret)
	if err != nil {
		return "", err
	}
	region, err := luks2.Format(o.random, luks2.FormatOptions{UUID: uuid(id), Passphrase: secret, VolumeKey: key, Sealed: sealed})
	if err != nil {
		return "", err
	}
	if _, err := o.device.WriteAt(region, 0); err != nil {
		return "", fmt.Errorf("writing the luks2 header: %w", err)
	}
	if err := o.device.Sync(); err != nil {
		return "", fmt.Errorf("writing the luks2 header: %w", err)
	}
	afterHeader.Hit()
	node, err := o.mapped(key)
	if err != nil {
		return "", err
	}
	if err := o.copy(node); err != nil {
		return "", err
	}
	afterCopy.Hit()
	digest := luks2.KeyDigest(key)
	if err := o.tpm.WriteVolume(digest); err != nil {
		return "", err
	}
	if err := o.tpm.Measure(tpm.PCRVolume, tpm.VolumeEvent(digest)); err != nil {
		return "", err
	}
	o.report("os-disk", event.Done, map[string]string{"percent": "100", "encryption": "luks2"})
	return node, nil
}

func (o volumes) unlock(want [32]byte) (string, error) {
	o.report("unlock", event.Started, nil)
	if err := o.tpm.LockVolume(); err != nil { // a first boot may have died before its locks
		return "", err
	}
	h, err := luks2.Read(o.device)
	if err != nil {
		return "", err
	}
	secret, err := o.tpm.Unseal(h.Sealed())
	if err != nil {
		return "", err
	}
	defer clear(secret)
	key, err := h.VolumeKey(secret)
	if err != nil {
		return "", err
	}
	defer clear(key)
	got := luks2.KeyDigest(key)
	if got != want {
		return "", evidence.Refuse(evidence.CodeBoot, "volume digest", hex.EncodeToString(got[:]), hex.EncodeToString(want[:])).By("the volume that this vTPM was provisioned with")
	}
	node, err := o.mapped(key)
	if err != nil {
		return "", err
	}
	if err := o.tpm.Measure(tpm.PCRVolume, tpm.VolumeEvent(got)); err != nil {
		return "", err
	}
	o.report("unlock", event.Done, nil)
	return node, nil
}

// plain opens the OS disk of the modes without encryption in the VM: a copy of the verified image on the partition itself.
// The host reads and writes such a disk at will, also between two boots, so what tells a first boot from a later one
// may as well be on it: a superblock, which the copy writes last.
func (o volumes) plain(node string) (string, error) {
	super := make([]byte, superSize)
	if _, err := o.device.ReadAt(super, superOffset); err != nil {
		return "", fmt.Errorf("reading the OS disk: %w", err)
	}
	if !isExt4(super) {
		if err := o.copy(node); err != nil {
			return "", err
		}
		o.report("os-disk", event.Done, map[string]string{"percent": "100", "encryption": "none in the VM: the operator can read and change this disk"})
	} else {
		o.report("unlock", event.Done, map[string]string{"encryption": "none in the VM: the operator can read and change this disk"})
	}
	return node, o.tpm.Measure(tpm.PCRVolume, tpm.PlainVolumeEvent)
}

func uuid(random []byte) string {
	b := [16]byte(random)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
