package vtpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// rig is a provisioned vTPM behind its gate, reached through the socket as QEMU reaches it.
type rig struct {
	*testing.T
	swtpm  *Swtpm
	gate   *Gate
	qemu   *net.UnixConn // control connection
	tpm    transport.TPM // data connection
	data   net.Conn
	mu     sync.Mutex
	states [][]byte
	broken chan error
	asked  [][UserDataSize]byte
	fail   error // what the next commit answers
}

type connTPM struct{ net.Conn }

func (c connTPM) Send(in []byte) ([]byte, error) {
	if _, err := c.Write(in); err != nil {
		return nil, err
	}
	return readTPMMessage(c)
}

func report(userData [UserDataSize]byte) []byte {
	return append(bytes.Repeat([]byte{0xab}, 2400), userData[:]...)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, swtpm: startSwtpm(t), broken: make(chan error, 4)}
	if err := r.swtpm.Provision(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.swtpm.ReadIdentity(); err != nil {
		t.Fatal(err)
	}
	state, err := r.swtpm.State()
	if err != nil {
		t.Fatal(err)
	}
	r.states = [][]byte{state}
	r.gate = &Gate{
		TPM: r.swtpm,
		Commit: func(s []byte) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.states = append(r.states, s)
			return r.fail
		},
		Report: func(_ context.Context, u [UserDataSize]byte) ([]byte, error) {
			r.asked = append(r.asked, u)
			return report(u), nil
		},
	}
	if err := r.gate.Prepare(report([UserDataSize]byte{}), [UserDataSize]byte{}, []byte("certificate"), state); err != nil {
		t.Fatal(err)
	}
	r.connect()
	return r
}

func (r *rig) connect() {
	r.Helper()
	path := filepath.Join(scratch(r.T), "tpm.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		r.Fatal(err)
	}
	s := &Socket{Gate: r.gate, Broken: func(err error) { r.broken <- err }}
	done := make(chan error, 1)
	go func() { done <- s.Serve(r.Context(), l) }()
	if r.qemu, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path}); err != nil {
		r.Fatal(err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		r.Fatal(err)
	}
	r.ctrl(ctrlSetDataFD, nil, unix.UnixRights(int(theirs.Fd())))
	theirs.Close()
	if r.data, err = net.FileConn(ours); err != nil {
		r.Fatal(err)
	}
	ours.Close()
	r.tpm = connTPM{r.data}
	r.Cleanup(func() {
		l.Close()
		s.Close()
		r.qemu.Close()
		r.data.Close()
		<-done
	})
	// As QEMU starts: STOP, SET_BUFFERSIZE, INIT.
	r.ctrl(ctrlStop, nil, nil)
	r.ctrl(ctrlSetBufferSize, make([]byte, 4), nil)
	r.ctrl(ctrlInit, make([]byte, 4), nil)
	if err := startup(r.tpm); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) ctrl(code uint32, payload, oob []byte) []byte {
	r.Helper()
	b := r.ctrlRaw(code, payload, oob)
	if be32(b) != 0 {
		r.Fatalf("control command %d: %x", code, b)
	}
	return b
}

func (r *rig) ctrlRaw(code uint32, payload, oob []byte) []byte {
	r.Helper()
	if _, _, err := r.qemu.WriteMsgUnix(append(binary.BigEndian.AppendUint32(nil, code), payload...), oob, nil); err != nil {
		r.Fatal(err)
	}
	b := make([]byte, 256)
	n, err := r.qemu.Read(b)
	if err != nil {
		r.Fatal(err)
	}
	return b[:n]
}

func (r *rig) name(index tpm2.TPMHandle) (tpm2.NamedHandle, *tpm2.TPMSNVPublic) {
	r.Helper()
	p, err := tpm2.NVReadPublic{NVIndex: index}.Execute(r.tpm)
	if err != nil {
		r.Fatal(err)
	}
	public, err := p.NVPublic.Contents()
	if err != nil {
		r.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: index, Name: p.NVName}, public
}

