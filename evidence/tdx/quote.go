package tdx

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// headerSize is the size of a quote's header, in bytes.
const headerSize = 48

// MaxQuote bounds a quote with what follows it, in bytes. Real ones have up to 8,000.
const MaxQuote = 64 << 10

// ecdsaP256 is the attestation key type of ECDSA on P-256.
const ecdsaP256 = 2

// intelVendor is the quoting enclave vendor id of Intel's.
var intelVendor = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// BodyType says which body a quote of version 5 has.
type BodyType uint16

// The body types. Version 4 always has the first.
const (
	BodyTDX10 BodyType = 2
	BodyTDX15 BodyType = 3
)

// Quote is a parsed TD quote. Nothing in it is trusted before Authenticate.
type Quote struct {
	Version    uint16 // 4 or 5
	QESVN      uint16
	PCESVN     uint16
	QEVendorID [16]byte
	UserData   [20]byte
	BodyType   BodyType
	Body       Body
	Padding    int  // bytes that follow the quote, as Azure serves it; nothing reads them
	OddPadding bool // they are not all zero, as Azure's are: nobody signed them

	signed    []byte // header and body, as they came
	signature *dcap.SignatureData
}

// Signed is what the attestation key signed: header and body, as they came.
func (q *Quote) Signed() []byte { return bytes.Clone(q.signed) }

// SignatureData is the signature section.
func (q *Quote) SignatureData() *dcap.SignatureData { return q.signature }

// PCK is what the certificate of the platform says, before anything of it is believed: it tells which collateral to get.
func (q *Quote) PCK() (*dcap.PCK, error) {
	if q == nil || q.signature == nil {
		return nil, evidence.Refuse(evidence.CodeParse, "TD quote", "none", "a parsed quote")
	}
	return q.signature.UnverifiedPCK()
}

// parseHeader reads the header and, in version 5, the body's descriptor. It gives a quote without a body, where the body begins
// and its size.
func parseHeader(raw []byte) (*Quote, int, int, error) {
	refuse := func(code evidence.Code, field, got, want string) (*Quote, int, int, error) {
		return nil, 0, 0, evidence.Refuse(code, field, got, want)
	}
	if len(raw) < headerSize || len(raw) > MaxQuote {
		return refuse(evidence.CodeParse, "TD quote", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("%d to %d", headerSize, MaxQuote))
	}
	le := binary.LittleEndian
	q := &Quote{Version: le.Uint16(raw), QESVN: le.Uint16(raw[8:]), PCESVN: le.Uint16(raw[10:]), BodyType: BodyTDX10}
	copy(q.QEVendorID[:], raw[12:28])
	copy(q.UserData[:], raw[28:48])
	if tee := dcap.TEE(le.Uint32(raw[4:])); q.Version == 3 || tee != dcap.TDX {
		return refuse(evidence.CodeUnsupported, "quote", fmt.Sprintf("version %d of %s", q.Version, tee), "version 4 or 5 of TDX")
	}
	if q.Version != 4 && q.Version != 5 {
		return refuse(evidence.CodeUnsupported, "quote version", fmt.Sprint(q.Version), "4 or 5")
	}
	if key := le.Uint16(raw[2:]); key != ecdsaP256 {
		return refuse(evidence.CodeUnsupported, "attestation key type", fmt.Sprint(key), fmt.Sprint(ecdsaP256))
	}
	if q.QEVendorID != intelVendor {
		return refuse(evidence.CodeUnsupported, "quoting enclave vendor", hex.EncodeToString(q.QEVendorID[:]), hex.EncodeToString(intelVendor[:]))
	}
	if q.Version == 4 {
		return q, headerSize, bodySize10, nil
	}
	if len(raw) < headerSize+6 {
		return refuse(evidence.CodeParse, "TD quote", fmt.Sprintf("%d bytes", len(raw)), "a body descriptor")
	}
	q.BodyType = BodyType(le.Uint16(raw[headerSize:]))
	size, ok := map[BodyType]int{BodyTDX10: bodySize10, BodyTDX15: bodySize15}[q.BodyType]
	if !ok {
		return refuse(evidence.CodeUnsupported, "quote body type", fmt.Sprint(q.BodyType), "2 (TDX 1.0) or 3 (TDX 1.5)")
	}
	if said := le.Uint32(raw[headerSize+2:]); said != uint32(size) {
		return refuse(evidence.CodeParse, "size of the quote body", fmt.Sprint(said), fmt.Sprint(size))
	}
	return q, headerSize + 6, size, nil
}

// ParseQuote reads a quote of version 4 or 5. Its own lengths say where it ends; what follows is counted and left alone, because nothing
// signs it.
func ParseQuote(raw []byte) (*Quote, error) {
	bad := func(field, got, want string) (*Quote, error) {
		return nil, evidence.Refuse(evidence.CodeParse, field, got, want)
	}
	q, at, size, err := parseHeader(raw)
	if err != nil {
		return nil, err
	}
	if len(raw) < at+size+4 {
		return bad("TD quote", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at least %d", at+size+4))
	}
	if q.Body, err = parseBody(raw[at : at+size]); err != nil {
		return nil, err
	}
	at += size
	q.signed = bytes.Clone(raw[:at])
	length := binary.LittleEndian.Uint32(raw[at:])
	at += 4
	if uint64(length) > uint64(len(raw)-at) {
		return bad("size of the signature section", fmt.Sprint(length), fmt.Sprintf("at most %d, which is left", len(raw)-at))
	}
	end := at + int(length)
	if q.signature, err = dcap.ParseSignatureData(q.Version, raw[at:end]); err != nil {
		return nil, err
	}
	q.Padding = len(raw) - end
	q.OddPadding = len(bytes.Trim(raw[end:], "\x00")) > 0
	return q, nil
}

// SignedBytes writes header and body of a quote of a version: what an attestation key signs. The quote's own Version, BodyType
// and Body say what.
func SignedBytes(q Quote) []byte {
	le := binary.LittleEndian
	out := le.AppendUint16(nil, q.Version)
	out = le.AppendUint16(out, ecdsaP256)
	out = le.AppendUint32(out, uint32(dcap.TDX))
	out = le.AppendUint16(le.AppendUint16(out, q.QESVN), q.PCESVN)
	out = append(append(out, q.QEVendorID[:]...), q.UserData[:]...)
	body := q.Body.Marshal()
	if q.Version == 5 {
		out = le.AppendUint32(le.AppendUint16(out, uint16(q.BodyType)), uint32(len(body)))
	}
	return append(out, body...)
}

// Assemble puts a signature section behind what it signs.
func Assemble(signed, signature []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(bytes.Clone(signed), uint32(len(signature))), signature...)
}

// IntelVendor is the id that quotes of Intel's quoting enclave carry.
func IntelVendor() [16]byte { return intelVendor }
