package dcap

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// QEReportSize is the size of an SGX report body in bytes.
const QEReportSize = 384

// sgxDebug is the bit of the attributes' first byte that lets a debugger into an enclave; sgxInit says that the enclave
// was initialised, and is set in every report.
const (
	sgxInit  = 1 << 0
	sgxDebug = 1 << 1
)

// QEReport is an SGX report body: that of a quoting enclave, or the body of an SGX quote. Reserved bytes are left out.
type QEReport struct {
	CPUSVN     [16]byte
	MiscSelect [4]byte  // as in the report, little-endian
	Attributes [16]byte // flags and XFRM, 8 bytes each, as in the report
	MREnclave  [32]byte
	MRSigner   [32]byte
	ISVProdID  uint16
	ISVSVN     uint16
	ReportData [64]byte
}

// ParseQEReport reads a report body of exactly 384 bytes. Source: Intel SDM volume 3D, "REPORT".
func ParseQEReport(raw []byte) (*QEReport, error) {
	if len(raw) != QEReportSize {
		return nil, evidence.Refuse(evidence.CodeParse, "SGX report body", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprint(QEReportSize))
	}
	return &QEReport{
		CPUSVN:     [16]byte(raw[0:16]),
		MiscSelect: [4]byte(raw[16:20]),
		Attributes: [16]byte(raw[48:64]),
		MREnclave:  [32]byte(raw[64:96]),
		MRSigner:   [32]byte(raw[128:160]),
		ISVProdID:  binary.LittleEndian.Uint16(raw[256:]),
		ISVSVN:     binary.LittleEndian.Uint16(raw[258:]),
		ReportData: [64]byte(raw[320:384]),
	}, nil
}

// Marshal writes the 384 bytes, with zeros where bytes are reserved.
func (r *QEReport) Marshal() [QEReportSize]byte {
	var raw [QEReportSize]byte
	copy(raw[0:], r.CPUSVN[:])
	copy(raw[16:], r.MiscSelect[:])
	copy(raw[48:], r.Attributes[:])
	copy(raw[64:], r.MREnclave[:])
	copy(raw[128:], r.MRSigner[:])
	binary.LittleEndian.PutUint16(raw[256:], r.ISVProdID)
	binary.LittleEndian.PutUint16(raw[258:], r.ISVSVN)
	copy(raw[320:], r.ReportData[:])
	return raw
}

// Debug tells whether a debugger may read the enclave.
func (r *QEReport) Debug() bool { return r.Attributes[0]&sgxDebug != 0 }

func (r *QEReport) name() string {
	return fmt.Sprintf("MRSIGNER %s, product %d", hex.EncodeToString(r.MRSigner[:]), r.ISVProdID)
}
