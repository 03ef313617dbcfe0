package devmapper

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Crypt is a dm-crypt mapping.
type Crypt struct {
	Name       string
	Device     string // path of the device that holds the ciphertext
	Cipher     string
	Key        []byte
	Offset     uint64 // where the data begin on Device, in sectors of 512 bytes
	Sectors    uint64 // length of the mapping, in sectors of 512 bytes
	SectorSize int    // of encryption, in bytes
}

func (c Crypt) table() Table {
	return Table{Target: "crypt", Sectors: c.Sectors,
		Params: fmt.Sprintf("%s :%d:logon:%s 0 %s %d 1 sector_size:%d", c.Cipher, len(c.Key), keyName(c.Name), c.Device, c.Offset, c.SectorSize)}
}

// keyName: the kernel wants a prefix before the colon in names of logon keys.
func keyName(name string) string { return "cloister:" + name }

// OpenCrypt maps c. The key goes into the keyring of this thread for as long as the table is loaded, and is unlinked then.
func OpenCrypt(c Crypt) (node string, err error) {
	runtime.LockOSThread() // the keyring belongs to the thread that adds the key
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", keyName(c.Name), c.Key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return "", fmt.Errorf("giving the kernel the key of %s: %w", c.Name, err)
	}
	defer func() {
		if _, e := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); e != nil && err == nil {
			err = fmt.Errorf("taking the key of %s out of the keyring: %w", c.Name, e)
		}
	}()
	return Create(c.Name, c.table())
}