func (r *rig) readAll(index tpm2.TPMHandle) []byte {
	r.Helper()
	h, public := r.name(index)
	var all []byte
	for len(all) < int(public.DataSize) {
		x, err := tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Size: min(maxNVRead, public.DataSize-uint16(len(all))), Offset: uint16(len(all))}.Execute(r.tpm)
		if err != nil {
			r.Fatal(err)
		}
		all = append(all, x.Data.Buffer...)
	}
	return all
}

func TestServedIndexes(t *testing.T) {
	r := newRig(t)
	if got := r.readAll(nvHCLReport); !bytes.Equal(got, pad(report([64]byte{}), HCLReportSize)) {
		t.Errorf("HCL report of %d bytes differs", len(got))
	}
	if got := r.readAll(nvAKCert); !bytes.Equal(got, pad([]byte("certificate"), AKCertificateSize)) {
		t.Errorf("AK certificate of %d bytes differs", len(got))
	}
	h, public := r.name(nvHCLReport)
	digest := sha256.Sum256(tpm2.Marshal(*public))
	if !bytes.Equal(h.Name.Buffer[2:], digest[:]) {
		t.Error("the name does not follow from the public area")
	}
	caps, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x01000000, PropertyCount: 64}.Execute(r.tpm)
	if err != nil {
		t.Fatal(err)
	}
	handles, err := caps.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	if len(handles.Handle) != 4 {
		t.Errorf("NV handles %x", handles.Handle)
	}
}

func TestReadRefusals(t *testing.T) {
	r := newRig(t)
	h, _ := r.name(nvHCLReport)
	ekPublic, err := tpm2.ReadPublic{ObjectHandle: handleEK}.Execute(r.tpm)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ekPublic.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	read := func(auth any, size, offset uint16) error {
		var ah tpm2.AuthHandle
		switch a := auth.(type) {
		case tpm2.Session:
			ah = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: a}
		default:
			ah = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		}
		_, err := tpm2.NVRead{AuthHandle: ah, NVIndex: h, Size: size, Offset: offset}.Execute(r.tpm)
		return err
	}
	for _, c := range []struct {
		name string
		auth any
		size uint16
		off  uint16
		want uint32
	}{
		{"a chunk", nil, 1024, 0, rcOK},
		{"the last byte", nil, 1, HCLReportSize - 1, rcOK},
		{"nothing, at the end", nil, 0, HCLReportSize, rcOK},
		{"plain HMAC session", tpm2.HMAC(tpm2.TPMAlgSHA256, 16), 16, 0, rcOK},
		{"plain HMAC session beyond the end", tpm2.HMAC(tpm2.TPMAlgSHA256, 16), 2, HCLReportSize - 1, rcNVRange},
		{"salted HMAC session", tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(handleEK, *ek)), 16, 0, rcAuthType},
		{"bound HMAC session", tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Bound(tpm2.TPMRHOwner, tpm2.HandleName(tpm2.TPMRHOwner), nil)), 16, 0, rcAuthType},
		{"HMAC session that encrypts", tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut)), 16, 0, rcAuthType},
		{"HMAC session that audits", tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Audit()), 16, 0, rcAuthType},
		{"HMAC session with another password", tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth([]byte("x"))), 16, 0, rcAuthFailSession},
		{"wrong owner password", tpm2.PasswordAuth([]byte("x")), 16, 0, 0},
		{"above the NV buffer", nil, 1025, 0, rcSizeParameter1},
		{"beyond the end", nil, 2, HCLReportSize - 1, rcNVRange},
		{"offset beyond the end", nil, 1, 0xffff, rcNVRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := read(c.auth, c.size, c.off)
			if c.name == "wrong owner password" {
				if !errors.Is(err, tpm2.TPMRCBadAuth) && !errors.Is(err, tpm2.TPMRCAuthFail) {
					t.Errorf("got %v", err)
				}
				return
			}
			checkRC(t, err, c.want)
		})
	}
}

