package vtpm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Served indexes and HMAC sessions.
//
// tpm2-tools reads NV with an HMAC session even where the authorization is empty. Its HMAC covers the
// index's name, and the served name is not the placeholder's. A session that is neither salted nor
// bound has no key of its own, and with an empty authorization the HMAC key is empty: everybody can
// compute it, so the gate computes it again over the placeholder's name, lets the TPM judge that, and
// writes the answer's HMAC over the served data. With any secret in the key this is impossible, and the
// answer is TPM_RC_AUTH_TYPE.

const (
	handleNull        tpm2.TPMHandle = 0x40000007
	attrContinue      byte           = 1
	rcAuthFailSession uint32         = 0x98e // TPM_RC_AUTH_FAIL, session 1
)

var movesSessions = []tpm2.TPMCC{tpm2.TPMCCContextSave, tpm2.TPMCCContextLoad}

// plainSession is an HMAC session without salt and bind key.
type plainSession struct {
	hash     tpm2.TPMIAlgHash
	nonceTPM []byte
}

// observe follows plain sessions. Whatever uses one in another way than a served read makes it unknown. Saving and
// loading it, as a resource manager does around each command, is no use: the nonces stay.
func (g *Gate) observe(c command, answer []byte) {
	if len(answer) < 10 || be32(answer[6:]) != rcOK {
		return
	}
	for handle := range g.sessions {
		if bytes.Contains(c[10:], binary.BigEndian.AppendUint32(nil, uint32(handle))) && !slices.Contains(movesSessions, c.code()) {
			delete(g.sessions, handle)
		}
	}
	if c.code() != tpm2.TPMCCStartAuthSession || c.tag() != tagNoSessions || len(answer) < 16 {
		return
	}
	handle := tpm2.TPMHandle(be32(answer[10:]))
	delete(g.sessions, handle)
	// tpmKey, bind, nonceCaller 2B, encryptedSalt 2B, sessionType u8, symmetric, authHash u16
	_, rest, ok := cut(c[min(18, len(c)):])
	if !ok {
		return
	}
	_, rest, ok = cut(rest)
	if !ok || len(rest) < 5 || tpm2.TPMSE(rest[0]) != tpm2.TPMSEHMAC || c.handle(0) != handleNull || c.handle(1) != handleNull {
		return
	}
	hash := tpm2.TPMIAlgHash(binary.BigEndian.Uint16(c[len(c)-2:]))
	nonce, _, ok := cut(answer[14:])
	if _, err := hash.Hash(); !ok || err != nil {
		return
	}
	if g.sessions == nil {
		g.sessions = map[tpm2.TPMHandle]*plainSession{}
	}
	g.sessions[handle] = &plainSession{hash, bytes.Clone(nonce)}
}

