package tdx

import (
	"encoding/binary"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Sizes of the bodies, in bytes. Source: quote format, "TD Quote Body" and its descriptor.
const (
	bodySize10 = 584
	bodySize15 = 648
)

// Body is what a quote says of a TD. TEETCBSVN2 and MRServiceTD are there from TDX 1.5 on.
type Body struct {
	TEETCBSVN      [16]byte // [0] SVN and [1] version of the TDX module, then other components
	MRSeam         [48]byte // the TDX module
	MRSignerSeam   [48]byte // zeros: Intel
	SeamAttributes [8]byte  // as in memory
	TDAttributes   Attributes
	XFAM           uint64
	MRTD           [48]byte // what was built before the TD ran
	MRConfigID     [48]byte // chosen by the host
	MROwner        [48]byte
	MROwnerConfig  [48]byte
	RTMR           [4][48]byte // extended while it runs
	ReportData     [64]byte
	TEETCBSVN2     *[16]byte
	MRServiceTD    *[48]byte
}

// fields are the members in the order of a quote's body.
func (b *Body) fields() [][]byte {
	return [][]byte{b.TEETCBSVN[:], b.MRSeam[:], b.MRSignerSeam[:], b.SeamAttributes[:], nil, nil, b.MRTD[:], b.MRConfigID[:], b.MROwner[:], b.MROwnerConfig[:],
		b.RTMR[0][:], b.RTMR[1][:], b.RTMR[2][:], b.RTMR[3][:], b.ReportData[:]}
}

// parseBody reads a body of exactly 584 or 648 bytes.
func parseBody(raw []byte) (Body, error) {
	var b Body
	if len(raw) != bodySize10 && len(raw) != bodySize15 {
		return b, evidence.Refuse(evidence.CodeParse, "TD quote body", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("%d or %d", bodySize10, bodySize15))
	}
	at := 0
	numbers := []func(uint64){func(v uint64) { b.TDAttributes = Attributes(v) }, func(v uint64) { b.XFAM = v }}
	for _, f := range b.fields() {
		if f == nil {
			numbers[0](binary.LittleEndian.Uint64(raw[at:]))
			numbers, at = numbers[1:], at+8
			continue
		}
		at += copy(f, raw[at:])
	}
	if len(raw) == bodySize15 {
		b.TEETCBSVN2, b.MRServiceTD = new([16]byte), new([48]byte)
		at += copy(b.TEETCBSVN2[:], raw[at:])
		copy(b.MRServiceTD[:], raw[at:])
	}
	return b, nil
}

// clone shares no memory with the body.
func (b Body) clone() Body {
	if b.TEETCBSVN2 != nil {
		svn := *b.TEETCBSVN2
		b.TEETCBSVN2 = &svn
	}
	if b.MRServiceTD != nil {
		mr := *b.MRServiceTD
		b.MRServiceTD = &mr
	}
	return b
}

// Marshal writes the body: 584 bytes, or 648 where it has the members of TDX 1.5.
func (b Body) Marshal() []byte {
	var out []byte
	numbers := []uint64{uint64(b.TDAttributes), b.XFAM}
	for _, f := range b.fields() {
		if f == nil {
			out, numbers = binary.LittleEndian.AppendUint64(out, numbers[0]), numbers[1:]
			continue
		}
		out = append(out, f...)
	}
	if b.TEETCBSVN2 != nil && b.MRServiceTD != nil {
		out = append(append(out, b.TEETCBSVN2[:]...), b.MRServiceTD[:]...)
	}
	return out
}
