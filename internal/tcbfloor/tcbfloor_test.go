package tcbfloor

import (
	"testing"

	"cloister.dev/cloister/evidence/sevsnp"
)

func TestWhole(t *testing.T) {
	want := sevsnp.TCB{FMC: 1, BootLoader: 2, TEE: 3, SNP: 4, Microcode: 5}
	f := Of(want)
	if !f.Whole() || f.TCB() != want {
		t.Errorf("%+v, want %+v", f.TCB(), want)
	}
	for name, drop := range map[string]func(*Floor){
		"SNP-21 fmc": func(f *Floor) { f.FMC = nil }, "SNP-21 boot loader": func(f *Floor) { f.BootLoader = nil }, "SNP-21 TEE": func(f *Floor) { f.TEE = nil },
		"SNP-21 SNP": func(f *Floor) { f.SNP = nil }, "SNP-21 microcode": func(f *Floor) { f.Microcode = nil },
	} {
		f := Of(want)
		if drop(&f); f.Whole() {
			t.Errorf("%s: a floor without it is called whole", name)
		}
	}
	if (*Floor)(nil).Whole() {
		t.Error("SNP-21: no floor at all is called whole")
	}
}
