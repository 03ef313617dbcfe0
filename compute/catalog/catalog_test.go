package catalog

import "testing"

func TestLookup(t *testing.T) {
	for _, r := range []struct {
		name   string
		vcpus  int // 0: no such size
		mem    int
		family string
		tee    TEE
		temp   int
	}{
		{"Standard_DC4as_v5", 4, 16, "standardDCASv5Family", SNP, 0},
		{"standard_dc4AS_V5", 4, 16, "standardDCASv5Family", SNP, 0},
		{"Standard_EC20ads_v5", 20, 160, "standardECADSv5Family", SNP, 750},
		{"Standard_EC96as_v5", 96, 672, "standardECASv5Family", SNP, 0},
		{"Standard_DC2es_v5", 2, 8, "standardDCEV5Family", TDX, 0},
		{"Standard_EC128eds_v5", 128, 768, "standardECEDV5Family", TDX, 2832},
		{"Standard_DC20as_v5", 0, 0, "", "", 0},
		{"Standard_EC96es_v5", 0, 0, "", "", 0},
		{"Standard_DC128es_v5", 0, 0, "", "", 0},
		{"Standard_D4s_v5", 0, 0, "", "", 0},
		{"DC4as_v5", 0, 0, "", "", 0},
		{"", 0, 0, "", "", 0},
	} {
		s, ok := Lookup(r.name)
		if ok != (r.vcpus > 0) || s.VCPUs != r.vcpus || s.MemoryGiB != r.mem || s.Family != r.family || s.TEE != r.tee || s.TempGiB != r.temp {
			t.Errorf("%s: got %+v, %v", r.name, s, ok)
		}
	}
	// Nine AMD rows with one only in EC, nine Intel rows with one only in each class; twice for the temporary disk.
	if n := len(All()); n != 2*(8+9)+2*(8+8) {
		t.Errorf("%d sizes", n)
	}
}

func TestCapSaysWhatItCuts(t *testing.T) {
	s, _ := Lookup("Standard_DC4as_v5")
	if g := (Cap{}).Grant(s); g.VCPUs != 4 || g.MemoryMiB != 16384 || len(g.Notes) != 0 {
		t.Errorf("no cap: %+v", g)
	}
	if g := (Cap{VCPUs: 1, MemoryMiB: 1024}).Grant(s); g.VCPUs != 1 || g.MemoryMiB != 1024 || len(g.Notes) != 2 {
		t.Errorf("cap: %+v", g)
	}
	if g := (Cap{VCPUs: 8, MemoryMiB: 99999}).Grant(s); g.VCPUs != 4 || len(g.Notes) != 0 {
		t.Errorf("a cap above the size: %+v", g)
	}
}
