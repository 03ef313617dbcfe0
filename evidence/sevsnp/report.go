package sevsnp

import (
	"encoding/binary"
	"fmt"
	"math/big"

	"cloister.dev/cloister/evidence"
)

// ReportSize is the size of a report in bytes; SignedSize is how many of them, from the first, the signature covers.
const (
	ReportSize = 1184
	SignedSize = 0x2a0
)

// AlgoECDSAP384SHA384 is the only signature algorithm of reports.
const AlgoECDSAP384SHA384 uint32 = 1

// HostVMPL stands in the VMPL field of a report that the host asked for.
const HostVMPL uint32 = 0xffffffff

// Report is a report, field by field.
type Report struct {
	Version            uint32
	GuestSVN           uint32
	Policy             Policy
	FamilyID           [16]byte
	ImageID            [16]byte
	VMPL               uint32
	SignatureAlgo      uint32
	CurrentTCB         TCB
	PlatformInfo       PlatformInfo
	KeyInfo            KeyInfo
	ReportData         [64]byte
	Measurement        [48]byte
	HostData           [32]byte
	IDKeyDigest        [48]byte
	AuthorKeyDigest    [48]byte
	ReportID           [32]byte
	ReportIDMA         [32]byte // all 0xff where there is no migration agent
	ReportedTCB        TCB
	CPUID              CPUID // version 3 and later
	ChipID             [64]byte
	CommittedTCB       TCB
	Current            Firmware
	Committed          Firmware
	LaunchTCB          TCB
	LaunchMitigations  uint64    // version 4 and later
	CurrentMitigations uint64    // version 4 and later
	Signature          [512]byte // from 0x2a0: R and S, 72 bytes each, little-endian; then zeros
}

// Product is the processor line: by CPUID in version 3 and later. Version 2 does not tell, and has the
// TCB layout of Milan and Genoa; then the name is empty and only the certificate tells.
func (r *Report) Product() (Product, error) {
	if r.Version == 2 {
		return "", nil
	}
	return r.CPUID.Product()
}