// cut takes a TPM2B off the front.
func cut(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// sessionUse is one session of a command or an answer: nonce TPM2B, attributes u8, HMAC TPM2B.
type sessionUse struct {
	nonce, mac []byte
	attributes byte
}

func parseUse(b []byte) (u sessionUse, ok bool) {
	var rest []byte
	if u.nonce, rest, ok = cut(b); !ok || len(rest) < 1 {
		return u, false
	}
	u.attributes = rest[0]
	u.mac, rest, ok = cut(rest[1:])
	return u, ok && len(rest) == 0
}

func (u sessionUse) bytes() []byte {
	b := append(sized(u.nonce), u.attributes)
	return append(b, sized(u.mac)...)
}

func (s *plainSession) digest(parts ...[]byte) []byte {
	h, err := s.hash.Hash()
	if err != nil {
		panic(err) // observe takes only hashes it can make
	}
	d := h.New()
	for _, p := range parts {
		d.Write(p)
	}
	return d.Sum(nil)
}

// mac is the session's HMAC with the empty key, over a parameter hash, the newer nonce, the older one and the attributes.
func (s *plainSession) mac(parameterHash, newer, older []byte, attributes byte) []byte {
	h, err := s.hash.Hash()
	if err != nil {
		panic(err) // as above
	}
	m := hmac.New(h.New, nil)
	m.Write(parameterHash)
	m.Write(newer)
	m.Write(older)
	m.Write([]byte{attributes})
	return m.Sum(nil)
}

// readWithSession serves NV_Read under one plain session. The nonces stay the TPM's: the command that it
// judges rolls them.
func (g *Gate) readWithSession(ctx context.Context, c command, area, params []byte) ([]byte, error) {
	if len(area) < 4 {
		return errorAnswer(rcAuthType), nil
	}
	handle := tpm2.TPMHandle(be32(area))
	session := g.sessions[handle]
	use, ok := parseUse(area[4:])
	if session == nil || !ok || use.attributes&^attrContinue != 0 {
		return errorAnswer(rcAuthType), nil
	}
	index := c.handle(1)
	real, served, err := g.names(index)
	if err != nil {
		return nil, err
	}
	code := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCNVRead))
	parameterHash := func(name, params []byte) []byte {
		who := binary.BigEndian.AppendUint32(nil, uint32(c.handle(0)))
		if c.handle(0) == index {
			who = name
		}
		return session.digest(code, who, name, params)
	}
	if !hmac.Equal(use.mac, session.mac(parameterHash(served, params), use.nonce, session.nonceTPM, use.attributes)) {
		return errorAnswer(rcAuthFailSession), nil
	}
	data, rc := g.cutServed(ctx, index, params)
	if rc != rcOK {
		return errorAnswer(rc), nil // an error answer carries no session, so its nonces must not have moved
	}
	probe := []byte{0, 1, 0, 0} // one byte at offset 0
	asked := sessionUse{use.nonce, session.mac(parameterHash(real, probe), use.nonce, session.nonceTPM, use.attributes), use.attributes}
	body := append(code, c[10:18]...)
	auth := append(bytes.Clone(area[:4]), asked.bytes()...)
	body = append(binary.BigEndian.AppendUint32(body, uint32(len(auth))), auth...)
	body = append(body, probe...)
	head := binary.BigEndian.AppendUint16(nil, tagSessions)
	head = binary.BigEndian.AppendUint32(head, uint32(6+len(body)))
	delete(g.sessions, handle) // known again when the TPM has answered as expected
	judged, err := g.pass(append(head, body...))
	if err != nil || be32(judged[6:]) != rcOK {
		if err == nil {
			g.remember(handle, session) // a refused command leaves the nonces alone
		}
		return judged, err
	}
	// header 10, parameter size u32, TPM2B of one byte, session
	if len(judged) < 17 {
		return nil, errors.New("a short answer to NV_Read")
	}
	got, ok := parseUse(judged[17:])
	if !ok {
		return nil, errors.New("an answer to NV_Read without its session")
	}
	if got.attributes&attrContinue != 0 {
		g.remember(handle, &plainSession{session.hash, bytes.Clone(got.nonce)})
	}
	answerParams := sized(data)
	answerHash := session.digest(binary.BigEndian.AppendUint32(nil, rcOK), binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCNVRead)), answerParams)
	got.mac = session.mac(answerHash, got.nonce, use.nonce, got.attributes)
	answer := binary.BigEndian.AppendUint32(nil, uint32(len(answerParams)))
	answer = append(answer, answerParams...)
	return okAnswer(tagSessions, append(answer, got.bytes()...)), nil
}

func (g *Gate) remember(handle tpm2.TPMHandle, s *plainSession) {
	if g.sessions == nil {
		g.sessions = map[tpm2.TPMHandle]*plainSession{}
	}
	g.sessions[handle] = s
}

// names gives a served index's name as the TPM knows it, and as the guest knows it.
func (g *Gate) names(index tpm2.TPMHandle) (real, served []byte, err error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(g.TPM)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the placeholder's public area: %w", err)
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the placeholder's public area: %w", err)
	}
	public.DataSize = uint16(len(g.contents(index)))
	return r.NVName.Buffer, nvName(tpm2.Marshal(*public)), nil
}

// nvName is the name that follows from an NV public area: its name algorithm, always SHA-256 here, and digest.
func nvName(area []byte) []byte {
	digest := sha256.Sum256(area)
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), digest[:]...)
}
