package judge

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/tdx"
)

// Words of documents.
const (
	opExactly = "exactly"
	opOneOf   = "oneOf"
	opAtLeast = "atLeast"
	opNoneOf  = "noneOf" // advisories only
	opAny     = "any"
)

const namePCRs = "pcrs"

// standing says what holds of a claim of which the relying party said nothing.
type standing int

const (
	free  standing = iota // it is not asked for
	must                  // it refuses
	usual                 // a default judges it, which can be replaced by values or waived
	safe                  // a default judges it, which can be replaced by values and never waived
)

// part is where a claim stands.
type part int

const (
	inSNP part = iota
	inTDX
	inSGX
	inRuntime // the runtime claims of an HCL report
	inLog     // the event log
	inPCRs
)

// wants holds expectations in the types of the packages that judge.
type wants struct {
	snp        sevsnp.Expect
	tdx        tdx.Expect
	sgx        sgxWants
	userData   evidence.Expectation[[64]byte]
	vmID       evidence.Expectation[string]
	secureBoot evidence.Expectation[bool]
	vmSecure   evidence.Expectation[bool]
	pcrs       map[int]evidence.Expectation[[32]byte]
}

// field is one claim that can be expected: where it stands, what holds without a word, and how its values are read.
type field struct {
	name     string
	part     part
	standing standing
	set      func(w *wants, r rule) error
	any      func(w *wants)
}

// of makes a field. Without meets, its values have no order, and "atLeast" is a mistake.
func of[T comparable](name string, p part, s standing, at func(*wants) *evidence.Expectation[T], read func(any) (T, error), meets func(got, floor T) bool) field {
	return field{name: name, part: p, standing: s, any: func(w *wants) { *at(w) = evidence.Any[T]() }, set: func(w *wants, r rule) error {
		values := make([]T, 0, len(r.values))
		for _, v := range r.values {
			x, err := read(v)
			if err != nil {
				return mistake(name, err.Error(), "a value of its type")
			}
			values = append(values, x)
		}
		switch {
		case len(values) == 0:
			return mistake(name, "no value", "at least one")
		case r.op == opExactly && len(values) == 1:
			*at(w) = evidence.Exactly(values[0])
		case r.op == opOneOf:
			*at(w) = evidence.OneOf(values...)
		case r.op == opAtLeast && len(values) == 1 && meets != nil:
			*at(w) = evidence.AtLeastFunc(values[0], meets)
		default:
			return mistake(name, r.op, "exactly, oneOf, or atLeast where values have an order")
		}
		return nil
	}}
}

func bits(name string, p part, s standing, at func(*wants) *evidence.Expectation[bool]) field {
	return of(name, p, s, at, readBool, nil)
}

func level(name string, s standing, at func(*wants) *evidence.Expectation[sevsnp.TCB]) field {
	return of(name, inSNP, s, at, readTCB, sevsnp.TCB.Meets)
}

// fields are all claims that can be expected. The names are those of the claims and checks.
var fields = slices.Concat(snpFields, tdxFields, sgxFields, pcrFields(), []field{
	of(nameUserData, inRuntime, must, func(w *wants) *evidence.Expectation[[64]byte] { return &w.userData }, read64, nil),
	of("vm-id", inRuntime, free, func(w *wants) *evidence.Expectation[string] { return &w.vmID }, readLower, nil),
	bits("vm-secure-boot", inRuntime, free, func(w *wants) *evidence.Expectation[bool] { return &w.vmSecure }),
	bits(nameSecureBoot, inLog, must, func(w *wants) *evidence.Expectation[bool] { return &w.secureBoot }),
})