// Parse reads a report of exactly ReportSize bytes. Reserved bytes must be zero as the version demands.
func Parse(raw []byte) (*Report, error) {
	if len(raw) != ReportSize {
		return nil, evidence.Refuse(evidence.CodeParse, "SNP report size", fmt.Sprint(len(raw)), fmt.Sprint(ReportSize))
	}
	le := binary.LittleEndian
	r := &Report{Version: le.Uint32(raw)}
	switch r.Version {
	case 2, 3, 4, 5:
	default:
		return nil, evidence.Refuse(evidence.CodeUnsupported, "SNP report version", fmt.Sprint(r.Version), "2, 3, 4 or 5")
	}
	zero := [][2]int{{0x4c, 0x50}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, SignedSize}, {0x330, ReportSize}}
	switch {
	case r.Version < 3:
		zero = append(zero, [2]int{0x188, 0x1a0}, [2]int{0x1f8, 0x208})
	case r.Version < 4:
		zero = append(zero, [2]int{0x18b, 0x1a0}, [2]int{0x1f8, 0x208})
	default:
		zero = append(zero, [2]int{0x18b, 0x1a0})
	}
	for _, z := range zero {
		for _, b := range raw[z[0]:z[1]] {
			if b != 0 {
				return nil, evidence.Refuse(evidence.CodeParse, fmt.Sprintf("SNP report bytes 0x%03x to 0x%03x", z[0], z[1]-1),
					"a byte that is not zero", fmt.Sprintf("zero in version %d", r.Version))
			}
		}
	}

	r.GuestSVN = le.Uint32(raw[0x04:])
	r.Policy = Policy(le.Uint64(raw[0x08:]))
	copy(r.FamilyID[:], raw[0x10:])
	copy(r.ImageID[:], raw[0x20:])
	r.VMPL = le.Uint32(raw[0x30:])
	r.SignatureAlgo = le.Uint32(raw[0x34:])
	r.PlatformInfo = PlatformInfo(le.Uint64(raw[0x40:]))
	key := le.Uint32(raw[0x48:])
	r.KeyInfo = KeyInfo{AuthorKeyEnabled: key&1 != 0, MaskChipKey: key&2 != 0, SigningKey: SigningKey(key >> 2 & 7)}
	copy(r.ReportData[:], raw[0x50:])
	copy(r.Measurement[:], raw[0x90:])
	copy(r.HostData[:], raw[0xc0:])
	copy(r.IDKeyDigest[:], raw[0xe0:])
	copy(r.AuthorKeyDigest[:], raw[0x110:])
	copy(r.ReportID[:], raw[0x140:])
	copy(r.ReportIDMA[:], raw[0x160:])
	r.CPUID = CPUID{raw[0x188], raw[0x189], raw[0x18a]}
	copy(r.ChipID[:], raw[0x1a0:])
	r.Current = Firmware{raw[0x1e8], raw[0x1e9], raw[0x1ea]}
	r.Committed = Firmware{raw[0x1ec], raw[0x1ed], raw[0x1ee]}
	r.LaunchMitigations = le.Uint64(raw[0x1f8:])
	r.CurrentMitigations = le.Uint64(raw[0x200:])
	copy(r.Signature[:], raw[SignedSize:])

	refuse := func(field, got, want string) (*Report, error) {
		return nil, evidence.Refuse(evidence.CodeParse, "SNP report "+field, got, want)
	}
	switch {
	case r.Policy&PolicyReserved == 0 || r.Policy&policyMustBeZero != 0:
		return refuse("policy", r.Policy.String(), "bit 17 set, bits 26 to 63 clear")
	case r.PlatformInfo&platformMustBeZero != 0:
		return refuse("platform info", r.PlatformInfo.String(), "bits 8 to 63 clear")
	case key>>5 != 0:
		return refuse("key info", fmt.Sprintf("0x%x", key), "bits 5 to 31 clear")
	case r.VMPL > 3 && r.VMPL != HostVMPL:
		return refuse("VMPL", fmt.Sprint(r.VMPL), "0 to 3, or 0xffffffff for the host")
	case r.SignatureAlgo != AlgoECDSAP384SHA384:
		return nil, evidence.Refuse(evidence.CodeUnsupported, "SNP report signature algorithm", fmt.Sprint(r.SignatureAlgo), "1 (ECDSA P-384 with SHA-384)")
	}
	product, err := r.Product()
	if err != nil {
		return nil, fmt.Errorf("reading the SNP report: %w", err)
	}
	for _, t := range []struct {
		name string
		at   int
		to   *TCB
	}{{"current TCB", 0x38, &r.CurrentTCB}, {"reported TCB", 0x180, &r.ReportedTCB}, {"committed TCB", 0x1e0, &r.CommittedTCB}, {"launch TCB", 0x1f0, &r.LaunchTCB}} {
		if *t.to, err = parseTCB("SNP report "+t.name, [8]byte(raw[t.at:]), product); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Marshal writes a report: for a parsed one, the bytes that it came from.
func (r *Report) Marshal() []byte {
	b := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(b, r.Version)
	le.PutUint32(b[0x04:], r.GuestSVN)
	le.PutUint64(b[0x08:], uint64(r.Policy))
	copy(b[0x10:], r.FamilyID[:])
	copy(b[0x20:], r.ImageID[:])
	le.PutUint32(b[0x30:], r.VMPL)
	le.PutUint32(b[0x34:], r.SignatureAlgo)
	le.PutUint64(b[0x40:], uint64(r.PlatformInfo))
	key := uint32(r.KeyInfo.SigningKey) << 2
	if r.KeyInfo.AuthorKeyEnabled {
		key |= 1
	}
	if r.KeyInfo.MaskChipKey {
		key |= 2
	}
	le.PutUint32(b[0x48:], key)
	copy(b[0x50:], r.ReportData[:])
	copy(b[0x90:], r.Measurement[:])
	copy(b[0xc0:], r.HostData[:])
	copy(b[0xe0:], r.IDKeyDigest[:])
	copy(b[0x110:], r.AuthorKeyDigest[:])
	copy(b[0x140:], r.ReportID[:])
	copy(b[0x160:], r.ReportIDMA[:])
	copy(b[0x188:], []byte{r.CPUID.Family, r.CPUID.Model, r.CPUID.Stepping})
	copy(b[0x1a0:], r.ChipID[:])
	copy(b[0x1e8:], []byte{r.Current.Build, r.Current.Minor, r.Current.Major, 0, r.Committed.Build, r.Committed.Minor, r.Committed.Major})
	le.PutUint64(b[0x1f8:], r.LaunchMitigations)
	le.PutUint64(b[0x200:], r.CurrentMitigations)
	product, err := r.Product()
	if err != nil {
		product = "" // a line of no name has the first layout; Parse refuses it anyway
	}
	for _, t := range []struct {
		at  int
		tcb TCB
	}{{0x38, r.CurrentTCB}, {0x180, r.ReportedTCB}, {0x1e0, r.CommittedTCB}, {0x1f0, r.LaunchTCB}} {
		tcb := t.tcb.Bytes(product)
		copy(b[t.at:], tcb[:])
	}
	copy(b[SignedSize:], r.Signature[:])
	return b
}

// SignedBytes is the part of a report that its signature covers.
func (r *Report) SignedBytes() []byte { return r.Marshal()[:SignedSize] }

// EncodeSignature writes r and s as a report carries them: 72 bytes each, little-endian, then zeros.
func EncodeSignature(r, s *big.Int) [512]byte {
	var out [512]byte
	putLittleEndian(out[0:72], r)
	putLittleEndian(out[72:144], s)
	return out
}

func putLittleEndian(out []byte, v *big.Int) {
	b := v.FillBytes(make([]byte, len(out)))
	for i := range b {
		out[i] = b[len(b)-1-i]
	}
}

func littleEndian(in []byte) *big.Int {
	b := make([]byte, len(in))
	for i := range in {
		b[i] = in[len(in)-1-i]
	}
	return new(big.Int).SetBytes(b)
}