// TestReadUnderAResourceManager saves and loads the session around each command, as /dev/tpmrm0 does.
func TestReadUnderAResourceManager(t *testing.T) {
	r := newRig(t)
	h, _ := r.name(nvHCLReport)
	session, end, err := tpm2.HMACSession(r.tpm, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for offset := range uint16(3) {
		saved, err := tpm2.ContextSave{SaveHandle: session.Handle()}.Execute(r.tpm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.ContextLoad{Context: saved.Context}).Execute(r.tpm); err != nil {
			t.Fatal(err)
		}
		got, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: session}, NVIndex: h, Size: 16, Offset: offset}.Execute(r.tpm)
		if err != nil || !bytes.Equal(got.Data.Buffer, r.gate.report[offset:offset+16]) {
			t.Fatalf("at %d: %v, %v", offset, got, err)
		}
	}
	// Once the session was used elsewhere, its nonces are unknown here.
	if _, err := (tpm2.PCREvent{PCRHandle: tpm2.AuthHandle{Handle: 16, Auth: session}, EventData: tpm2.TPM2BEvent{Buffer: []byte("x")}}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: session}, NVIndex: h, Size: 16}.Execute(r.tpm)
	checkRC(t, err, rcAuthType)
}

func checkRC(t *testing.T, err error, want uint32) {
	t.Helper()
	var rc tpm2.TPMRC
	if err != nil && !errors.As(err, &rc) {
		var f tpm2.TPMFmt1Error
		if !errors.As(err, &f) {
			t.Fatalf("no TPM answer: %v", err)
		}
	}
	if want == rcOK {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if !errors.Is(err, tpm2.TPMRC(want)) {
		t.Errorf("got %v, want 0x%x", err, want)
	}
}

func TestIdentityCannotBeRemoved(t *testing.T) {
	r := newRig(t)
	ak, err := tpm2.ReadPublic{ObjectHandle: handleAK}.Execute(r.tpm)
	if err != nil {
		t.Fatal(err)
	}
	platform := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	hcl, _ := r.name(nvHCLReport)
	mark, _ := r.name(nvProvisioned)
	for _, c := range []struct {
		name string
		run  func() error
		want uint32
	}{
		{"TPM-16 Clear with platform authorization", func() error {
			_, err := tpm2.Clear{AuthHandle: platform}.Execute(r.tpm)
			return err
		}, rcDisabled},
		{"TPM-16 Clear with lockout authorization", func() error {
			_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(r.tpm)
			return err
		}, rcDisabled},
		{"TPM-16 ChangeEPS", raw(r, tpm2.TPMCCChangeEPS, tpm2.TPMRHPlatform), rcCommandCode},
		{"TPM-16 ChangePPS", raw(r, tpm2.TPMCCChangePPS, tpm2.TPMRHPlatform), rcCommandCode},
		{"ClearControl", raw(r, tpm2.TPMCCClearControl, tpm2.TPMRHPlatform, 0), rcDisabled},
		{"HierarchyControl: endorsement off", raw(r, tpm2.TPMCCHierarchyControl, tpm2.TPMRHPlatform, 0x40, 0, 0, 0x0b, 0), rcDisabled},
		{"HierarchyControl: owner off", raw(r, tpm2.TPMCCHierarchyControl, tpm2.TPMRHPlatform, 0x40, 0, 0, 0x01, 0), rcDisabled},
		{"HierarchyControl: platform NV off", raw(r, tpm2.TPMCCHierarchyControl, tpm2.TPMRHPlatform, 0x40, 0, 0x01, 0x0d, 0), rcDisabled},
		{"TPM-16 evict the AK", func() error {
			_, err := tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: handleAK, Name: ak.Name}, PersistentHandle: handleAK}.Execute(r.tpm)
			return err
		}, rcHierarchy2},
		{"undefine the HCL report", func() error {
			_, err := tpm2.NVUndefineSpace{AuthHandle: platform, NVIndex: hcl}.Execute(r.tpm)
			return err
		}, rcNVAuthorized},
		{"undefine the provisioned mark", func() error {
			_, err := tpm2.NVUndefineSpace{AuthHandle: platform, NVIndex: mark}.Execute(r.tpm)
			return err
		}, rcNVAuthorized},
		{"write the HCL report", func() error {
			_, err := tpm2.NVWrite{AuthHandle: platform, NVIndex: hcl, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte{1}}}.Execute(r.tpm)
			return err
		}, rcNVAuthorized},
		{"HierarchyControl: platform off, as firmware does", raw(r, tpm2.TPMCCHierarchyControl, tpm2.TPMRHPlatform, 0x40, 0, 0, 0x0c, 0), rcOK},
	} {
		t.Run(c.name, func(t *testing.T) { checkRC(t, c.run(), c.want) })
	}
	if again, err := (tpm2.ReadPublic{ObjectHandle: handleAK}).Execute(r.tpm); err != nil || !bytes.Equal(again.Name.Buffer, ak.Name.Buffer) {
		t.Errorf("the AK is gone or another: %v", err)
	}
}

