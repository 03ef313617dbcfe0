package tdx

import "strings"

// Attributes are a TD's attributes, a 64-bit number: what its host may do to it, and what it asked for at its birth.
// Source: TDX Module ABI Specification, "ATTRIBUTES".
type Attributes uint64

// The attributes that are known.
const (
	Debug         Attributes = 1 << 0 // the host reads and changes the TD
	HGSPlusProf   Attributes = 1 << 4
	PerfProf      Attributes = 1 << 5
	PMTProf       Attributes = 1 << 6
	ICSSD         Attributes = 1 << 16
	LASS          Attributes = 1 << 27
	SEPTVEDisable Attributes = 1 << 28 // pages that the host takes away are faults of the host's, not of the TD's
	Migratable    Attributes = 1 << 29 // a service TD may move it to another host
	PKS           Attributes = 1 << 30
	KeyLocker     Attributes = 1 << 31
	TPA           Attributes = 1 << 62
	Perfmon       Attributes = 1 << 63
)

// untrusted are the bits of the group TUD: any of them, known or not, means that the host may look into the TD.
const untrusted Attributes = 0xff

var attributeNames = []struct {
	bit  Attributes
	name string
}{{Debug, "debug"}, {HGSPlusProf, "hgs-plus-prof"}, {PerfProf, "perf-prof"}, {PMTProf, "pmt-prof"}, {ICSSD, "icssd"}, {LASS, "lass"}, {SEPTVEDisable, "sept-ve-disable"},
	{Migratable, "migratable"}, {PKS, "pks"}, {KeyLocker, "key-locker"}, {TPA, "tpa"}, {Perfmon, "perfmon"}}

const knownAttributes = Debug | HGSPlusProf | PerfProf | PMTProf | ICSSD | LASS | SEPTVEDisable | Migratable | PKS | KeyLocker | TPA | Perfmon

// Has tells whether a bit is set.
func (a Attributes) Has(bit Attributes) bool { return a&bit != 0 }

// Untrusted tells whether the host may look into the TD: debugging, or profiling of the TD from outside.
func (a Attributes) Untrusted() bool { return a&untrusted != 0 }

// Reserved are the bits that are set and not known here.
func (a Attributes) Reserved() Attributes { return a &^ knownAttributes }

func (a Attributes) String() string {
	var out []string
	for _, n := range attributeNames {
		if a.Has(n.bit) {
			out = append(out, n.name)
		}
	}
	if a.Reserved() != 0 {
		out = append(out, "reserved bits")
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
