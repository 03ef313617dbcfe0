package hcl

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
)

// Sizes in bytes.
const (
	HardwareSize  = 1184 // the hardware report's slot
	TDReportSize  = 1024 // what a TDREPORT takes of it; zeros follow
	headerSize    = 32
	claimsHeader  = 20
	claimsStart   = headerSize + HardwareSize + claimsHeader
	maxClaimsSize = 1 << 16
)

// ReportType is the kind of the hardware report.
type ReportType uint32

// The kinds.
const (
	TypeVBS ReportType = 1
	TypeSNP ReportType = 2
	TypeTVM ReportType = 3 // trusted launch: no hardware report
	TypeTDX ReportType = 4
	TypeCCA ReportType = 5
)

func (t ReportType) String() string {
	switch t {
	case TypeVBS:
		return "VBS"
	case TypeSNP:
		return "SNP"
	case TypeTVM:
		return "TVM"
	case TypeTDX:
		return "TDX"
	case TypeCCA:
		return "CCA"
	}
	return fmt.Sprintf("unknown (%d)", uint32(t))
}

const (
	signature     = "HCLA"
	requestAKCert = 2 // the request type of every report in NV
	dataVersion   = 1
	hashSHA256    = 1
)

// Offsets of REPORT_DATA inside the slot, and of the version of an SNP report and the type of a TDREPORT.
const (
	snpReportData = 0x50
	tdxReportData = 128
	tdReportType  = 0x81
)

// Report is an HCL report.
type Report struct {
	Version  uint32     // of the header: 1 or 2
	Type     ReportType // what Hardware is
	Hardware []byte     // 1184 bytes: an SNP report, or a TDREPORT of 1024 and zeros
	Claims   []byte     // the exact bytes
}

// Parse reads a report. The buffer may be longer than the report, as NV indexes are; the rest must be zero.
func Parse(raw []byte) (*Report, error) {
	refuse := func(field, got, want string) (*Report, error) {
		return nil, evidence.Refuse(evidence.CodeParse, "HCL report "+field, got, want)
	}
	if len(raw) < claimsStart {
		return refuse("size", fmt.Sprint(len(raw)), fmt.Sprintf("at least %d", claimsStart))
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(raw[at:]) }
	if string(raw[:4]) != signature {
		return refuse("signature", hex.EncodeToString(raw[:4]), hex.EncodeToString([]byte(signature)))
	}
	version := word(4)
	if version != 1 && version != 2 {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "HCL report version", fmt.Sprint(version), "1 or 2")
	}
	n := int64(word(1232))
	if n == 0 || n > maxClaimsSize || n > int64(len(raw)-claimsStart) {
		return refuse("claims size", fmt.Sprint(n), fmt.Sprintf("1 to %d, inside the buffer", maxClaimsSize))
	}
	end := claimsStart + int(n)
	for _, f := range []struct {
		name      string
		at        int
		want      uint32
		supported bool
	}{
		{"total size", 8, uint32(end), true},
		{"request type", 12, requestAKCert, true},
		{"status", 16, 0, true},
		{"data size", 1216, uint32(claimsHeader + n), true},
		{"data version", 1220, dataVersion, false},
		{"hash type", 1228, hashSHA256, false},
	} {
		if got := word(f.at); got != f.want {
			code := evidence.CodeParse
			if !f.supported {
				code = evidence.CodeUnsupported
			}
			return nil, evidence.Refuse(code, "HCL report "+f.name, fmt.Sprint(got), fmt.Sprint(f.want))
		}
	}
	if !zero(raw[20:headerSize]) {
		return refuse("reserved bytes 20 to 31", hex.EncodeToString(raw[20:headerSize]), "zero")
	}
	if !zero(raw[end:]) {
		return refuse("padding", "a byte that is not zero after the claims", "zero")
	}
	r := &Report{
		Version:  version,
		Type:     ReportType(word(1224)),
		Hardware: bytes.Clone(raw[headerSize : headerSize+HardwareSize]),
		Claims:   bytes.Clone(raw[claimsStart:end]),
	}
	if err := r.checkType(); err != nil {
		return nil, err
	}
	return r, nil
}