// raw sends a command with one handle, an empty password and the given parameter bytes.
func raw(r *rig, code tpm2.TPMCC, handle tpm2.TPMHandle, params ...byte) func() error {
	return func() error {
		body := binary.BigEndian.AppendUint32(nil, uint32(code))
		body = binary.BigEndian.AppendUint32(body, uint32(handle))
		body = append(body, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0)
		body = append(body, params...)
		c := binary.BigEndian.AppendUint16(nil, tagSessions)
		c = binary.BigEndian.AppendUint32(c, uint32(6+len(body)))
		answer, err := r.tpm.Send(append(c, body...))
		if err != nil {
			return err
		}
		if rc := be32(answer[6:]); rc != 0 {
			return tpm2.TPMRC(rc)
		}
		return nil
	}
}

func TestWriteOnceMark(t *testing.T) {
	r := newRig(t)
	h, _ := r.name(nvProvisioned)
	read := tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Size: 1}
	if _, err := read.Execute(r.tpm); !errors.Is(err, tpm2.TPMRCNVUninitialized) {
		t.Errorf("unwritten mark: %v", err)
	}
	write := tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte{1}}}
	if _, err := write.Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	h, _ = r.name(nvProvisioned)
	if _, err := (tpm2.NVWriteLock{AuthHandle: tpm2.TPMRHOwner, NVIndex: h}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	r.ctrl(ctrlStop, nil, nil)
	r.ctrl(ctrlInit, make([]byte, 4), nil)
	if err := startup(r.tpm); err != nil {
		t.Fatal(err)
	}
	write.NVIndex, _ = r.name(nvProvisioned)
	if _, err := write.Execute(r.tpm); !errors.Is(err, tpm2.TPMRCNVLocked) {
		t.Errorf("second write after a power cycle: %v", err)
	}
}

func (r *rig) defineUserData() tpm2.NamedHandle {
	r.Helper()
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: nvUserData, NameAlg: tpm2.TPMAlgSHA256, DataSize: UserDataSize,
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true},
	})}).Execute(r.tpm); err != nil {
		r.Fatal(err)
	}
	h, _ := r.name(nvUserData)
	return h
}

func TestUserDataRenewTheReport(t *testing.T) {
	r := newRig(t)
	h := r.defineUserData()
	r.readAll(nvHCLReport)
	if len(r.asked) != 0 {
		t.Errorf("a report was made for no new user data")
	}
	want := [UserDataSize]byte{1, 2, 3}
	if _, err := (tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Data: tpm2.TPM2BMaxNVBuffer{Buffer: want[:]}}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	if got := r.readAll(nvHCLReport); !bytes.Equal(got, pad(report(want), HCLReportSize)) {
		t.Error("the report does not carry the new user data")
	}
	r.readAll(nvHCLReport)
	if len(r.asked) != 1 {
		t.Errorf("%d reports were made, wanted 1", len(r.asked))
	}
	r.gate.Report = func(context.Context, [UserDataSize]byte) ([]byte, error) { return nil, errors.New("no CPU") }
	want[5] = 9
	h, _ = r.name(nvUserData)
	if _, err := (tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Data: tpm2.TPM2BMaxNVBuffer{Buffer: want[:]}}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	hcl, _ := r.name(nvHCLReport)
	_, err := tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: hcl, Size: 16}.Execute(r.tpm)
	checkRC(t, err, rcNVUnavailable) // a stale report must not pass for a new one
	if r.gate.ReportError() == nil {
		t.Error("the reason is lost")
	}
}

