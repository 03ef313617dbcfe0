package tpmtest

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Served is a TPM that serves the HCL report above swtpm's NV limit, as the platform's proxy does.
type Served struct {
	transport.TPM
	// Report makes the report for the guest's user data, which are zero until the guest writes them.
	Report func(userData [64]byte) []byte

	current []byte
}

const nvUserData = tpm2.TPMHandle(0x01400002)

// Send answers NV_ReadPublic and NV_Read of the report, and passes everything else on. Layouts: TPM 2.0 part 3, big-endian.
func (s *Served) Send(in []byte) ([]byte, error) {
	be := binary.BigEndian
	if len(in) < 14 || (len(in) < 22 && tpm2.TPMCC(be.Uint32(in[6:])) == tpm2.TPMCCNVRead) {
		return s.TPM.Send(in)
	}
	switch code := tpm2.TPMCC(be.Uint32(in[6:])); {
	case code == tpm2.TPMCCNVReadPublic && tpm2.TPMHandle(be.Uint32(in[10:])) == nvReport,
		code == tpm2.TPMCCNVRead && tpm2.TPMHandle(be.Uint32(in[14:])) == nvReport && be.Uint16(in[len(in)-2:]) == 0:
		s.current = s.Report(s.userData())
	}
	switch code := tpm2.TPMCC(be.Uint32(in[6:])); {
	case code == tpm2.TPMCCNVReadPublic && tpm2.TPMHandle(be.Uint32(in[10:])) == nvReport:
		public := be.AppendUint32(nil, uint32(nvReport))
		public = be.AppendUint16(public, uint16(tpm2.TPMAlgSHA256))
		public = be.AppendUint32(public, 0x60040001|1<<29) // written, owner and auth read, platform-created
		public = be.AppendUint16(public, 0)
		public = be.AppendUint16(public, uint16(len(s.current)))
		sum := sha256.Sum256(public)
		name := append([]byte{0, 0x0b}, sum[:]...)
		return answer(0x8001, append(sized(public), sized(name)...)), nil
	case code == tpm2.TPMCCNVRead && tpm2.TPMHandle(be.Uint32(in[14:])) == nvReport:
		size, off := int(be.Uint16(in[len(in)-4:])), int(be.Uint16(in[len(in)-2:]))
		data := sized(s.current[off : off+size])
		body := append(be.AppendUint32(nil, uint32(len(data))), data...)
		return answer(0x8002, append(body, 0, 0, 1, 0, 0)), nil
	}
	return s.TPM.Send(in)
}

func (s *Served) userData() (data [64]byte) {
	pub, err := tpm2.NVReadPublic{NVIndex: nvUserData}.Execute(s.TPM)
	if err != nil {
		return data
	}
	r, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex: tpm2.NamedHandle{Handle: nvUserData, Name: pub.NVName}, Size: 64}.Execute(s.TPM)
	if err == nil {
		copy(data[:], r.Data.Buffer)
	}
	return data
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func answer(tag uint16, body []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, tag)
	out = binary.BigEndian.AppendUint32(out, uint32(10+len(body)))
	return append(append(out, 0, 0, 0, 0), body...)
}
