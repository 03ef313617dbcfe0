package envelope

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Entries of a certificate table that hold certificates, by GUID in the byte order of RFC 4122. Source: GHCB
// specification, SNP Extended Guest Request.
var certificateGUIDs = map[string]string{
	"63da758de6644564adc5f4b93be8accd": "VCEK",
	"a8074bc2a25a483eaae639c045a0b8a1": "VLEK",
	"4ab7b379bbac4fe4a02f05aef327c782": "ASK",
	"c0b406a4a803495297433fb6014cd0ae": "ARK",
}

// maxTableEntries bounds a certificate table.
const maxTableEntries = 32

// certificateTable reads entries of GUID (16), offset (u32) and size (u32), little-endian, until one that is all zero.
// Offsets count from the start of the table. What is not a certificate, such as a revocation list, is passed over.
func certificateTable(raw []byte) ([][]byte, error) {
	const entry = 24
	refuse := func(got string) ([][]byte, error) {
		return nil, malformed("certificate table", got, "entries inside the table, an all-zero one at the end")
	}
	var out [][]byte
	for n := range maxTableEntries {
		if len(raw) < (n+1)*entry {
			return refuse("no end")
		}
		e := raw[n*entry : (n+1)*entry]
		at, size := binary.LittleEndian.Uint32(e[16:]), binary.LittleEndian.Uint32(e[20:])
		guid := hex.EncodeToString(e[:16])
		if guid == "00000000000000000000000000000000" {
			if at != 0 || size != 0 {
				return refuse("an end that is not zero")
			}
			return out, nil
		}
		if uint64(at)+uint64(size) > uint64(len(raw)) {
			return refuse(fmt.Sprintf("entry %d at %d of %d bytes", n, at, size))
		}
		if _, known := certificateGUIDs[guid]; known {
			if size == 0 {
				return refuse(fmt.Sprintf("entry %d without bytes", n))
			}
			out = append(out, raw[at:at+size])
		}
	}
	return refuse(fmt.Sprintf("more than %d entries", maxTableEntries))
}
