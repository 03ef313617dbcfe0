package tdx

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// ReportSize is the size of a TDREPORT, in bytes.
const ReportSize = 1024

// Offsets in a TDREPORT: REPORTMACSTRUCT (256), TEE_TCB_INFO (239 and 17 reserved), TDINFO (512).
const (
	tcbInfoAt   = 256
	tcbInfoSize = 239
	tdInfoAt    = 512
	tdInfoSize  = 512
)

// reportType is the first byte of a TDREPORT: a TD's.
const reportType = 0x81

// Report is a TDREPORT. Its MAC can be checked by the CPU that made it and by nobody else.
type Report struct {
	Version uint8 // of the type: 0 for TDX 1.0, 1 for 1.5
	CPUSVN  [16]byte
	Body    Body // TEETCBSVN2 and MRServiceTD for version 1 only
	raw     [ReportSize]byte
}

// ParseReport reads a TDREPORT. The two hashes inside must be of the structures they name: without that a report whose MAC
// nobody checked could be put together from several.
func ParseReport(raw []byte) (*Report, error) {
	bad := func(field, got, want string) (*Report, error) {
		return nil, evidence.Refuse(evidence.CodeParse, field, got, want)
	}
	if len(raw) != ReportSize {
		return bad("TD report", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprint(ReportSize))
	}
	if raw[0] != reportType || raw[1] != 0 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "TD report type", fmt.Sprintf("%#x, subtype %d", raw[0], raw[1]), "0x81, subtype 0")
	}
	r := &Report{Version: raw[2], raw: [ReportSize]byte(raw)}
	if r.Version > 1 || raw[3] != 0 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "TD report version", fmt.Sprint(raw[2]), "0 or 1")
	}
	for _, h := range []struct {
		name         string
		hash, hashed []byte
	}{{"hash of TEE_TCB_INFO", raw[32:80], raw[tcbInfoAt : tcbInfoAt+tcbInfoSize]}, {"hash of TDINFO", raw[80:128], raw[tdInfoAt : tdInfoAt+tdInfoSize]}} {
		if want := sha512.Sum384(h.hashed); !bytes.Equal(h.hash, want[:]) {
			return nil, evidence.Refuse(evidence.CodeBinding, h.name, hex.EncodeToString(h.hash), hex.EncodeToString(want[:]))
		}
	}
	copy(r.CPUSVN[:], raw[16:32])
	b := &r.Body
	copy(b.ReportData[:], raw[128:192])
	tcb, td := raw[tcbInfoAt:], raw[tdInfoAt:]
	copy(b.TEETCBSVN[:], tcb[8:24])
	copy(b.MRSeam[:], tcb[24:72])
	copy(b.MRSignerSeam[:], tcb[72:120])
	copy(b.SeamAttributes[:], tcb[120:128])
	b.TDAttributes = Attributes(binary.LittleEndian.Uint64(td))
	b.XFAM = binary.LittleEndian.Uint64(td[8:])
	at := 16
	for _, f := range [][]byte{b.MRTD[:], b.MRConfigID[:], b.MROwner[:], b.MROwnerConfig[:], b.RTMR[0][:], b.RTMR[1][:], b.RTMR[2][:], b.RTMR[3][:]} {
		at += copy(f, td[at:])
	}
	if r.Version == 1 {
		b.TEETCBSVN2, b.MRServiceTD = new([16]byte), new([48]byte)
		copy(b.TEETCBSVN2[:], tcb[128:144])
		copy(b.MRServiceTD[:], td[at:at+48])
	}
	return r, nil
}

// Marshal gives the report as it came.
func (r *Report) Marshal() []byte { return bytes.Clone(r.raw[:]) }

// QuotedBy checks that a quote was made of this report: every member that both have is the same.
func (r *Report) QuotedBy(q *Quote) error {
	if r == nil || q == nil {
		return evidence.Refuse(evidence.CodeParse, "TD report and quote", "none", "both, parsed")
	}
	mine, its := r.Body, q.Body
	// A report of TDX 1.5 may have been quoted in the form of 1.0, which leaves these two out.
	if mine.TEETCBSVN2 == nil || mine.MRServiceTD == nil || its.TEETCBSVN2 == nil || its.MRServiceTD == nil {
		mine.TEETCBSVN2, mine.MRServiceTD, its.TEETCBSVN2, its.MRServiceTD = nil, nil, nil, nil
	}
	if !bytes.Equal(mine.Marshal(), its.Marshal()) {
		return evidence.Refuse(evidence.CodeBinding, "TD quote", "of another report", "made of the TD report beside it")
	}
	return nil
}
