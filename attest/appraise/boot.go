package appraise

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf16"

	"cloister.dev/cloister/evidence"
)

// boot is what the replayed log says of Secure Boot.
type boot struct{ SecureBoot, DefaultKeys, DB, DBX bool }

// Event types of the TCG PC Client platform firmware profile that matter here.
const (
	evNoAction      = 3
	evSeparator     = 4
	evEFIDriverConf = 0x80000001
)

// maxEvents bounds a log.
const maxEvents = 10_000

// algSHA256 is TPM_ALG_SHA256; digest sizes of the banks that a log may name, by algorithm, in bytes.
const algSHA256 = 0x000b

var digestSizes = map[uint16]int{0x0004: 20, algSHA256: 32, 0x000c: 48, 0x000d: 64, 0x0012: 32}

// efiGlobal is the vendor GUID of SecureBoot, PK and KEK; imageSecurity that of db and dbx, as in a log.
var (
	efiGlobal     = mustHex("61dfe48bca93d211aa0d00e098032b8c")
	imageSecurity = mustHex("cbb219d73a3d9645a3bcdad00e67656f")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant above
	}
	return b
}

// bootState replays a crypto-agile event log (SHA-256 bank) and compares it with registers 0 to 7, then
// reads the Secure Boot variables from it. An event's type and place are not signed, so a variable counts
// only where its digest is that of its data, it stands before the separator of register 7, and its name
// comes once.
func bootState(raw []byte, pcrs map[int][32]byte) (*boot, error) {
	if len(raw) == 0 {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "TcgLogs", "empty", "the firmware's event log")
	}
	events, err := parseLog(raw)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "TcgLogs", err.Error(), "a crypto-agile event log with a SHA-256 bank")
	}
	replayed := map[int][32]byte{}
	for _, e := range events {
		switch {
		case e.kind != evNoAction:
			was := replayed[e.pcr]
			replayed[e.pcr] = sha256.Sum256(append(was[:], e.digest[:]...))
		case e.pcr == 0 && len(e.data) == 17 && bytes.HasPrefix(e.data, []byte("StartupLocality\x00")):
			if _, begun := replayed[0]; begun {
				return nil, evidence.Refuse(evidence.CodeMeasurement, "TcgLogs", "a startup locality behind the first event", "before it")
			}
			replayed[0] = [32]byte{31: e.data[16]}
		}
	}
	for n := range 8 {
		got, want := replayed[n], pcrs[n]
		if got != want {
			return nil, evidence.Refuse(evidence.CodeMeasurement, fmt.Sprintf("TcgLogs PCR %d", n), hex.EncodeToString(got[:]), hex.EncodeToString(want[:])).By("the log replays to the quoted register")
		}
	}
	return secureBoot(events)
}

func secureBoot(events []event) (*boot, error) {
	seen := map[string][]byte{}
	separated := false
	for _, e := range events {
		if e.pcr != 7 {
			continue
		}
		switch e.kind {
		case evSeparator:
			if separated || e.digest != sha256.Sum256(e.data) {
				return nil, evidence.Refuse(evidence.CodeMeasurement, "TcgLogs PCR 7", "a second or a forged separator", "one, whose digest is that of its data")
			}
			separated = true
		case evEFIDriverConf:
			name, value, err := variable(e.data)
			if _, twice := seen[name]; err != nil || twice || separated || e.digest != sha256.Sum256(e.data) {
				return nil, evidence.Refuse(evidence.CodeMeasurement, "TcgLogs PCR 7 variable "+name, "forged, repeated or behind the separator", "measured once, before the separator, with the digest of its data")
			}
			seen[name] = value
		}
	}
	if !separated {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "TcgLogs PCR 7", "no separator", "one")
	}
	return &boot{
		SecureBoot:  bytes.Equal(seen["SecureBoot"], []byte{1}),
		DefaultKeys: len(seen["PK"]) > 0 && len(seen["KEK"]) > 0,
		DB:          len(seen["db"]) > 0,
		DBX:         len(seen["dbx"]) > 0,
	}, nil
}

