package softchip

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// listener accepts connections that can carry a descriptor.
type listener struct{ *net.UnixListener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &conn{UnixConn: c}, nil
}

// conn keeps the one descriptor that came with its bytes.
type conn struct {
	*net.UnixConn
	mu   sync.Mutex
	file *os.File
}

func (c *conn) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if err := c.keep(oob[:oobn]); err != nil {
			return 0, err
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, errors.New("too many descriptors")
	}
	if err == nil && n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// keep takes the descriptor out of a control message. A second one is refused, and closed.
func (c *conn) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "firmware")
			if c.file != nil {
				err = errors.Join(errors.New("more than one descriptor"), f.Close())
				continue
			}
			c.file = f
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take hands the descriptor over, or nil.
func (c *conn) take() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.file
	c.file = nil
	return f
}

func (c *conn) Close() error {
	if f := c.take(); f != nil {
		return errors.Join(f.Close(), c.UnixConn.Close())
	}
	return c.UnixConn.Close()
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func takeFile(ctx context.Context) *os.File {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.take()
	}
	return nil
}

// ownerCalls tells whether the process at the other end runs as this process's own user. The kernel says so, at the
// time of the connection. Source: unix(7), SO_PEERCRED.
func ownerCalls(ctx context.Context) (bool, error) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return false, errors.New("the connection is not known")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return false, err
	}
	if credErr != nil {
		return false, credErr
	}
	return cred.Uid == uint32(os.Geteuid()), nil
}
