// Package devmapper maps encrypted and integrity-checked block devices through the kernel's device mapper.
//
// It speaks the ioctl interface itself (version 4), so that the initrd needs no cryptsetup. Keys reach the
// kernel through the keyring and never appear in a table.
package devmapper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl interface: <linux/dm-ioctl.h>. struct dm_ioctl has 312 bytes, struct dm_target_spec 40, both in host byte order.
const (
	control       = "/dev/mapper/control"
	headerLen     = 312
	targetLen     = 40
	maxName       = 127
	cmdCreate     = 3
	cmdRemove     = 4
	cmdSuspend    = 6 // without the suspend flag: resume, which makes a loaded table live
	cmdLoad       = 9
	flagReadOnly  = 1 << 0
	flagSecure    = 1 << 15 // the kernel wipes its copy of the buffer
	atDataSize    = 12
	atDataStart   = 16
	atTargetCount = 20
	atFlags       = 28
	atDev         = 40
	atName        = 48
	nodeWait      = 200
)

// Table is one target that spans a whole mapped device.
type Table struct {
	Target   string
	Sectors  uint64 // length, in sectors of 512 bytes
	Params   string
	ReadOnly bool
}

func request(name string, flags uint32, t *Table) ([]byte, error) {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("device mapper name %q", name)
	}
	b := make([]byte, headerLen)
	if t != nil {
		if t.Sectors == 0 || len(t.Target) > 15 || strings.ContainsRune(t.Params, 0) {
			return nil, fmt.Errorf("device mapper table of %d sectors of %q", t.Sectors, t.Target)
		}
		params := append([]byte(t.Params), 0)
		for len(params)%8 != 0 {
			params = append(params, 0)
		}
		spec := make([]byte, targetLen)
		binary.NativeEndian.PutUint64(spec[8:], t.Sectors)
		binary.NativeEndian.PutUint32(spec[20:], uint32(targetLen+len(params)))
		copy(spec[24:], t.Target)
		b = append(append(b, spec...), params...)
		binary.NativeEndian.PutUint32(b[atTargetCount:], 1)
		if t.ReadOnly {
			flags |= flagReadOnly
		}
	}
	binary.NativeEndian.PutUint32(b, 4) // version 4.0.0: the least that is asked for
	binary.NativeEndian.PutUint32(b[atDataSize:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[atDataStart:], headerLen)
	binary.NativeEndian.PutUint32(b[atFlags:], flags)
	copy(b[atName:atName+maxName], name)
	return b, nil
}

func call(f *os.File, cmd uintptr, b []byte) error {
	number := uintptr(3)<<30 | headerLen<<16 | 0xfd<<8 | cmd
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return fmt.Errorf("device mapper command %d: %w", cmd, errno)
	}
	return nil
}

// Create maps a device and returns the path of its node, /dev/dm-N. It runs on the calling thread, which matters to
// targets that look for a key in the thread's keyring.
func Create(name string, t Table) (node string, err error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := request(name, 0, nil)
	if err != nil {
		return "", err
	}
	if err := call(f, cmdCreate, b); err != nil {
		return "", fmt.Errorf("creating %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = remove(f, name) // the first error is the one that counts
		}
	}()
	load, err := request(name, flagSecure, &t)
	if err != nil {
		return "", err
	}
	if err := call(f, cmdLoad, load); err != nil {
		return "", fmt.Errorf("loading the %s table of %s: %w", t.Target, name, err)
	}
	resume, err := request(name, 0, nil)
	if err != nil {
		return "", err
	}
	if err := call(f, cmdSuspend, resume); err != nil {
		return "", fmt.Errorf("resuming %s: %w", name, err)
	}
	dev := binary.NativeEndian.Uint64(resume[atDev:])
	return nodeOf(dev)
}

// Remove unmaps a device.
func Remove(name string) error {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return remove(f, name)
}

func remove(f *os.File, name string) error {
	b, err := request(name, 0, nil)
	if err != nil {
		return err
	}
	return call(f, cmdRemove, b)
}

// nodeOf finds the name of a block device by its number; devtmpfs makes the node itself.
func nodeOf(dev uint64) (string, error) {
	// The kernel's huge encoding of dev_t in this field: minor in bits 0-7 and 20-31, major in bits 8-19.
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	target, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return "", fmt.Errorf("finding mapped device %d:%d: %w", major, minor, err)
	}
	return "/dev/" + filepath.Base(target), nil
}

// cString is the text up to the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
