// Command tinyinit is the smallest init that shows a signed image was started: one line, then power off.
package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	order, err := os.ReadFile("/lib/modules/order")
	fmt.Printf("TINYINIT pid=%d modules=%d err=%v\n", os.Getpid(), len(order), err)
	syscall.Sync()
	fmt.Println(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}
