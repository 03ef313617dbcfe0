// Package network is what a VM can reach: three link-local services, each behind a Unix socket of its own, so
// that the socket tells the VM and no source address is believed.
package network

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
)

// Listen makes a Unix socket that a group may connect to.
func Listen(path string, gid int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(path, 0o660), chown(path, gid)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func chown(path string, gid int) error {
	if os.Geteuid() != 0 {
		return nil // everything runs under one user then
	}
	return os.Chown(path, 0, gid)
}

// Forward passes each connection on to a TCP address until the context ends. It only carries bytes: TLS is
// between the VM and the service.
func Forward(ctx context.Context, l net.Listener, address string, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var d net.Dialer
			up, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				log.Warn("a VM's connection has nowhere to go", "to", address, "error", err)
				return
			}
			defer up.Close()
			end := context.AfterFunc(ctx, func() { conn.Close(); up.Close() })
			defer end()
			join(conn, up)
		}()
	}
}

type halfCloser interface{ CloseWrite() error }

func join(a, b net.Conn) {
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer both.Done()
		_, _ = io.Copy(to, from) // either end may hang up at any time
		if h, ok := to.(halfCloser); ok {
			_ = h.CloseWrite()
		}
	}
	both.Add(2)
	go pass(a, b)
	go pass(b, a)
	both.Wait()
}