// checkType refuses hardware that is not what the type says.
func (r *Report) checkType() error {
	if len(r.Hardware) != HardwareSize {
		return evidence.Refuse(evidence.CodeParse, "HCL report hardware size", fmt.Sprint(len(r.Hardware)), fmt.Sprint(HardwareSize))
	}
	switch r.Type {
	case TypeSNP:
		if v := binary.LittleEndian.Uint32(r.Hardware); v < 2 || v > 16 {
			return evidence.Refuse(evidence.CodeParse, "HCL report hardware", fmt.Sprintf("version word 0x%x", v), "an SNP report, as the type says")
		}
	case TypeTDX:
		if r.Hardware[0] != tdReportType {
			return evidence.Refuse(evidence.CodeParse, "HCL report hardware", fmt.Sprintf("type byte 0x%x", r.Hardware[0]), "a TDREPORT (0x81), as the type says")
		}
		if !zero(r.Hardware[TDReportSize:]) {
			return evidence.Refuse(evidence.CodeParse, "HCL report hardware", "a byte that is not zero after the TDREPORT", "zero")
		}
	default:
		return evidence.Refuse(evidence.CodeUnsupported, "HCL report type", r.Type.String(), "SNP or TDX")
	}
	return nil
}

// Marshal writes a report, without padding. It refuses what Parse would refuse.
func (r *Report) Marshal() ([]byte, error) {
	if err := r.checkType(); err != nil {
		return nil, err
	}
	out := make([]byte, claimsStart, claimsStart+len(r.Claims))
	copy(out, signature)
	for at, v := range map[int]uint32{
		4: r.Version, 8: uint32(claimsStart + len(r.Claims)), 12: requestAKCert,
		1216: uint32(claimsHeader + len(r.Claims)), 1220: dataVersion, 1224: uint32(r.Type), 1228: hashSHA256, 1232: uint32(len(r.Claims)),
	} {
		binary.LittleEndian.PutUint32(out[at:], v)
	}
	copy(out[headerSize:], r.Hardware)
	out = append(out, r.Claims...)
	if _, err := Parse(out); err != nil {
		return nil, fmt.Errorf("writing the HCL report: %w", err)
	}
	return out, nil
}

// ReportData is what the hardware report must carry for these claims: their SHA-256, then 32 zero bytes.
func ReportData(claims []byte) [64]byte {
	var out [64]byte
	sum := sha256.Sum256(claims)
	copy(out[:], sum[:])
	return out
}

// HardwareReportData is the REPORT_DATA (SNP) or REPORTDATA (TDX) of the hardware report.
func (r *Report) HardwareReportData() ([64]byte, error) {
	if err := r.checkType(); err != nil {
		return [64]byte{}, err
	}
	if r.Type == TypeTDX {
		return [64]byte(r.Hardware[tdxReportData:]), nil
	}
	return [64]byte(r.Hardware[snpReportData:]), nil
}

// SNPReport is the raw SNP report (1184 bytes); another kind of hardware is refused.
func (r *Report) SNPReport() ([]byte, error) { return r.hardwareOf(TypeSNP, HardwareSize) }

// TDReport is the raw TDREPORT (1024 bytes); another kind of hardware is refused. A TDREPORT carries a MAC that only its
// processor can check: it is evidence once a TD quote about it is at hand.
func (r *Report) TDReport() ([]byte, error) { return r.hardwareOf(TypeTDX, TDReportSize) }

func (r *Report) hardwareOf(want ReportType, size int) ([]byte, error) {
	if err := r.checkType(); err != nil {
		return nil, err
	}
	if r.Type != want {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "HCL report type", r.Type.String(), want.String())
	}
	return bytes.Clone(r.Hardware[:size]), nil
}

// CheckBinding refuses a hardware report that is not about exactly these claims.
func (r *Report) CheckBinding() error {
	got, err := r.HardwareReportData()
	if err != nil {
		return err
	}
	if want := ReportData(r.Claims); got != want {
		return evidence.Refuse(evidence.CodeBinding, "HCL report data", hex.EncodeToString(got[:]), hex.EncodeToString(want[:])).
			By("the hardware report is about the SHA-256 of the runtime claims")
	}
	return nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