// variable reads a UEFI_VARIABLE_DATA: GUID 16, name length u64 in characters, data length u64, name, data.
func variable(b []byte) (name string, value []byte, err error) {
	if len(b) < 32 {
		return "", nil, fmt.Errorf("a variable of %d bytes", len(b))
	}
	chars, size, rest := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:]), b[32:]
	if chars > 256 || size > uint64(len(rest)) || chars*2+size != uint64(len(rest)) {
		return "", nil, fmt.Errorf("a variable whose lengths do not fit")
	}
	u := make([]uint16, chars)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(rest[2*i:])
	}
	name = string(utf16.Decode(u))
	owner := efiGlobal
	if name == "db" || name == "dbx" {
		owner = imageSecurity
	}
	switch name {
	case "SecureBoot", "PK", "KEK", "db", "dbx":
		if !bytes.Equal(b[:16], owner) {
			return "", nil, fmt.Errorf("variable %s of another vendor", name)
		}
	default:
		name = hex.EncodeToString(b[:16]) + name
	}
	return name, rest[chars*2:], nil
}

// event is one entry of a log, with its digest in the SHA-256 bank.
type event struct {
	pcr    int
	kind   uint32
	digest [32]byte
	data   []byte
}

// cursor reads little-endian fields and remembers that the log was too short.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) bytes(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.short, c.b = true, nil
		return make([]byte, 0)
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u16() uint16 {
	if b := c.bytes(2); len(b) == 2 {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.bytes(4); len(b) == 4 {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) sized() []byte {
	n := c.u32()
	if n > uint32(len(c.b)) {
		c.short = true
		return nil
	}
	return c.bytes(int(n))
}

// parseLog reads a whole log: a Spec ID event in the old form, then events with a digest per bank.
func parseLog(raw []byte) ([]event, error) {
	c := &cursor{b: raw}
	pcr, kind := c.u32(), c.u32()
	c.bytes(20)
	spec := &cursor{b: c.sized()}
	if pcr != 0 || kind != evNoAction || !bytes.Equal(spec.bytes(16), []byte("Spec ID Event03\x00")) {
		return nil, fmt.Errorf("no Spec ID event at its head")
	}
	spec.bytes(8)
	banks := spec.u32()
	has := false
	for range min(banks, 16) {
		alg, size := spec.u16(), spec.u16()
		if known, ok := digestSizes[alg]; !ok || known != int(size) {
			return nil, fmt.Errorf("a bank of algorithm %#04x with %d bytes", alg, size)
		}
		has = has || alg == algSHA256
	}
	if spec.short || !has || banks > 16 {
		return nil, fmt.Errorf("no SHA-256 bank")
	}
	var out []event
	for len(c.b) > 0 {
		e, err := c.event()
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(out)+1, err)
		}
		if out = append(out, e); len(out) > maxEvents {
			return nil, fmt.Errorf("more than %d events", maxEvents)
		}
	}
	return out, nil
}

func (c *cursor) event() (event, error) {
	pcr, kind, count := c.u32(), c.u32(), c.u32()
	if pcr > 23 || count > 16 {
		return event{}, fmt.Errorf("register %d, %d digests", pcr, count)
	}
	e := event{pcr: int(pcr), kind: kind}
	found := 0
	for range count {
		alg := c.u16()
		size, known := digestSizes[alg]
		if !known {
			return event{}, fmt.Errorf("a digest of algorithm %#04x", alg)
		}
		if d := c.bytes(size); alg == algSHA256 && len(d) == 32 {
			e.digest = [32]byte(d)
			found++
		}
	}
	e.data = c.sized()
	if c.short || found != 1 {
		return event{}, fmt.Errorf("cut short, or %d SHA-256 digests", found)
	}
	return e, nil
}
