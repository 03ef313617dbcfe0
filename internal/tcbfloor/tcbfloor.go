// Package tcbfloor is a floor of SEV-SNP security versions as configuration files write one.
package tcbfloor

import "cloister.dev/cloister/evidence/sevsnp"

// Floor is security version numbers, 0 to 255 each. fmc exists on Turin only: 0 elsewhere. Each member has to be written,
// also where it is 0: a floor that is absent by mistake would be none.
type Floor struct {
	FMC        *uint8 `json:"fmc"`
	BootLoader *uint8 `json:"bootLoader"`
	TEE        *uint8 `json:"tee"`
	SNP        *uint8 `json:"snp"`
	Microcode  *uint8 `json:"microcode"`
}

// Of writes a TCB as a floor.
func Of(t sevsnp.TCB) Floor {
	return Floor{FMC: &t.FMC, BootLoader: &t.BootLoader, TEE: &t.TEE, SNP: &t.SNP, Microcode: &t.Microcode}
}

// Whole tells whether all members are there.
func (f *Floor) Whole() bool {
	return f != nil && f.FMC != nil && f.BootLoader != nil && f.TEE != nil && f.SNP != nil && f.Microcode != nil
}

// TCB is the floor as what reports are compared with. Only a whole one has it.
func (f *Floor) TCB() sevsnp.TCB {
	return sevsnp.TCB{FMC: *f.FMC, BootLoader: *f.BootLoader, TEE: *f.TEE, SNP: *f.SNP, Microcode: *f.Microcode}
}
