package sevsnp

import (
	"fmt"

	"cloister.dev/cloister/evidence"
)

// TCB is the set of security version numbers of a platform. FMC exists on Turin only, and is 0 elsewhere.
// TCBs are not ordered like numbers: see TCB.Meets.
type TCB struct{ FMC, BootLoader, TEE, SNP, Microcode uint8 }

// Meets tells whether every component is at or above that of the floor.
func (t TCB) Meets(floor TCB) bool {
	return t.FMC >= floor.FMC && t.BootLoader >= floor.BootLoader && t.TEE >= floor.TEE &&
		t.SNP >= floor.SNP && t.Microcode >= floor.Microcode
}

func (t TCB) String() string {
	s := fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.BootLoader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != 0 {
		s = fmt.Sprintf("fmc %d, ", t.FMC) + s
	}
	return s
}

// TCBAtLeast expects every component at or above that of the floor.
func TCBAtLeast(floor TCB) evidence.Expectation[TCB] {
	return evidence.AtLeastFunc(floor, TCB.Meets)
}

// Bytes is the TCB in the order of a report of that product.
//
// Milan and Genoa: [0] boot loader, [1] TEE, [6] SNP, [7] microcode. Turin: [0] FMC, [1] boot loader,
// [2] TEE, [3] SNP, [7] microcode. The rest is zero.
func (t TCB) Bytes(p Product) [8]byte {
	if p == Turin {
		return [8]byte{t.FMC, t.BootLoader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return [8]byte{t.BootLoader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// Hex is the TCB as AMD's and Azure's services print it: 16 digits, microcode first.
func (t TCB) Hex(p Product) string {
	b := t.Bytes(p)
	var v uint64
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	return fmt.Sprintf("%016x", v)
}

func parseTCB(field string, b [8]byte, p Product) (TCB, error) {
	t := TCB{BootLoader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
	if p == Turin {
		t = TCB{FMC: b[0], BootLoader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	if t.Bytes(p) != b {
		return TCB{}, evidence.Refuse(evidence.CodeParse, field, fmt.Sprintf("%x", b), "zero in the reserved bytes of a "+string(p)+" TCB")
	}
	return t, nil
}
