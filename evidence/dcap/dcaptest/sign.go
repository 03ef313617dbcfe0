package dcaptest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"cloister.dev/cloister/evidence/dcap"
)

// Section is a signature section before it is put together. Tests change it to make bad ones: whatever is changed, the
// signatures are made afterwards.
type Section struct {
	QE             dcap.QEReport // its report data is set to bind the key, unless ReportData says otherwise
	ReportData     *[64]byte
	AttestationKey *ecdsa.PrivateKey
	PCKKey         *ecdsa.PrivateKey
	AuthData       []byte
	Chain          []byte // PEM
}

// Sign makes the signature section of a quote of version 3, 4 or 5: signed is header and body. The quoting enclave is the one of
// the TEE that the header names.
func (v *Vendor) Sign(t testing.TB, signed []byte, version uint16, edits ...func(*Section)) []byte {
	t.Helper()
	return Marshal(version, v.Section(t, signed, edits...))
}

// Section is Sign's section, parsed.
func (v *Vendor) Section(t testing.TB, signed []byte, edits ...func(*Section)) *dcap.SignatureData {
	t.Helper()
	s := &Section{QE: v.QE, AttestationKey: v.AttestationKey, PCKKey: v.PCK.Key, AuthData: v.AuthData, Chain: PEM(v.PCK, v.CA, v.Root)}
	if len(signed) >= 8 && binary.LittleEndian.Uint32(signed[4:]) == uint32(dcap.TDX) {
		s.QE = v.TDQE
	}
	for _, edit := range edits {
		edit(s)
	}
	out := &dcap.SignatureData{AuthData: s.AuthData, PCKChainPEM: s.Chain}
	point, err := s.AttestationKey.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	copy(out.AttestationKey[:], point[1:])
	sum := sha256.Sum256(append(append([]byte{}, out.AttestationKey[:]...), s.AuthData...))
	copy(s.QE.ReportData[:], sum[:])
	if s.ReportData != nil {
		s.QE.ReportData = *s.ReportData
	}
	out.QEReport = s.QE.Marshal()
	out.QESignature = Signature(t, s.PCKKey, out.QEReport[:])
	out.Signature = Signature(t, s.AttestationKey, signed)
	return out
}

// Signature is r and s, big-endian, 32 bytes each.
func Signature(t testing.TB, key *ecdsa.PrivateKey, signed []byte) (out [64]byte) {
	t.Helper()
	sum := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// Marshal writes a signature section: flat for version 3, nested for 4 and 5.
func Marshal(version uint16, s *dcap.SignatureData) []byte {
	le := binary.LittleEndian
	inner := append(append([]byte{}, s.QEReport[:]...), s.QESignature[:]...)
	inner = append(le.AppendUint16(inner, uint16(len(s.AuthData))), s.AuthData...)
	inner = le.AppendUint16(inner, 5)
	inner = append(le.AppendUint32(inner, uint32(len(s.PCKChainPEM))), s.PCKChainPEM...)
	out := append(append([]byte{}, s.Signature[:]...), s.AttestationKey[:]...)
	if version > 3 {
		out = le.AppendUint32(le.AppendUint16(out, 6), uint32(len(inner)))
	}
	return append(out, inner...)
}
