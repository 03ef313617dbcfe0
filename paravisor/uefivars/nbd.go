package uefivars

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Numbers of the NBD protocol, fixed newstyle. Everything is big-endian.
const (
	nbdMagic       uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic    uint64 = 0x49484156454f5054 // "IHAVEOPT"
	optionReply    uint64 = 0x0003e889045565a9
	requestMagic   uint32 = 0x25609513
	simpleReply    uint32 = 0x67446698
	flagFixed      uint16 = 1
	flagNoZeroes   uint16 = 2
	sendFlags      uint16 = 1<<0 | 1<<2 | 1<<3 // HAS_FLAGS, SEND_FLUSH, SEND_FUA
	optExportName  uint32 = 1
	optAbort       uint32 = 2
	optList        uint32 = 3
	optInfo        uint32 = 6
	optGo          uint32 = 7
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repUnsupported uint32 = 1<<31 | 1
	repInvalid     uint32 = 1<<31 | 3
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisconnect  uint16 = 2
	cmdFlush       uint16 = 3
	cmdFlagFUA     uint16 = 1
	errIO          uint32 = 5
	errInvalid     uint32 = 22
	errNoSpace     uint32 = 28

	maxOption  = 4096    // bytes
	maxRequest = 1 << 20 // bytes of one read or write
)

// errEnd says that the client ended the conversation as the protocol has it.
var errEnd = errors.New("the client has ended")

// Server is an NBD server with one nameless export.
type Server struct {
	Store *Store
	// Broken is told when a commit failed; the server then serves no more.
	Broken func(error)

	mu   sync.Mutex
	conn net.Conn
	stop bool
}

// Serve answers one client after the other until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting on the variables socket: %w", err)
		}
		if !s.adopt(conn) {
			return conn.Close()
		}
		_ = s.converse(conn) // what a client does wrong ends its connection; commits have their own way out
		s.drop(conn)
		if err := s.Store.Flush(); err != nil {
			s.Broken(err)
			return err
		}
	}
}

func (s *Server) adopt(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return !s.stop
}

func (s *Server) drop(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = conn.Close()
	s.conn = nil
}

// Close sends the client away. The listener is the caller's to close.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

func (s *Server) converse(conn io.ReadWriter) error {
	if err := s.negotiate(conn); err != nil {
		return err
	}
	for {
		if err := s.request(conn); err != nil {
			return err
		}
	}
}

func (s *Server) negotiate(conn io.ReadWriter) error {
	hello := binary.BigEndian.AppendUint64(nil, nbdMagic)
	hello = binary.BigEndian.AppendUint64(hello, optionMagic)
	hello = binary.BigEndian.AppendUint16(hello, flagFixed|flagNoZeroes)
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	var flags [4]byte
	if _, err := io.ReadFull(conn, flags[:]); err != nil {
		return err
	}
	client := binary.BigEndian.Uint32(flags[:])
	if client&^uint32(flagFixed|flagNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags 0x%x", client)
	}
	for {
		done, err := s.option(conn, client&uint32(flagNoZeroes) == 0)
		if done || err != nil {
			return err
		}
	}
}

// option answers one option; done means that transmission begins.
func (s *Server) option(conn io.ReadWriter, zeroes bool) (done bool, err error) {
	var head [16]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return false, err
	}
	if m := binary.BigEndian.Uint64(head[:]); m != optionMagic {
		return false, fmt.Errorf("option magic 0x%x", m)
	}
	code, size := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:])
	if size > maxOption {
		return false, fmt.Errorf("option of %d bytes", size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(conn, data); err != nil {
		return false, err
	}
	reply := func(kind uint32, payload []byte) error {
		b := binary.BigEndian.AppendUint64(nil, optionReply)
		b = binary.BigEndian.AppendUint32(b, code)
		b = binary.BigEndian.AppendUint32(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
		_, err := conn.Write(append(b, payload...))
		return err
	}
	switch code {
	case optExportName:
		if len(data) != 0 {
			return false, errors.New("an unknown export")
		}
		answer := s.export(nil)
		if zeroes {
			answer = append(answer, make([]byte, 124)...)
		}
		_, err := conn.Write(answer)
		return true, err
	case optAbort:
		return false, errors.Join(reply(repAck, nil), errEnd)
	case optList:
		if err := reply(repServer, make([]byte, 4)); err != nil {
			return false, err
		}
		return false, reply(repAck, nil)
	case optInfo, optGo:
		// u32 name length, name, u16 count, count times u16
		if len(data) < 6 || binary.BigEndian.Uint32(data) != 0 {
			return false, reply(repInvalid, nil)
		}
		if err := reply(repInfo, s.export([]byte{0, 0})); err != nil { // NBD_INFO_EXPORT
			return false, err
		}
		return code == optGo, reply(repAck, nil)
	}
	return false, reply(repUnsupported, nil)
}

// export is the size u64 and the transmission flags u16.
func (s *Server) export(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(s.Store.Size()))
	return binary.BigEndian.AppendUint16(b, sendFlags)
}

// request answers one request: magic u32, flags u16, type u16, cookie u64, offset u64, length u32.
func (s *Server) request(conn io.ReadWriter) error {
	var head [28]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	if m := binary.BigEndian.Uint32(head[:]); m != requestMagic {
		return fmt.Errorf("request magic 0x%x", m)
	}
	flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
	offset, length := binary.BigEndian.Uint64(head[16:]), binary.BigEndian.Uint32(head[24:])
	if (kind == cmdRead || kind == cmdWrite) && length > maxRequest {
		return fmt.Errorf("a request of %d bytes", length) // a write's data can't be skipped safely
	}
	var failure uint32
	var data []byte
	switch kind {
	case cmdRead:
		data = make([]byte, length)
		if !s.Store.ReadAt(data, offset) {
			failure, data = errInvalid, nil
		}
	case cmdWrite:
		written := make([]byte, length)
		if _, err := io.ReadFull(conn, written); err != nil {
			return err
		}
		if !s.Store.WriteAt(written, offset) {
			failure = errNoSpace
		} else if flags&cmdFlagFUA != 0 {
			failure = s.flush()
		}
	case cmdFlush:
		failure = s.flush()
	case cmdDisconnect:
		return errEnd
	default:
		failure = errInvalid
	}
	answer := binary.BigEndian.AppendUint32(nil, simpleReply)
	answer = binary.BigEndian.AppendUint32(answer, failure)
	answer = append(answer, head[8:16]...)
	_, err := conn.Write(append(answer, data...))
	return err
}

func (s *Server) flush() uint32 {
	if err := s.Store.Flush(); err != nil {
		s.Broken(err)
		return errIO
	}
	return 0
}
