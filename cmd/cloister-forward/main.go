// Command cloister-forward joins its standard streams to a Unix socket.
//
// QEMU starts one for each connection a VM makes to a link-local service, so it is small and starts fast.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cloister-forward SOCKET")
		os.Exit(2)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: os.Args[1], Net: "unix"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "cloister-forward:", err)
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.CloseWrite() // the service sees the end of the request and may still answer
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		os.Exit(1)
	}
}