func TestCommitComesBeforeTheAnswer(t *testing.T) {
	r := newRig(t)
	r.mu.Lock()
	before := len(r.states)
	r.mu.Unlock()
	h := r.defineUserData()
	if _, err := (tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte("acknowledged")}}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	if len(r.states) != before+2 {
		t.Errorf("%d commits for two changes", len(r.states)-before)
	}
	last := r.states[len(r.states)-1]
	r.mu.Unlock()
	if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.PCREvent{PCRHandle: tpm2.AuthHandle{Handle: 16, Auth: tpm2.PasswordAuth(nil)}, EventData: tpm2.TPM2BEvent{Buffer: []byte("x")}}).Execute(r.tpm); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	if len(r.states) != before+2 {
		t.Error("a state-neutral command committed")
	}
	r.mu.Unlock()
	// swtpm is killed: what was acknowledged is in the committed state.
	if err := r.swtpm.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.swtpm.Exited()
	next := startSwtpm(t)
	if err := next.Load(last); err != nil {
		t.Fatal(err)
	}
	powerOn(t, next)
	x, err := tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: h, Size: 12}.Execute(next)
	if err != nil {
		p, _ := tpm2.NVReadPublic{NVIndex: nvUserData}.Execute(next)
		x, err = tpm2.NVRead{AuthHandle: tpm2.TPMRHOwner, NVIndex: tpm2.NamedHandle{Handle: nvUserData, Name: p.NVName}, Size: 12}.Execute(next)
	}
	if err != nil || string(x.Data.Buffer) != "acknowledged" {
		t.Errorf("after a crash: %v", err)
	}
}

func TestFailedCommitLetsNoAnswerOut(t *testing.T) {
	r := newRig(t)
	r.mu.Lock()
	r.fail = errors.New("disk full")
	r.mu.Unlock()
	_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: nvUserData, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8, Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true},
	})}.Execute(r.tpm)
	if err == nil {
		t.Error("an answer left before its state was durable")
	}
	if err := <-r.broken; err == nil {
		t.Error("no reason was told")
	}
}

func TestControlChannel(t *testing.T) {
	r := newRig(t)
	caps := binary.BigEndian.Uint64(r.ctrlRaw(ctrlGetCapability, nil, nil))
	if caps != offeredCapabilities {
		t.Errorf("capabilities 0x%x", caps)
	}
	for _, c := range []struct {
		name string
		code uint32
		load []byte
	}{
		{"state out in clear", ctrlGetStateBlob, make([]byte, 12)},
		{"state in", ctrlSetStateBlob, make([]byte, 12)},
		{"store volatile", 10, nil},
		{"hash start", 6, nil},
		{"unknown", 99, nil},
		{"data descriptor without one", ctrlSetDataFD, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := r.ctrlRaw(c.code, c.load, nil); be32(got) != controlBadOrdinal {
				t.Errorf("answer %x", got)
			}
		})
	}
	r.ctrl(ctrlShutdown, nil, nil)
	if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(r.tpm); err != nil {
		t.Errorf("the TPM ended with QEMU's SHUTDOWN: %v", err)
	}
}

func TestCancelDoesNotWait(t *testing.T) {
	r := newRig(t)
	r.gate.mu.Lock() // a command runs
	r.ctrl(ctrlCancelTPMCommand, nil, nil)
	r.gate.mu.Unlock()
}

func TestFinishIsTheLastCommit(t *testing.T) {
	r := newRig(t)
	if err := r.gate.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.gate.Exchange(t.Context(), errorAnswer(0)); err == nil {
		t.Error("a command passed after the end")
	}
}

func TestSwtpmMissing(t *testing.T) {
	if _, err := Start(Process{Program: "/nonexistent/swtpm", Scratch: scratch(t)}); err == nil {
		t.Error("started nothing")
	}
}

func TestForeignStateIsRefused(t *testing.T) {
	s := startSwtpm(t)
	err := s.Load(bytes.Repeat([]byte{0x5a}, 2000))
	if err == nil {
		err = s.PowerOn()
	}
	if err == nil {
		t.Error("swtpm took a state that is none")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte(errorAnswer(0)))
	f.Add([]byte{0x80, 2, 0, 0, 0, 32, 0, 0, 1, 0x21, 0x40, 0, 0, 0xc, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0x40, 0, 0, 0xb, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < 10 {
			return
		}
		c := command(raw)
		_ = refusal(c)
		if area, _, ok := c.authArea(2); ok {
			_ = onePassword(area)
		}
		_, _ = readTPMMessage(bytes.NewReader(raw))
	})
}
