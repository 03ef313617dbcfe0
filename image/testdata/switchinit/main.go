// Command switchinit starts the distribution from the plain image partition, with no key and no hash tree:
// it shows that the root boots, nothing else.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func must(what string, err error) {
	if err != nil {
		fmt.Println("SWITCHINIT", what, err)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func main() {
	for _, m := range []struct{ dir, kind string }{{"proc", "proc"}, {"sys", "sysfs"}, {"dev", "devtmpfs"}, {"run", "tmpfs"}} {
		must(m.dir, os.MkdirAll("/"+m.dir, 0o755))
		must(m.dir, unix.Mount(m.kind, "/"+m.dir, m.kind, 0, ""))
	}
	order, err := os.ReadFile("/lib/modules/order")
	must("order", err)
	for _, m := range strings.Fields(string(order)) {
		f, err := os.Open("/lib/modules/" + m)
		must(m, err)
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
			fmt.Println("SWITCHINIT", m, err)
		}
	}
	must("new", os.MkdirAll("/new", 0o755))
	for range 500 {
		if err = unix.Mount("/dev/vda2", "/new", "ext4", 0, ""); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	must("mount", err)
	for _, d := range []string{"proc", "sys", "dev", "run"} {
		must(d, unix.Mount("/"+d, "/new/"+d, "", unix.MS_MOVE, ""))
	}
	must("chdir", unix.Chdir("/new"))
	must("move", unix.Mount(".", "/", "", unix.MS_MOVE, ""))
	must("chroot", unix.Chroot("."))
	must("chdir", unix.Chdir("/"))
	fmt.Println("SWITCHINIT starts the distribution")
	must("exec", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"}))
}
