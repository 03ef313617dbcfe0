package uefivars

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

type rig struct {
	store   *Store
	socket  string
	commits chan []byte
	broken  chan error
	mu      sync.Mutex
	fail    error
}

func newRig(t *testing.T, size int, delay time.Duration) *rig {
	t.Helper()
	r := &rig{commits: make(chan []byte, 1000), broken: make(chan error, 10), socket: filepath.Join(t.TempDir(), "v")}
	broken := func(err error) { r.broken <- err }
	r.store = NewStore(bytes.Repeat([]byte{0xff}, size), delay, func(b []byte) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.commits <- b
		return r.fail
	}, broken)
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Store: r.store, Broken: broken}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { l.Close(); s.Close(); <-done })
	return r
}

// client speaks as little of the protocol as a test needs.
type client struct {
	*testing.T
	net.Conn
}

func (r *rig) dial(t *testing.T) client {
	t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := client{t, conn}
	c.read(18)
	c.write(be(uint32(3)))
	c.write(be(optionMagic, optGo, uint32(6)), make([]byte, 6))
	if got := c.read(20 + 12 + 20); binary.BigEndian.Uint64(got[22:]) != uint64(r.store.Size()) {
		t.Fatalf("export %x", got)
	}
	return c
}

func be(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		_ = binary.Write(&b, binary.BigEndian, p)
	}
	return b.Bytes()
}

func (c client) write(parts ...[]byte) {
	c.Helper()
	if _, err := c.Conn.Write(bytes.Join(parts, nil)); err != nil {
		c.Fatal(err)
	}
}

func (c client) read(n int) []byte {
	c.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.Conn, b); err != nil {
		c.Fatal(err)
	}
	return b
}

func (c client) request(kind, flags uint16, offset uint64, length uint32, data []byte) uint32 {
	c.Helper()
	c.write(be(requestMagic, flags, kind, uint64(77), offset, length), data)
	got := c.read(16)
	if binary.BigEndian.Uint32(got) != simpleReply || binary.BigEndian.Uint64(got[8:]) != 77 {
		c.Fatalf("reply %x", got)
	}
	return binary.BigEndian.Uint32(got[4:])
}

func TestReadWriteFlush(t *testing.T) {
	r := newRig(t, 4096, time.Hour)
	c := r.dial(t)
	if e := c.request(cmdWrite, 0, 100, 3, []byte("abc")); e != 0 {
		t.Fatalf("write: %d", e)
	}
	if len(r.commits) != 0 {
		t.Error("committed without a flush")
	}
	if e := c.request(cmdFlush, 0, 0, 0, nil); e != 0 {
		t.Fatalf("flush: %d", e)
	}
	if got := <-r.commits; string(got[100:103]) != "abc" {
		t.Errorf("committed %q", got[100:103])
	}
	if e := c.request(cmdRead, 0, 99, 5, nil); e != 0 {
		t.Fatalf("read: %d", e)
	}
	if got := c.read(5); string(got) != "\xffabc\xff" {
		t.Errorf("read %q", got)
	}
	if e := c.request(cmdWrite, cmdFlagFUA, 0, 1, []byte("x")); e != 0 || len(r.commits) != 1 {
		t.Errorf("FUA: error %d, %d commits", e, len(r.commits))
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, 4096, time.Hour)
	c := r.dial(t)
	for _, row := range []struct {
		name string
		kind uint16
		at   uint64
		size uint32
		data []byte
		want uint32
	}{
		{"read at the end", cmdRead, 4096, 1, nil, errInvalid},
		{"read over the end", cmdRead, 4095, 2, nil, errInvalid},
		{"read with an offset that wraps", cmdRead, ^uint64(0), 2, nil, errInvalid},
		{"write over the end", cmdWrite, 4095, 2, []byte("xy"), errNoSpace},
		{"trim", 4, 0, 1, nil, errInvalid},
	} {
		t.Run(row.name, func(t *testing.T) {
			if e := c.request(row.kind, 0, row.at, row.size, row.data); e != row.want {
				t.Errorf("error %d, want %d", e, row.want)
			}
		})
	}
	c.write(be(requestMagic, uint16(0), cmdWrite, uint64(1), uint64(0), uint32(maxRequest+1)))
	if _, err := c.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an oversized write: %v", err)
	}
	r.dial(t) // the next client is served
}

func TestCommitOnDisconnectAndDelay(t *testing.T) {
	r := newRig(t, 512, time.Hour)
	c := r.dial(t)
	c.request(cmdWrite, 0, 0, 1, []byte("d"))
	c.Close()
	if got := <-r.commits; got[0] != 'd' {
		t.Error("disconnect lost a write")
	}
	r = newRig(t, 512, time.Millisecond)
	c = r.dial(t)
	c.request(cmdWrite, 0, 0, 1, []byte("e"))
	if got := <-r.commits; got[0] != 'e' {
		t.Error("the delay lost a write")
	}
}

func TestFailedCommit(t *testing.T) {
	r := newRig(t, 512, time.Hour)
	r.mu.Lock()
	r.fail = errors.New("disk full")
	r.mu.Unlock()
	c := r.dial(t)
	c.request(cmdWrite, 0, 0, 1, []byte("d"))
	if e := c.request(cmdFlush, 0, 0, 0, nil); e != errIO {
		t.Errorf("flush: %d", e)
	}
	if err := <-r.broken; err == nil {
		t.Error("not told")
	}
}

// TestQEMU lets QEMU's own client read and write, through its monitor and without a machine.
func TestQEMU(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Fatal("qemu-system-x86_64 is missing: install qemu-system-x86")
	}
	r := newRig(t, 540672, time.Hour)
	q := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio",
		"-drive", "if=none,id=v,format=raw,file=nbd+unix:///?socket="+r.socket)
	q.Stdin = strings.NewReader(`qemu-io v "write -P 0x5a 65536 4096"
qemu-io v "read -P 0x5a 65536 4096"
qemu-io v "read -P 0xff 0 512"
qemu-io v "flush"
quit
`)
	out, err := q.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("failed")) || bytes.Count(out, []byte("4096/4096")) != 2 {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	if got := <-r.commits; got[65536] != 0x5a || got[65535] != 0xff || got[65536+4096] != 0xff {
		t.Error("what was written is not what was committed")
	}
}

func FuzzConverse(f *testing.F) {
	f.Add(be(uint32(3), optionMagic, optGo, uint32(6), make([]byte, 6), requestMagic, uint16(0), cmdRead, uint64(1), uint64(0), uint32(8)))
	f.Add(be(uint32(1), optionMagic, optExportName, uint32(0), requestMagic, uint16(1), cmdWrite, uint64(1), uint64(0), uint32(1), uint8(9)))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &Server{Store: NewStore(make([]byte, 512), time.Hour, func([]byte) error { return nil }, func(error) {}), Broken: func(error) {}}
		_ = s.converse(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), io.Discard})
		_ = s.Store.Close()
	})
}