var snpFields = []field{
	of("measurement", inSNP, must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.snp.Measurement }, readMeasurement, nil),
	of("host-data", inSNP, must, func(w *wants) *evidence.Expectation[[32]byte] { return &w.snp.HostData }, read32, nil),
	of(nameReportData, inSNP, must, func(w *wants) *evidence.Expectation[[64]byte] { return &w.snp.ReportData }, read64, nil),

	of("vmpl", inSNP, safe, func(w *wants) *evidence.Expectation[uint32] { return &w.snp.VMPL }, read32bits, nil),
	bits("policy-debug", inSNP, safe, func(w *wants) *evidence.Expectation[bool] { return &w.snp.Debug }),
	bits("policy-migration-agent", inSNP, safe, func(w *wants) *evidence.Expectation[bool] { return &w.snp.MigrationAgent }),
	bits("provisional-firmware", inSNP, usual, func(w *wants) *evidence.Expectation[bool] { return &w.snp.Provisional }),
	of("signing-key", inSNP, safe, func(w *wants) *evidence.Expectation[sevsnp.SigningKey] { return &w.snp.SigningKey }, readSigningKey, nil),
	level("reported-tcb", safe, func(w *wants) *evidence.Expectation[sevsnp.TCB] { return &w.snp.ReportedTCB }),

	bits("revocation-checked", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.RevocationChecked }),
	bits("policy-smt", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.SMT }),
	bits("policy-single-socket", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.SingleSocket }),
	bits("policy-cxl", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.CXL }),
	bits("policy-aes-256-xts", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.MemAES256XTS }),
	bits("policy-rapl-disabled", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.RAPLDisabled }),
	bits("policy-ciphertext-hiding", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.CiphertextHiding }),
	bits("policy-page-swap-disabled", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PageSwapDisabled }),
	of("policy-abi", inSNP, free, func(w *wants) *evidence.Expectation[sevsnp.ABI] { return &w.snp.ABI }, readABI, sevsnp.ABI.Meets),
	level("launch-tcb", safe, func(w *wants) *evidence.Expectation[sevsnp.TCB] { return &w.snp.LaunchTCB }),
	level("committed-tcb", safe, func(w *wants) *evidence.Expectation[sevsnp.TCB] { return &w.snp.CommittedTCB }),
	level("current-tcb", free, func(w *wants) *evidence.Expectation[sevsnp.TCB] { return &w.snp.CurrentTCB }),
	bits("platform-smt", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformSMT }),
	bits("platform-tsme", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformTSME }),
	bits("platform-ecc", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformECC }),
	bits("platform-rapl-disabled", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformRAPLDisabled }),
	bits("platform-ciphertext-hiding", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformCiphertextHiding }),
	bits("platform-alias-check", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformAliasCheck }),
	bits("platform-iommu-write-safe", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformIOMMUWriteSafe }),
	bits("platform-tio", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.PlatformTIO }),
	of("launch-mitigations", inSNP, free, func(w *wants) *evidence.Expectation[uint64] { return &w.snp.LaunchMitigations }, readWord, hasBits),
	of("current-mitigations", inSNP, free, func(w *wants) *evidence.Expectation[uint64] { return &w.snp.CurrentMitigations }, readWord, hasBits),
	of("guest-svn", inSNP, free, func(w *wants) *evidence.Expectation[uint32] { return &w.snp.GuestSVN }, read32bits, func(got, floor uint32) bool { return got >= floor }),
	of("family-id", inSNP, free, func(w *wants) *evidence.Expectation[[16]byte] { return &w.snp.FamilyID }, read16, nil),
	of("image-id", inSNP, free, func(w *wants) *evidence.Expectation[[16]byte] { return &w.snp.ImageID }, read16, nil),
	of("id-key-digest", inSNP, free, func(w *wants) *evidence.Expectation[[48]byte] { return &w.snp.IDKeyDigest }, read48, nil),
	bits("author-key-enabled", inSNP, free, func(w *wants) *evidence.Expectation[bool] { return &w.snp.AuthorKeyEnabled }),
	of("author-key-digest", inSNP, free, func(w *wants) *evidence.Expectation[[48]byte] { return &w.snp.AuthorKeyDigest }, read48, nil),
	of("chip-id", inSNP, free, func(w *wants) *evidence.Expectation[[64]byte] { return &w.snp.ChipID }, read64, nil),
	of("report-id-ma", inSNP, free, func(w *wants) *evidence.Expectation[[32]byte] { return &w.snp.ReportIDMA }, read32, nil),
}

// pcrFields are PCR 0 to 15. Those behind can be reset by whoever runs, or need a locality that no one proves here.
func pcrFields() []field {
	out := make([]field, 0, 16)
	for n := range 16 {
		out = append(out, pcrField(n))
	}
	return out
}

func pcrField(n int) field {
	at := func(w *wants, e evidence.Expectation[[32]byte]) {
		if w.pcrs == nil {
			w.pcrs = map[int]evidence.Expectation[[32]byte]{}
		}
		w.pcrs[n] = e
	}
	var x evidence.Expectation[[32]byte]
	read := read32
	if n <= 7 || n == 11 {
		read = notZero(read32) // zero means that nothing was measured
	}
	f := of(pcrName(n), inPCRs, free, func(*wants) *evidence.Expectation[[32]byte] { return &x }, read, nil)
	inner := f.set
	f.any = func(w *wants) { at(w, evidence.Any[[32]byte]()) }
	f.set = func(w *wants, r rule) error {
		if err := inner(w, r); err != nil {
			return err
		}
		at(w, x)
		return nil
	}
	return f
}

