package secureboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// guid is in the byte order of UEFI: the first three groups little-endian.
type guid [16]byte

func parseGUID(a uint32, b, c uint16, rest [8]byte) (g guid) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], rest[:])
	return g
}

// Names spaces and types of the UEFI specification and of EDK II.
var (
	guidVolume       = parseGUID(0xfff12b8d, 0x7696, 0x4c8b, [8]byte{0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50})
	guidStore        = parseGUID(0xaaf32c78, 0x947b, 0x439a, [8]byte{0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92})
	guidGlobal       = parseGUID(0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c})
	guidImageDB      = parseGUID(0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	guidX509         = parseGUID(0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72})
	guidEnableSB     = parseGUID(0xf0a30bc7, 0xaf08, 0x4556, [8]byte{0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44})
	guidCustomMode   = parseGUID(0xc076ec0c, 0x7028, 0x4399, [8]byte{0xa0, 0x72, 0x71, 0xee, 0x5c, 0x44, 0x8b, 0x9f})
	guidOwner        = parseGUID(0xc1015e12, 0x0000, 0x4000, [8]byte{0x80, 0x00, 'c', 'l', 'o', 'i', 's', 't'}) // ours: who enrolled a certificate
	defaultTimestamp = [16]byte{0xea, 0x07, 1, 1}                                                               // EFI_TIME of 2026-01-01; authenticated variables need one
)

const (
	volumeGUIDOffset      = 16
	volumeHeaderLenOffset = 48
	storeHeaderSize       = 28
	storeFormatted        = 0x5a
	storeHealthy          = 0xfe
	variableHeaderSize    = 60
	variableStart         = 0x55aa
	variableAdded         = 0x3f

	attrNonVolatile        = 0x1
	attrBootService        = 0x2
	attrRuntime            = 0x4
	attrTimeAuthenticated  = 0x20
	attrsSigned            = attrNonVolatile | attrBootService | attrRuntime | attrTimeAuthenticated
	attrsSwitch            = attrNonVolatile | attrBootService
	signatureListHeaderLen = 28
)

type variable struct {
	name       string
	vendor     guid
	attributes uint32
	time       [16]byte
	data       []byte
}

// signatureList is an EFI_SIGNATURE_LIST of one X.509 certificate: firmware wants one per list.
func signatureList(der []byte) []byte {
	n := 16 + len(der)
	b := make([]byte, 0, signatureListHeaderLen+n)
	b = append(b, guidX509[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(signatureListHeaderLen+n))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = append(b, guidOwner[:]...)
	return append(b, der...)
}

// VariableStore enrols the keys in an empty store of OVMF (OVMF_VARS_4M.fd) and turns Secure Boot on.
// The host can rewrite what it likes in there: it is input to the boot, and PCR 7 shows what it was.
func VariableStore(empty []byte, k *Keys) ([]byte, error) {
	start, end, err := storeBounds(empty)
	if err != nil {
		return nil, err
	}
	if len(bytes.Trim(empty[start:end], "\xff")) > 0 {
		return nil, evidence.Refuse(evidence.CodeConfig, "vars/store", "variables inside", "an empty store")
	}
	vars := []variable{
		{"PK", guidGlobal, attrsSigned, defaultTimestamp, signatureList(k.PK.Certificate.Raw)},
		{"KEK", guidGlobal, attrsSigned, defaultTimestamp, signatureList(k.KEK.Certificate.Raw)},
		{"db", guidImageDB, attrsSigned, defaultTimestamp, signatureList(k.DB.Certificate.Raw)},
		{"SecureBootEnable", guidEnableSB, attrsSwitch, [16]byte{}, []byte{1}},
		{"CustomMode", guidCustomMode, attrsSwitch, [16]byte{}, []byte{0}},
	}
	out := append([]byte(nil), empty...)
	at := start
	for _, v := range vars {
		enc := v.encode()
		if at+len(enc) > end {
			return nil, evidence.Refuse(evidence.CodeUnsupported, "vars/store", fmt.Sprintf("%d bytes", end-start), "room for the keys")
		}
		copy(out[at:], enc)
		at += len(enc)
	}
	return out, nil
}

// storeBounds checks the headers and gives where variables begin and end.
func storeBounds(vars []byte) (start, end int, err error) {
	bad := func(field, got, want string) (int, int, error) {
		return 0, 0, evidence.Refuse(evidence.CodeParse, "vars/"+field, got, want)
	}
	if len(vars) < 0x48+storeHeaderSize {
		return bad("size", fmt.Sprint(len(vars)), "a firmware volume")
	}
	if !bytes.Equal(vars[volumeGUIDOffset:volumeGUIDOffset+16], guidVolume[:]) {
		return bad("volume", fmt.Sprintf("%x", vars[16:32]), "a volume of variables")
	}
	store := int(binary.LittleEndian.Uint16(vars[volumeHeaderLenOffset:]))
	if store < 0x40 || store+storeHeaderSize > len(vars) {
		return bad("headerLength", fmt.Sprint(store), "a header inside the file")
	}
	h := vars[store:]
	if !bytes.Equal(h[:16], guidStore[:]) {
		return bad("store", fmt.Sprintf("%x", h[:16]), "a store of authenticated variables")
	}
	size := int64(binary.LittleEndian.Uint32(h[16:]))
	if size < storeHeaderSize || int64(store)+size > int64(len(vars)) || h[20] != storeFormatted || h[21] != storeHealthy {
		return bad("store", fmt.Sprintf("size %d, format %#x, state %#x", size, h[20], h[21]), "a formatted, healthy store inside the file")
	}
	return store + storeHeaderSize, store + int(size), nil
}

func (v variable) encode() []byte {
	var name []byte
	for _, u := range append(utf16.Encode([]rune(v.name)), 0) {
		name = binary.LittleEndian.AppendUint16(name, u)
	}
	b := make([]byte, 0, variableHeaderSize+len(name)+len(v.data)+3)
	b = binary.LittleEndian.AppendUint16(b, variableStart)
	b = append(b, variableAdded, 0)
	b = binary.LittleEndian.AppendUint32(b, v.attributes)
	b = binary.LittleEndian.AppendUint64(b, 0) // monotonic count: replaced by the time
	b = append(b, v.time[:]...)
	b = binary.LittleEndian.AppendUint32(b, 0) // index of a public key: unused
	b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v.data)))
	b = append(b, v.vendor[:]...)
	b = append(append(b, name...), v.data...)
	for len(b)%4 != 0 {
		b = append(b, 0xff)
	}
	return b
}
