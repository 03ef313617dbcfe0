package sevsnp

// defaultFloors are TCBs below which no platform is known to be in service any more. Sources: reports of public clouds of
// 2022 (Milan), the levels that a verifier in use asked for in 2025 (Genoa), and the one VCEK that was at hand, of a part
// not in service yet (Turin).
var defaultFloors = map[Product]TCB{
	Milan: {BootLoader: 3, SNP: 0x08, Microcode: 0x73},
	Genoa: {BootLoader: 7, SNP: 0x0e, Microcode: 0x48},
	Turin: {Microcode: 9},
}

// DefaultFloor is a TCB that every platform in service meets, for reported, committed and launch TCB; false for a product
// that is not known, for which there is none. It keeps very old firmware out and promises nothing more: it is below the
// fixes of CVE-2024-21944 (BadRAM), CVE-2024-56161 (EntrySign), CVE-2025-0033 (RMP initialisation) and CVE-2025-29943.
// Whoever needs those takes RecommendedFloor, or levels from AMD's bulletins.
func DefaultFloor(p Product) (TCB, bool) {
	t, ok := defaultFloors[p]
	return t, ok
}

// Floor is a TCB with what it is known to fix.
type Floor struct {
	TCB   TCB
	Fixes []string // CVE numbers
	Open  []string // CVE numbers that the level does not prove to be fixed
}

// recommendedFloors have the levels that AMD's bulletins name, as others quote them:
//
//	AMD-SB-3019 (CVE-2024-56161): SNP 0x18 on Milan, 0x17 on Genoa: issue 6812 of microsoft/CCF
//	AMD-SB-3015 (CVE-2024-21944): SNP 0x17 on Milan, 0x16 on Genoa, besides the alias check of the platform information
//	AMD-SB-3020 (CVE-2025-0033):  SNP 0x1b on Genoa, 0x04 on Turin; no level was found for Milan
//	AMD-SB-3027 (CVE-2025-29943): microcode 0x56 on Genoa B1, 0x51 on Genoa-X and Turin C1: differs per stepping, so not here
var recommendedFloors = map[Product]Floor{
	Milan: {TCB{BootLoader: 3, SNP: 0x18, Microcode: 0x73}, []string{"CVE-2024-21944", "CVE-2024-56161"}, []string{"CVE-2025-0033", "CVE-2025-29943"}},
	Genoa: {TCB{BootLoader: 7, SNP: 0x1b, Microcode: 0x48}, []string{"CVE-2024-21944", "CVE-2024-56161", "CVE-2025-0033"}, []string{"CVE-2025-29943"}},
	Turin: {TCB{SNP: 0x04, Microcode: 9}, []string{"CVE-2025-0033"}, []string{"CVE-2025-29943"}},
}

// RecommendedFloor is a TCB that proves some published holes closed; false for a product that is not known. Many platforms
// in service do not meet it. The reported TCB is what a host claims of its firmware: a platform whose firmware was
// once exploited may hold keys of every level (for Milan this was shown in 2026), which no floor can tell.
// BadRAM's fix also needs Expect.PlatformAliasCheck.
func RecommendedFloor(p Product) (Floor, bool) {
	f, ok := recommendedFloors[p]
	return f, ok
}