// try reads a rule's values for every field of the name, so that a mistake is found at once.
func try(name string, r rule) error {
	known := false
	for _, f := range fields {
		if f.name == name {
			known = true
			if err := f.set(&wants{}, r); err != nil {
				return err
			}
		}
	}
	if !known {
		return mistake(fmt.Sprintf("%.64q", name), "no claim that can be expected", strings.Join(Names(), ", "))
	}
	return nil
}

func hasBits(got, floor uint64) bool { return got&floor == floor }

func readBool(v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("%.64q: want true or false", fmt.Sprint(v))
	}
	return b, nil
}

func readText(v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" {
		return "", fmt.Errorf("%.64q: want text", fmt.Sprint(v))
	}
	return s, nil
}

func readLower(v any) (string, error) {
	s, err := readText(v)
	return strings.ToLower(s), err
}

func readHex(v any, size int) ([]byte, error) {
	s, err := readText(v)
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%d characters: want %d hex digits", len(s), 2*size)
	}
	return b, nil
}

func read6(v any) (out [6]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

func read8(v any) (out [8]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

func read16(v any) (out [16]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

func read32(v any) (out [32]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

func read48(v any) (out [48]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

// readMeasurement refuses zero, which is no measurement of anything.
func readMeasurement(v any) ([48]byte, error) { return notZero(read48)(v) }

func notZero[T comparable](read func(any) (T, error)) func(any) (T, error) {
	return func(v any) (T, error) {
		var zero T
		x, err := read(v)
		if err == nil && x == zero {
			err = errors.New("zero, as if nothing was measured")
		}
		return x, err
	}
}

func read64(v any) (out [64]byte, err error) {
	b, err := readHex(v, len(out))
	copy(out[:], b)
	return out, err
}

// number reads a JSON number that is a whole one.
func number(v any, most uint64) (uint64, error) {
	n, ok := v.(float64)
	if !ok || n < 0 || n > float64(most) || n != float64(uint64(n)) {
		return 0, fmt.Errorf("%.64q: want a whole number from 0 to %d", fmt.Sprint(v), most)
	}
	return uint64(n), nil
}

func read32bits(v any) (uint32, error) {
	n, err := number(v, 1<<32-1)
	return uint32(n), err
}

func read16bits(v any) (uint16, error) {
	n, err := number(v, 1<<16-1)
	return uint16(n), err
}

func atLeast16(got, floor uint16) bool { return got >= floor }

// readWord reads a 64-bit word: text, "0x" and hexadecimal digits, since JSON numbers do not hold all of them.
func readWord(v any) (uint64, error) {
	s, err := readText(v)
	if err != nil {
		return 0, err
	}
	digits, ok := strings.CutPrefix(s, "0x")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("%.64q: want 0x and up to 16 hex digits", s)
	}
	return n, nil
}

// readTCB reads an object of the components; those left out are 0.
func readTCB(v any) (sevsnp.TCB, error) {
	var t sevsnp.TCB
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return t, fmt.Errorf("%.64q: want an object with bootloader, tee, snp, microcode and, on Turin, fmc", fmt.Sprint(v))
	}
	to := map[string]*uint8{"fmc": &t.FMC, "bootloader": &t.BootLoader, "tee": &t.TEE, "snp": &t.SNP, "microcode": &t.Microcode}
	for name, x := range m {
		at := to[name]
		if at == nil {
			return t, fmt.Errorf("%.64q: want fmc, bootloader, tee, snp or microcode", name)
		}
		n, err := number(x, 255)
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		*at = uint8(n)
	}
	return t, nil
}

func readSigningKey(v any) (sevsnp.SigningKey, error) {
	s, err := readText(v)
	if err != nil {
		return 0, err
	}
	for _, k := range []sevsnp.SigningKey{sevsnp.SignedByVCEK, sevsnp.SignedByVLEK} {
		if strings.EqualFold(k.String(), s) {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%.64q: want VCEK or VLEK", s)
}

func readABI(v any) (sevsnp.ABI, error) {
	s, err := readText(v)
	if err != nil {
		return sevsnp.ABI{}, err
	}
	major, minor, ok := strings.Cut(s, ".")
	a, err1 := strconv.ParseUint(major, 10, 8)
	b, err2 := strconv.ParseUint(minor, 10, 8)
	if !ok || err1 != nil || err2 != nil {
		return sevsnp.ABI{}, fmt.Errorf("%.64q: want MAJOR.MINOR", s)
	}
	return sevsnp.ABI{Major: uint8(a), Minor: uint8(b)}, nil
}
