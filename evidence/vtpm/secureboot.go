package vtpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf16"
)

// Vendor GUIDs in EFI's mixed endianness: of SecureBoot, PK and KEK (8be4df61-93ca-11d2-aa0d-00e098032b8c), and of db and
// dbx (d719b2cb-3d3a-4596-a3bc-dad00e67656f).
var (
	globalVariable = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity  = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// variableHeader is GUID (16), characters of the name (u64), bytes of data (u64), all little-endian. Source: TCG PC
// Client Platform Firmware Profile, UEFI_VARIABLE_DATA.
const variableHeader = 32

// maxVariableName bounds a name, in characters.
const maxVariableName = 256

// SecureBootVariables are the Secure Boot variables as the firmware measured them into PCR 7. A variable that was not
// measured, or is empty, is nil.
type SecureBootVariables struct{ SecureBoot, PK, KEK, DB, DBX []byte }

// On tells whether Secure Boot was on.
func (v SecureBootVariables) On() bool { return bytes.Equal(v.SecureBoot, []byte{1}) }

// SecureBootVariables reads the variables of PCR 7. Types and places of events are not signed, so a variable counts only
// where its data hash to its SHA-256 digest, it stands before the one separator, its name comes once, and its vendor is the
// right one. The log still has to be replayed against a quote.
func (l *Log) SecureBootVariables() (SecureBootVariables, error) {
	var v SecureBootVariables
	places := map[string]struct {
		vendor [16]byte
		to     *[]byte
	}{"SecureBoot": {globalVariable, &v.SecureBoot}, "PK": {globalVariable, &v.PK}, "KEK": {globalVariable, &v.KEK}, "db": {imageSecurity, &v.DB}, "dbx": {imageSecurity, &v.DBX}}
	refuse := func(got, want string) (SecureBootVariables, error) {
		return SecureBootVariables{}, badLog("secureBoot", got, want)
	}
	seen, separated := map[string]bool{}, false
	for i, e := range l.Events {
		if e.PCR != 7 || e.Type != evSeparator && e.Type != evVariable {
			continue
		}
		sum := sha256.Sum256(e.Data)
		if !bytes.Equal(sum[:], e.Digests[SHA256]) {
			return refuse(fmt.Sprintf("event %d, whose data do not hash to its digest", i), "the measured data")
		}
		if separated {
			return refuse(fmt.Sprintf("event %d behind the separator", i), "variables before PCR 7's one separator")
		}
		if e.Type == evSeparator {
			separated = true
			continue
		}
		vendor, name, value, err := variable(e.Data)
		if err != nil {
			return SecureBootVariables{}, err
		}
		if id := hex.EncodeToString(vendor[:]) + name; seen[id] {
			return refuse(fmt.Sprintf("variable %.40q twice", name), "once")
		} else {
			seen[id] = true
		}
		place, known := places[name]
		if !known {
			continue
		}
		if place.vendor != vendor {
			return refuse(fmt.Sprintf("variable %s of another vendor", name), hex.EncodeToString(place.vendor[:]))
		}
		if len(value) > 0 {
			*place.to = value
		}
	}
	if !separated {
		return refuse("no separator in PCR 7", "one")
	}
	return v, nil
}

// SecureBoot says whether the firmware measured Secure Boot as on. The variable must be there, as the first event of PCR 7,
// where the firmware must put it.
func (l *Log) SecureBoot() (bool, error) {
	for _, e := range l.Events {
		if e.PCR != 7 || e.Type == evNoAction {
			continue
		}
		if e.Type != evVariable {
			return false, badLog("secureBoot", fmt.Sprintf("event type %#x first in PCR 7", e.Type), "the SecureBoot variable")
		}
		vendor, name, _, err := variable(e.Data)
		if err != nil {
			return false, err
		}
		if name != "SecureBoot" || vendor != globalVariable {
			return false, badLog("secureBoot", fmt.Sprintf("variable %.40q first in PCR 7", name), "the SecureBoot variable")
		}
		v, err := l.SecureBootVariables()
		return v.On(), err
	}
	return false, badLog("secureBoot", "no event in PCR 7", "the SecureBoot variable")
}

func variable(data []byte) (vendor [16]byte, name string, value []byte, err error) {
	if len(data) < variableHeader {
		return vendor, "", nil, badLog("variable", len(data), "at least 32 bytes")
	}
	chars, size := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	rest := uint64(len(data) - variableHeader)
	if chars > maxVariableName || chars > rest/2 || size != rest-2*chars {
		return vendor, "", nil, badLog("variable", fmt.Sprintf("%d characters, %d bytes", chars, size), "sizes that fit the event")
	}
	units := make([]uint16, chars)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[variableHeader+2*i:])
	}
	return [16]byte(data), string(utf16.Decode(units)), data[variableHeader+2*chars:], nil
}
