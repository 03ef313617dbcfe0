package agent

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func swapoff(area *byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(area)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
