package vtpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
)

// UserDataSize is the size of NV 0x01400002, in bytes.
const UserDataSize = 64

// Sizes of the served indexes as the guest sees them, in bytes. The contents are followed by zeros.
const (
	HCLReportSize     = 2600
	AKCertificateSize = 4096
)

// maxNVRead is the TPM's NV buffer, in bytes: the most that one NV_Read gives.
const maxNVRead = 1024

// Gate takes the guest's commands to the TPM. One command at a time goes through it.
type Gate struct {
	TPM *Swtpm
	// Commit makes a changed permanent state durable. No answer leaves before it returns; when it
	// fails, none leaves any more.
	Commit func(state []byte) error
	// Report makes an HCL report for the guest's user data. Called when the guest begins to read the
	// report and its user data are not those in the last report.
	Report func(ctx context.Context, userData [UserDataSize]byte) ([]byte, error)

	mu        sync.Mutex
	state     []byte // as last committed
	report    []byte
	userData  [UserDataSize]byte
	akCert    []byte
	broken    error
	sessions  map[tpm2.TPMHandle]*plainSession
	counters  Counters
	reportErr error
}

// Counters tell what went through, for metrics.
type Counters struct{ Commands, Refused, Commits, Reports uint64 }

// Prepare sets what the served indexes hold, and the permanent state that is durable already.
func (g *Gate) Prepare(report []byte, userData [UserDataSize]byte, akCertificate, committed []byte) error {
	if len(akCertificate) > AKCertificateSize {
		return fmt.Errorf("AK certificate of %d bytes; the index holds %d", len(akCertificate), AKCertificateSize)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.akCert, g.state, g.userData = pad(akCertificate, AKCertificateSize), bytes.Clone(committed), userData
	return g.setReport(report)
}

func (g *Gate) setReport(report []byte) error {
	if len(report) == 0 || len(report) > HCLReportSize {
		return fmt.Errorf("HCL report of %d bytes; the index holds %d", len(report), HCLReportSize)
	}
	g.report = pad(report, HCLReportSize)
	g.counters.Reports++
	return nil
}

// Counters is a copy of the counters.
func (g *Gate) Counters() Counters {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counters
}

// ReportError is why the last attempt to renew the HCL report failed, or nil.
func (g *Gate) ReportError() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reportErr
}

// Exchange answers one command. An error means that no answer may leave.
func (g *Gate) Exchange(ctx context.Context, raw []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return nil, g.broken
	}
	g.counters.Commands++
	answer, err := g.exchange(ctx, command(raw))
	if err != nil {
		g.broken = err
	}
	return answer, err
}

func (g *Gate) exchange(ctx context.Context, c command) ([]byte, error) {
	if len(c) < 10 {
		return errorAnswer(rcCommandSize), nil
	}
	if rc := refusal(c); rc != rcOK {
		g.counters.Refused++
		return errorAnswer(rc), nil
	}
	served := func(n int) bool { return c.handle(n) == nvHCLReport || c.handle(n) == nvAKCert }
	switch {
	case c.code() == tpm2.TPMCCNVReadPublic && served(0):
		return g.readPublic(c)
	case c.code() == tpm2.TPMCCNVRead && served(1):
		return g.read(ctx, c)
	}
	return g.pass(c)
}

// pass gives a command to the TPM and makes what it changed durable.
func (g *Gate) pass(c command) ([]byte, error) {
	answer, err := g.TPM.Send(c)
	if err != nil {
		return nil, err
	}
	g.observe(c, answer)
	if mayChangeState(c, answer) {
		if err := g.commit(); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

func (g *Gate) commit() error {
	if g.Commit == nil {
		return nil
	}
	state, err := g.TPM.State()
	if err != nil {
		return fmt.Errorf("fetching the vTPM state: %w", err)
	}
	if bytes.Equal(state, g.state) {
		return nil
	}
	if err := g.Commit(state); err != nil {
		return fmt.Errorf("committing the vTPM state: %w", err)
	}
	g.state = state
	g.counters.Commits++
	return nil
}

// power forwards a control message that may stop or start the TPM; it waits for the command that runs.
func (g *Gate) power(message []byte) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return nil, g.broken
	}
	if code := be32(message); code == ctrlInit || code == ctrlStop {
		clear(g.sessions)
	}
	return g.TPM.control.forward(message)
}

// Finish shuts the TPM down in order, commits, and lets no command through any more. A TPM that was
// never started (or whose machine was switched off between STOP and INIT) has nothing left to commit.
func (g *Gate) Finish() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return nil // reported when it happened
	}
	g.broken = errors.New("the vTPM was shut down")
	err := shutdown(g.TPM)
	if errors.Is(err, tpm2.TPMRCInitialize) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("shutting the vTPM down: %w", err)
	}
	return g.commit()
}

func (g *Gate) contents(index tpm2.TPMHandle) []byte {
	if index == nvAKCert {
		return g.akCert
	}
	return g.report
}

// readPublic gives the placeholder's public area with the size of what is served, and the name that follows.
func (g *Gate) readPublic(c command) ([]byte, error) {
	if c.tag() != tagNoSessions {
		return errorAnswer(rcAuthType), nil // an audit session would sign the placeholder's name
	}
	answer, err := g.TPM.Send(c)
	if err != nil || be32(answer[6:]) != rcOK || len(answer) < 12 {
		return answer, err
	}
	// The answer is a TPM2B_NV_PUBLIC and a TPM2B_NAME.
	size := int(binary.BigEndian.Uint16(answer[10:]))
	if len(answer) < 12+size {
		return nil, errors.New("the placeholder's public area is cut")
	}
	public, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](answer[12 : 12+size])
	if err != nil {
		return nil, fmt.Errorf("reading the placeholder's public area: %w", err)
	}
	public.DataSize = uint16(len(g.contents(c.handle(0))))
	area := tpm2.Marshal(*public)
	return okAnswer(tagNoSessions, append(sized(area), sized(nvName(area))...)), nil
}

