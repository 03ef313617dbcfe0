// Package tdxtest makes TD quotes and reports for tests, signed by dcaptest's stand-in for Intel. Everything takes a testing.TB, so
// that no product can use it.
package tdxtest

import (
	"crypto/sha512"
	"encoding/binary"
	"testing"

	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/tdx"
)

// Good is what an ordinary TD's quote says. Tests change the copy they get.
func Good() tdx.Quote {
	q := tdx.Quote{Version: 4, QESVN: 8, PCESVN: 11, QEVendorID: tdx.IntelVendor(), BodyType: tdx.BodyTDX10}
	b := &q.Body
	b.TEETCBSVN = dcaptest.TEETCBSVN
	b.TDAttributes = tdx.SEPTVEDisable
	b.XFAM = 0x61ae7
	fill := func(to []byte, with byte) {
		for i := range to {
			to[i] = with
		}
	}
	fill(b.MRSeam[:], 0x5e)
	fill(b.MRTD[:], 0xd1)
	for i := range b.RTMR[:3] {
		fill(b.RTMR[i][:], 0xa0+byte(i))
	}
	fill(b.ReportData[:32], 0xda)
	return q
}

// Version5 gives a quote the form of version 5 with a body of TDX 1.5.
func Version5(q tdx.Quote) tdx.Quote {
	q.Version, q.BodyType = 5, tdx.BodyTDX15
	q.Body.TEETCBSVN2, q.Body.MRServiceTD = new([16]byte), new([48]byte)
	*q.Body.TEETCBSVN2 = q.Body.TEETCBSVN
	return q
}

// Quote signs a quote on a vendor's platform.
func Quote(t testing.TB, v *dcaptest.Vendor, q tdx.Quote, edits ...func(*dcaptest.Section)) []byte {
	t.Helper()
	signed := tdx.SignedBytes(q)
	return tdx.Assemble(signed, v.Sign(t, signed, q.Version, edits...))
}

// Parsed is Quote, parsed.
func Parsed(t testing.TB, v *dcaptest.Vendor, q tdx.Quote, edits ...func(*dcaptest.Section)) *tdx.Quote {
	t.Helper()
	out, err := tdx.ParseQuote(Quote(t, v, q, edits...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Authenticate is tdx.Authenticate with a vendor's root pinned in place of Intel's.
func Authenticate(t testing.TB, v *dcaptest.Vendor, q *tdx.Quote, o dcap.Options) (*tdx.Authentic, error) {
	t.Helper()
	return tdx.AuthenticateUnder(q, v.Anchor(t), o)
}

// Report makes the TDREPORT that a quote could be made of: its hashes are right, its MAC is zero.
func Report(t testing.TB, q tdx.Quote) []byte {
	t.Helper()
	b := q.Body
	raw := make([]byte, tdx.ReportSize)
	raw[0] = 0x81
	copy(raw[128:], b.ReportData[:])
	tcb, td := raw[256:495], raw[512:1024]
	for at, part := range map[int][]byte{8: b.TEETCBSVN[:], 24: b.MRSeam[:], 72: b.MRSignerSeam[:], 120: b.SeamAttributes[:]} {
		copy(tcb[at:], part)
	}
	binary.LittleEndian.PutUint64(td, uint64(b.TDAttributes))
	binary.LittleEndian.PutUint64(td[8:], b.XFAM)
	for i, part := range [][]byte{b.MRTD[:], b.MRConfigID[:], b.MROwner[:], b.MROwnerConfig[:], b.RTMR[0][:], b.RTMR[1][:], b.RTMR[2][:], b.RTMR[3][:]} {
		copy(td[16+48*i:], part)
	}
	if b.MRServiceTD != nil && b.TEETCBSVN2 != nil {
		raw[2] = 1
		copy(tcb[128:], b.TEETCBSVN2[:])
		copy(td[16+48*8:], b.MRServiceTD[:])
	}
	tcbHash, tdHash := sha512.Sum384(tcb), sha512.Sum384(td)
	copy(raw[32:], tcbHash[:])
	copy(raw[80:], tdHash[:])
	return raw
}
