package vtpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// globalVariable is the vendor GUID of SecureBoot, PK and KEK, 8be4df61-93ca-11d2-aa0d-00e098032b8c in EFI's mixed
// endianness.
var globalVariable = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// variableHeader is GUID (16), characters of the name (u64), bytes of data (u64), all little-endian. Source: TCG PC
// Client Platform Firmware Profile, UEFI_VARIABLE_DATA.
const variableHeader = 32

// SecureBoot says whether the firmware measured Secure Boot as on. Only an event counts whose data hash to its SHA-256
// digest, and only the first of PCR 7, where the firmware must put it. The log still has to be replayed against a quote.
func (l *Log) SecureBoot() (bool, error) {
	for _, e := range l.Events {
		if e.PCR != 7 || e.Type == evNoAction {
			continue
		}
		if e.Type != evVariable {
			return false, badLog("secureBoot", fmt.Sprintf("event type %#x first in PCR 7", e.Type), "the SecureBoot variable")
		}
		sum := sha256.Sum256(e.Data)
		if !bytes.Equal(sum[:], e.Digests[SHA256]) {
			return false, badLog("secureBoot", "data that do not hash to the digest", "the measured data")
		}
		name, value, err := variable(e.Data)
		if err != nil {
			return false, err
		}
		if name != "SecureBoot" || !bytes.Equal(e.Data[:16], globalVariable) {
			return false, badLog("secureBoot", fmt.Sprintf("variable %.40q first in PCR 7", name), "the SecureBoot variable")
		}
		return bytes.Equal(value, []byte{1}), nil
	}
	return false, badLog("secureBoot", "no event in PCR 7", "the SecureBoot variable")
}

func variable(data []byte) (name string, value []byte, err error) {
	if len(data) < variableHeader {
		return "", nil, badLog("variable", len(data), "at least 32 bytes")
	}
	chars, size := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	rest := uint64(len(data) - variableHeader)
	if chars > rest/2 || size != rest-2*chars {
		return "", nil, badLog("variable", fmt.Sprintf("%d characters, %d bytes", chars, size), "sizes that fit the event")
	}
	units := make([]uint16, chars)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[variableHeader+2*i:])
	}
	return string(utf16.Decode(units)), data[variableHeader+2*chars:], nil
}