// sized is a TPM2B: a u16 length, then the bytes.
func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// read serves NV_Read. The TPM judges the authorization, by a one-byte read of the placeholder: a
// password as it is, a plain HMAC session as readWithSession has it, no other session.
func (g *Gate) read(ctx context.Context, c command) ([]byte, error) {
	area, params, ok := c.authArea(2)
	if !ok {
		return errorAnswer(rcAuthMissing), nil
	}
	if len(params) != 4 {
		return errorAnswer(rcCommandSize), nil
	}
	if !onePassword(area) {
		return g.readWithSession(ctx, c, area, params)
	}
	probe := bytes.Clone(c)
	binary.BigEndian.PutUint16(probe[len(probe)-4:], 1)
	binary.BigEndian.PutUint16(probe[len(probe)-2:], 0)
	judged, err := g.pass(probe)
	if err != nil || be32(judged[6:]) != rcOK {
		return judged, err
	}
	data, rc := g.cutServed(ctx, c.handle(1), params)
	if rc != rcOK {
		return errorAnswer(rc), nil
	}
	data = sized(data)
	answer := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	answer = append(answer, data...)
	answer = append(answer, 0, 0, 1, 0, 0) // the password session's end: no nonce, continueSession, no HMAC
	return okAnswer(tagSessions, answer), nil
}

// cutServed is the part of a served index that NV_Read's parameters (size u16, offset u16) name. A read
// of the HCL report from its beginning renews it first.
func (g *Gate) cutServed(ctx context.Context, index tpm2.TPMHandle, params []byte) ([]byte, uint32) {
	size, offset := int(binary.BigEndian.Uint16(params)), int(binary.BigEndian.Uint16(params[2:]))
	if index == nvHCLReport && offset == 0 {
		if g.reportErr = g.refresh(ctx); g.reportErr != nil {
			return nil, rcNVUnavailable
		}
	}
	whole := g.contents(index)
	switch {
	case size > maxNVRead:
		return nil, rcSizeParameter1
	case offset+size > len(whole):
		return nil, rcNVRange
	}
	return whole[offset : offset+size], rcOK
}

// onePassword tells whether an authorization area is exactly one password session:
// handle u32, nonce TPM2B (empty), attributes u8, password TPM2B.
func onePassword(area []byte) bool {
	if len(area) < 9 || be32(area) != sessionPassword || binary.BigEndian.Uint16(area[4:]) != 0 {
		return false
	}
	return len(area) == 9+int(binary.BigEndian.Uint16(area[7:]))
}

// refresh makes a new report when the guest's user data changed.
func (g *Gate) refresh(ctx context.Context) error {
	now, err := g.readUserData()
	if err != nil {
		return fmt.Errorf("reading the guest's user data: %w", err)
	}
	if now == g.userData {
		return nil
	}
	if g.Report == nil {
		return errors.New("no reports can be made")
	}
	report, err := g.Report(ctx, now)
	if err != nil {
		return fmt.Errorf("renewing the HCL report: %w", err)
	}
	if err := g.setReport(report); err != nil {
		return err
	}
	g.userData = now
	return nil
}

// readUserData is zero where the guest has not defined or not written the index.
func (g *Gate) readUserData() (data [UserDataSize]byte, err error) {
	index, err := tpm2.NVReadPublic{NVIndex: nvUserData}.Execute(g.TPM)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return data, nil
	}
	if err != nil {
		return data, err
	}
	public, err := index.NVPublic.Contents()
	if err != nil {
		return data, err
	}
	if !public.Attributes.Written {
		return data, nil
	}
	size := min(public.DataSize, UserDataSize)
	var authorizations []tpm2.AuthHandle
	if public.Attributes.OwnerRead { // first: the owner's authorization never moves the dictionary-attack counter
		authorizations = append(authorizations, tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)})
	}
	if public.Attributes.AuthRead {
		authorizations = append(authorizations, tpm2.AuthHandle{Handle: nvUserData, Name: index.NVName, Auth: tpm2.PasswordAuth(nil)})
	}
	err = errors.New("its attributes let nobody read it")
	for _, auth := range authorizations {
		var buffer []byte
		if buffer, err = g.readWith(auth, tpm2.NamedHandle{Handle: nvUserData, Name: index.NVName}, size); err == nil {
			copy(data[:], buffer)
			return data, g.commit() // a read with the index's own authorization can change permanent state
		}
	}
	return data, err
}

// readWith repeats a read that the TPM put off: it does so once when it first uses an index that counts for dictionary attacks.
func (g *Gate) readWith(auth tpm2.AuthHandle, index tpm2.NamedHandle, size uint16) (data []byte, err error) {
	for range 3 {
		var r *tpm2.NVReadResponse
		if r, err = (tpm2.NVRead{AuthHandle: auth, NVIndex: index, Size: size}).Execute(g.TPM); err == nil {
			return r.Data.Buffer, nil
		}
		if !errors.Is(err, tpm2.TPMRCRetry) {
			break
		}
	}
	return nil, err
}

func okAnswer(tag uint16, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body)))
	b = binary.BigEndian.AppendUint32(b, rcOK)
	return append(b, body...)
}

func pad(b []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, b)
	return out
}
