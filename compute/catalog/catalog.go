// Package catalog knows the sizes of confidential VMs, with Azure's names and numbers.
package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// TEE is the kind of processor protection that a size has.
type TEE string

// The two kinds, in the words of host/api. Azure's capability ConfidentialComputingType has them in capitals.
const (
	SNP TEE = "snp"
	TDX TEE = "tdx"
)

// Size is one VM size.
type Size struct {
	Name      string // Standard_DC4as_v5
	Short     string // DC4as_v5
	Family    string // quota family
	TEE       TEE
	VCPUs     int
	MemoryGiB int
	TempGiB   int // temporary disk; 0 is none
	DataDisks int
	NICs      int
	IOPS      int // uncached
	MBps      int // uncached, 10^6 bytes
}

// row is one line of the tables: what all four variants of a vCPU count share.
type row struct {
	vcpus, dcMem, ecMem int // GiB; 0 is: no such size
	temp                int // GiB, for the variants with a temporary disk
	disks, nics         int
	iops, mbps          int
}

// Source: Azure's size pages as collected in the format notes.
var amd = []row{
	{2, 8, 16, 75, 4, 2, 3750, 82},
	{4, 16, 32, 150, 8, 2, 6400, 144},
	{8, 32, 64, 300, 16, 4, 12800, 200},
	{16, 64, 128, 600, 32, 4, 25600, 384},
	{20, 0, 160, 750, 32, 8, 32000, 480},
	{32, 128, 256, 1200, 32, 8, 51200, 768},
	{48, 192, 384, 1800, 32, 8, 76800, 1152},
	{64, 256, 512, 2400, 32, 8, 80000, 1200},
	{96, 384, 672, 3600, 32, 8, 80000, 1600},
}

var intel = []row{
	{2, 8, 16, 47, 4, 2, 3750, 80},
	{4, 16, 32, 105, 8, 2, 6400, 140},
	{8, 32, 64, 227, 16, 4, 12800, 300},
	{16, 64, 128, 463, 32, 8, 25600, 600},
	{32, 128, 256, 935, 32, 8, 51200, 860},
	{48, 192, 384, 1407, 32, 8, 76800, 1320},
	{64, 256, 512, 2823, 32, 8, 80000, 1740},
	{96, 384, 0, 2823, 32, 8, 80000, 2600},
	{128, 0, 768, 2832, 32, 8, 80000, 2600},
}

var all = build()

func build() []Size {
	var out []Size
	// The Intel families are spelt without S and with a capital V.
	for _, f := range []struct {
		class, suffix, family string
		tee                   TEE
		rows                  []row
		temp                  bool
	}{
		{"DC", "as", "standardDCASv5Family", SNP, amd, false},
		{"DC", "ads", "standardDCADSv5Family", SNP, amd, true},
		{"EC", "as", "standardECASv5Family", SNP, amd, false},
		{"EC", "ads", "standardECADSv5Family", SNP, amd, true},
		{"DC", "es", "standardDCEV5Family", TDX, intel, false},
		{"DC", "eds", "standardDCEDV5Family", TDX, intel, true},
		{"EC", "es", "standardECEV5Family", TDX, intel, false},
		{"EC", "eds", "standardECEDV5Family", TDX, intel, true},
	} {
		for _, r := range f.rows {
			s := Size{Short: fmt.Sprintf("%s%d%s_v5", f.class, r.vcpus, f.suffix), Family: f.family, TEE: f.tee,
				VCPUs: r.vcpus, MemoryGiB: r.dcMem, DataDisks: r.disks, NICs: r.nics, IOPS: r.iops, MBps: r.mbps}
			if f.class == "EC" {
				s.MemoryGiB = r.ecMem
			}
			if f.temp {
				s.TempGiB = r.temp
			}
			if s.Name = "Standard_" + s.Short; s.MemoryGiB > 0 {
				out = append(out, s)
			}
		}
	}
	return out
}

// All lists the sizes.
func All() []Size { return slices.Clone(all) }

// Lookup finds a size; names have no case.
func Lookup(name string) (Size, bool) {
	for _, s := range all {
		if strings.EqualFold(s.Name, name) {
			return s, true
		}
	}
	return Size{}, false
}

// Families lists the quota families in the order of the catalog.
func Families() []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s.Family) {
			out = append(out, s.Family)
		}
	}
	return out
}

// Cap bounds what a VM gets on hosts that cannot give what the size says, such as a laptop. Zero is: no cap.
type Cap struct {
	VCPUs     int `json:"vcpus"`
	MemoryMiB int `json:"memoryMiB"`
}

// Granted is what a VM of a size really gets.
type Granted struct {
	VCPUs     int
	MemoryMiB int
	Notes     []string // what was cut, in words for the tenant
}

// Grant applies the cap.
func (c Cap) Grant(s Size) Granted {
	g := Granted{VCPUs: s.VCPUs, MemoryMiB: s.MemoryGiB << 10}
	if c.VCPUs > 0 && g.VCPUs > c.VCPUs {
		g.Notes = append(g.Notes, fmt.Sprintf("%s has %d vCPUs; this installation gives %d", s.Name, g.VCPUs, c.VCPUs))
		g.VCPUs = c.VCPUs
	}
	if c.MemoryMiB > 0 && g.MemoryMiB > c.MemoryMiB {
		g.Notes = append(g.Notes, fmt.Sprintf("%s has %d MiB of memory; this installation gives %d", s.Name, g.MemoryMiB, c.MemoryMiB))
		g.MemoryMiB = c.MemoryMiB
	}
	return g
}
