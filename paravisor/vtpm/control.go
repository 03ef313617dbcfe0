package vtpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Commands of swtpm's control channel. A message is a u32 command and its payload; an answer begins
// with a u32 result, 0 for success. Everything is big-endian.
const (
	ctrlGetCapability     = 1
	ctrlInit              = 2
	ctrlShutdown          = 3
	ctrlGetTPMEstablished = 4
	ctrlSetLocality       = 5
	ctrlCancelTPMCommand  = 9
	ctrlResetEstablished  = 11
	ctrlGetStateBlob      = 12
	ctrlSetStateBlob      = 13
	ctrlStop              = 14
	ctrlSetDataFD         = 16
	ctrlSetBufferSize     = 17

	blobPermanent = 1 // type of the only state we keep
	blobDecrypted = 1 // request flag of ctrlGetStateBlob

	controlBadOrdinal = 0x0a // TPM_BAD_ORDINAL: the answer to a command that is not offered

	maxStateBlob      = 1 << 20 // bytes; a provisioned state has about 6 KB
	maxControlMessage = 4096    // bytes
)

// ControlError is a result other than success.
type ControlError struct {
	Command, Result uint32
}

func (e *ControlError) Error() string {
	return fmt.Sprintf("swtpm control command %d: result 0x%x", e.Command, e.Result)
}

// control is the paravisor's side of the control channel. One message at a time.
type control struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

func unixConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fmt.Errorf("using a socket pair: %w", err)
	}
	return c.(*net.UnixConn), nil
}

func (c *control) close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// simple sends a command whose answer is a result alone.
func (c *control) simple(command uint32, payload, oob []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.simpleLocked(command, payload, oob)
}

func (c *control) simpleLocked(command uint32, payload, oob []byte) error {
	message := append(binary.BigEndian.AppendUint32(nil, command), payload...)
	if _, _, err := c.conn.WriteMsgUnix(message, oob, nil); err != nil {
		return fmt.Errorf("swtpm control command %d: %w", command, err)
	}
	var result [4]byte
	if _, err := io.ReadFull(c.conn, result[:]); err != nil {
		return fmt.Errorf("swtpm control command %d: %w", command, err)
	}
	if r := be32(result[:]); r != 0 {
		return &ControlError{command, r}
	}
	return nil
}

func (c *control) init() error { return c.simple(ctrlInit, make([]byte, 4), nil) }
func (c *control) stop() error { return c.simple(ctrlStop, nil, nil) }

func (c *control) setDataFD(f *os.File) error {
	return c.simple(ctrlSetDataFD, nil, unix.UnixRights(int(f.Fd())))
}

func (c *control) setState(permanent []byte) error {
	payload := binary.BigEndian.AppendUint32(nil, 0) // flags: not encrypted
	payload = binary.BigEndian.AppendUint32(payload, blobPermanent)
	payload = binary.BigEndian.AppendUint32(payload, uint32(len(permanent)))
	return c.simple(ctrlSetStateBlob, append(payload, permanent...), nil)
}

// state fetches the permanent state piece by piece: the answer is result, flags, total length and length of this piece, then the piece.
func (c *control) state() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var blob []byte
	for {
		message := binary.BigEndian.AppendUint32(nil, ctrlGetStateBlob)
		message = binary.BigEndian.AppendUint32(message, blobDecrypted)
		message = binary.BigEndian.AppendUint32(message, blobPermanent)
		message = binary.BigEndian.AppendUint32(message, uint32(len(blob)))
		if _, err := c.conn.Write(message); err != nil {
			return nil, fmt.Errorf("asking for the vTPM state: %w", err)
		}
		var head [16]byte
		if _, err := io.ReadFull(c.conn, head[:4]); err != nil {
			return nil, fmt.Errorf("reading the vTPM state: %w", err)
		}
		if r := be32(head[:]); r != 0 {
			return nil, &ControlError{ctrlGetStateBlob, r}
		}
		if _, err := io.ReadFull(c.conn, head[4:]); err != nil {
			return nil, fmt.Errorf("reading the vTPM state: %w", err)
		}
		total, length := be32(head[8:]), be32(head[12:])
		if total == 0 || total > maxStateBlob || length == 0 || uint64(len(blob))+uint64(length) > uint64(total) {
			return nil, fmt.Errorf("vTPM state: piece of %d bytes at %d of %d", length, len(blob), total)
		}
		piece := make([]byte, length)
		if _, err := io.ReadFull(c.conn, piece); err != nil {
			return nil, fmt.Errorf("reading the vTPM state: %w", err)
		}
		if blob = append(blob, piece...); len(blob) == int(total) {
			return blob, nil
		}
	}
}

// forward passes a message of QEMU on as it is and returns swtpm's answer, which swtpm writes at once.
func (c *control) forward(message []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(message); err != nil {
		return nil, fmt.Errorf("forwarding a control message: %w", err)
	}
	answer := make([]byte, maxControlMessage)
	n, err := c.conn.Read(answer)
	if err != nil {
		return nil, fmt.Errorf("reading a control answer: %w", err)
	}
	return answer[:n], nil
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
