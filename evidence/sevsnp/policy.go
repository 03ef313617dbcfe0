package sevsnp

import "fmt"

// Policy is the guest policy, a 64-bit word of the report.
type Policy uint64

// Bits of the guest policy. PolicyReserved must be set; bits 26 to 63 must be clear.
const (
	PolicySMT              Policy = 1 << 16
	PolicyReserved         Policy = 1 << 17
	PolicyMigrationAgent   Policy = 1 << 18
	PolicyDebug            Policy = 1 << 19
	PolicySingleSocket     Policy = 1 << 20
	PolicyCXL              Policy = 1 << 21
	PolicyMemAES256XTS     Policy = 1 << 22
	PolicyRAPLDisabled     Policy = 1 << 23
	PolicyCiphertextHiding Policy = 1 << 24
	PolicyPageSwapDisabled Policy = 1 << 25
	policyMustBeZero       Policy = ^Policy(1<<26 - 1)
)

// SMT tells whether simultaneous multithreading is allowed.
func (p Policy) SMT() bool { return p&PolicySMT != 0 }

// MigrationAgent tells whether a migration agent may be associated.
func (p Policy) MigrationAgent() bool { return p&PolicyMigrationAgent != 0 }

// Debug tells whether the host may decrypt the guest's memory.
func (p Policy) Debug() bool { return p&PolicyDebug != 0 }

// SingleSocket tells whether the guest may be activated on one socket only.
func (p Policy) SingleSocket() bool { return p&PolicySingleSocket != 0 }

// CXL tells whether CXL devices or memory may be used.
func (p Policy) CXL() bool { return p&PolicyCXL != 0 }

// MemAES256XTS tells whether memory encryption must be AES-256-XTS.
func (p Policy) MemAES256XTS() bool { return p&PolicyMemAES256XTS != 0 }

// RAPLDisabled tells whether the running average power limit must be off.
func (p Policy) RAPLDisabled() bool { return p&PolicyRAPLDisabled != 0 }

// CiphertextHiding tells whether ciphertext hiding must be on.
func (p Policy) CiphertextHiding() bool { return p&PolicyCiphertextHiding != 0 }

// PageSwapDisabled tells whether the guest forbids swapping and moving of its pages.
func (p Policy) PageSwapDisabled() bool { return p&PolicyPageSwapDisabled != 0 }

// ABI is the least firmware ABI that the guest asked for.
func (p Policy) ABI() ABI { return ABI{Major: uint8(p >> 8), Minor: uint8(p)} }

func (p Policy) String() string { return fmt.Sprintf("0x%x", uint64(p)) }

// ABI is a version of the firmware's interface.
type ABI struct{ Major, Minor uint8 }

func (a ABI) String() string { return fmt.Sprintf("%d.%d", a.Major, a.Minor) }

// Meets tells whether a version is at or above another.
func (a ABI) Meets(floor ABI) bool {
	return a.Major > floor.Major || a.Major == floor.Major && a.Minor >= floor.Minor
}

// PlatformInfo tells what is switched on in the platform, a 64-bit word of the report.
type PlatformInfo uint64

// Bits of the platform information. Bits 8 to 63 must be clear. Bit 6 came with firmware for Turin.
const (
	PlatformSMT              PlatformInfo = 1 << 0
	PlatformTSME             PlatformInfo = 1 << 1
	PlatformECC              PlatformInfo = 1 << 2
	PlatformRAPLDisabled     PlatformInfo = 1 << 3
	PlatformCiphertextHiding PlatformInfo = 1 << 4
	PlatformAliasCheck       PlatformInfo = 1 << 5
	PlatformIOMMUWriteSafe   PlatformInfo = 1 << 6
	PlatformTIO              PlatformInfo = 1 << 7
	platformMustBeZero       PlatformInfo = ^PlatformInfo(0xff)
)

// Has tells whether all the bits are set.
func (p PlatformInfo) Has(bits PlatformInfo) bool { return p&bits == bits }

func (p PlatformInfo) String() string { return fmt.Sprintf("0x%x", uint64(p)) }

// SigningKey is the kind of key that signed a report.
type SigningKey uint8

// The kinds. 2 to 6 are reserved; 7 means that nothing signed.
const (
	SignedByVCEK SigningKey = 0
	SignedByVLEK SigningKey = 1
	SignedByNone SigningKey = 7
)

func (k SigningKey) String() string {
	switch k {
	case SignedByVCEK:
		return "VCEK"
	case SignedByVLEK:
		return "VLEK"
	case SignedByNone:
		return "none"
	}
	return fmt.Sprintf("reserved (%d)", uint8(k))
}

// KeyInfo is the 32-bit word about keys: bit 0 the author key is present, bit 1 the chip's key is masked,
// bits 2 to 4 the signing key; the rest is zero.
type KeyInfo struct {
	AuthorKeyEnabled bool
	MaskChipKey      bool
	SigningKey       SigningKey
}

// Firmware is a version of the secure processor's firmware.
type Firmware struct{ Build, Minor, Major uint8 }

func (f Firmware) String() string { return fmt.Sprintf("%d.%d build %d", f.Major, f.Minor, f.Build) }
