package vtpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Socket is what QEMU's emulator backend connects to, as if it were swtpm's control socket.
//
// Control messages and TPM commands travel on two connections, each served by a goroutine of its own
// without a common lock: a CANCEL comes on the first while a command runs on the second.
type Socket struct {
	Gate *Gate
	// Broken is told once why no more answers may leave.
	Broken func(error)

	mu   sync.Mutex
	data net.Conn
	stop bool
	conn *net.UnixConn
}

// offeredCapabilities are swtpm's PTM_CAP bits that QEMU needs. State blobs are not among them: they
// would hand the vTPM's state to the host in clear, and without them QEMU refuses to migrate the VM.
const offeredCapabilities uint64 = 1<<0 | // INIT
	1<<1 | // SHUTDOWN
	1<<2 | // GET_TPMESTABLISHED
	1<<3 | // SET_LOCALITY
	1<<5 | // CANCEL_TPM_CMD
	1<<7 | // RESET_TPMESTABLISHED
	1<<10 | // STOP
	1<<12 | // SET_DATAFD
	1<<13 // SET_BUFFERSIZE

// forwarded are the control commands that go to swtpm as they are.
var forwarded = []uint32{ctrlInit, ctrlGetTPMEstablished, ctrlSetLocality, ctrlResetEstablished, ctrlStop, ctrlSetBufferSize}

// Serve answers one QEMU after the other until the listener is closed.
func (s *Socket) Serve(ctx context.Context, l *net.UnixListener) error {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting on the TPM socket: %w", err)
		}
		if !s.adopt(conn) {
			return errors.Join(conn.Close())
		}
		err = s.serveControl(ctx, conn)
		s.drop(conn)
		if err != nil {
			s.Broken(err)
			return err
		}
	}
}

func (s *Socket) adopt(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return !s.stop
}

func (s *Socket) drop(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = conn.Close() // the peer has gone or is sent away; nothing is left to say to it
	if s.data != nil {
		_ = s.data.Close()
		s.data = nil
	}
	s.conn = nil
}

// Close sends QEMU away. The listener is the caller's to close.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if s.data != nil {
		_ = s.data.Close()
	}
}

func (s *Socket) serveControl(ctx context.Context, conn *net.UnixConn) error {
	message := make([]byte, maxControlMessage)
	oob := make([]byte, unix.CmsgSpace(4*4))
	for {
		// QEMU writes each message at once and waits for its answer, so a read is a message.
		n, oobn, _, _, err := conn.ReadMsgUnix(message, oob)
		if err != nil || n == 0 {
			return nil // QEMU has gone
		}
		files, err := descriptors(oob[:oobn])
		if err != nil {
			return nil // a peer that sends such a thing is sent away
		}
		answer, err := s.control(ctx, message[:n], files)
		if err != nil {
			return err
		}
		if _, err := conn.Write(answer); err != nil {
			return nil
		}
	}
}

func (s *Socket) control(ctx context.Context, message []byte, files []*os.File) ([]byte, error) {
	defer func() {
		for _, f := range files {
			_ = f.Close() // duplicates: serveData made a connection of its own
		}
	}()
	if len(message) < 4 {
		return result(controlBadOrdinal), nil
	}
	code := be32(message)
	switch {
	case code == ctrlSetDataFD:
		if len(files) != 1 {
			return result(controlBadOrdinal), nil
		}
		if err := s.startData(ctx, files[0]); err != nil {
			return result(controlBadOrdinal), nil
		}
		return result(0), nil
	case code == ctrlShutdown:
		// QEMU sends it when it exits. The TPM ends when the paravisor says so, after the last commit.
		return result(0), nil
	case code == ctrlCancelTPMCommand:
		// swtpm reads its control channel only between commands, so forwarding would wait for the very
		// command that is to be cancelled. A TPM may ignore a cancel.
		return result(0), nil
	case code == ctrlGetCapability:
		answer, err := s.Gate.power(message[:4])
		if err != nil {
			return nil, err
		}
		if len(answer) != 8 {
			return nil, fmt.Errorf("swtpm's capabilities have %d bytes, wanted 8", len(answer))
		}
		return binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(answer)&offeredCapabilities), nil
	case slices.Contains(forwarded, code):
		return s.Gate.power(message)
	}
	return result(controlBadOrdinal), nil
}

func result(code uint32) []byte { return binary.BigEndian.AppendUint32(nil, code) }

func (s *Socket) startData(ctx context.Context, f *os.File) error {
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if s.data != nil {
		_ = s.data.Close() // the new descriptor replaces it
	}
	s.data = conn
	go s.serveData(ctx, conn)
	return nil
}

func (s *Socket) serveData(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	for {
		message, err := readTPMMessage(conn)
		if err != nil {
			return // gone, or no TPM command: either way there is nobody to answer
		}
		answer, err := s.Gate.Exchange(ctx, message)
		if err != nil {
			s.Broken(err)
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

func descriptors(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("reading passed descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("reading passed descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}
