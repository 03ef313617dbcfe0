package vmgs

import (
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Contents is what the file protects.
type Contents struct {
	Generation     uint64
	Mode           string   // DiskWithVMGuestState or VMGuestStateOnly
	InitDataDigest [32]byte // SHA-256 of the init data of the first boot
	VTPM           []byte   // permanent state of the vTPM, as libtpms writes it; empty until it was provisioned
	UEFIVars       []byte   // the firmware's variable store, whole
}

// contentsVersion begins the plaintext, so that a later form can't be read as this one.
const contentsVersion = 1

// marshal writes: version u32, generation u64, digest 32, then mode, VTPM and UEFIVars, each after its u32 length. Big-endian.
func (c Contents) marshal() []byte {
	b := make([]byte, 0, 64+len(c.Mode)+len(c.VTPM)+len(c.UEFIVars))
	b = binary.BigEndian.AppendUint32(b, contentsVersion)
	b = binary.BigEndian.AppendUint64(b, c.Generation)
	b = append(b, c.InitDataDigest[:]...)
	for _, part := range [][]byte{[]byte(c.Mode), c.VTPM, c.UEFIVars} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

func parseContents(raw []byte) (*Contents, error) {
	bad := func(got, want string) error {
		return evidence.Refuse(evidence.CodeParse, "guest state contents", got, want)
	}
	if len(raw) < 4+8+32 {
		return nil, bad(fmt.Sprintf("%d bytes", len(raw)), "at least 44")
	}
	if v := binary.BigEndian.Uint32(raw); v != contentsVersion {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "guest state contents", fmt.Sprintf("version %d", v), fmt.Sprint(contentsVersion))
	}
	c := &Contents{Generation: binary.BigEndian.Uint64(raw[4:]), InitDataDigest: [32]byte(raw[12:44])}
	rest := raw[44:]
	var parts [3][]byte
	for i := range parts {
		if len(rest) < 4 {
			return nil, bad("an end inside a length", "three parts")
		}
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		if uint64(n) > uint64(len(rest)) {
			return nil, bad(fmt.Sprintf("a part of %d bytes", n), fmt.Sprintf("at most %d", len(rest)))
		}
		parts[i], rest = append([]byte(nil), rest[:n]...), rest[n:]
	}
	if len(rest) != 0 {
		return nil, bad(fmt.Sprintf("%d bytes after the end", len(rest)), "none")
	}
	c.Mode, c.VTPM, c.UEFIVars = string(parts[0]), parts[1], parts[2]
	return c, nil
}
