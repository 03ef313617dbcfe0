package vtpm

import (
	"bytes"
	"fmt"
)

// Event types of the TCG PC Client Platform Firmware Profile.
const (
	evPostCode   = 1
	evNoAction   = 3
	evSeparator  = 4
	evOSAction   = 5
	evEventTag   = 6
	evCRTMText   = 7
	evCRTM       = 8
	evCPUCode    = 9
	evConfig     = 0xa
	evTable      = 0xb
	evCompact    = 0xc
	evIPL        = 0xd
	evIPLData    = 0xe
	evHostCode   = 0xf
	evHostConfig = 0x10
	evHostInfo   = 0x11
	evOmitBoot   = 0x12

	evVariable    = 0x80000001
	evBootVar     = 0x80000002
	evApplication = 0x80000003
	evDriver      = 0x80000004
	evRuntime     = 0x80000005
	evGPT         = 0x80000006
	evAction      = 0x80000007
	evBlob        = 0x80000008
	evTables      = 0x80000009
	evBlob2       = 0x8000000a
	evTables2     = 0x8000000b
	evBootVar2    = 0x8000000c
	evGPT2        = 0x8000000d
	evHCRTM       = 0x80000010
	evAuthority   = 0x800000e0
	evSPDMBlob    = 0x800000e1
	evSPDMConfig  = 0x800000e2
	evSPDMPolicy  = 0x800000e3
	evSPDMAuth    = 0x800000e4
)

// Rules says which logs Check takes. A replay that fits a quote proves the digests and their order, but neither the types
// of events nor, for many types, their data. The zero value refuses every log.
type Rules struct{ name string }

// The rules. Both demand of PCR 0 to 7: one separator in each, whose data are 00000000; data that hash to their digest
// for separators, Secure Boot variables, partition tables and actions; no event type that the profile does not
// name; and in PCR 7 nothing but authorities after the separator.
// If boot services were left, then by a call that succeeded, last.
var (
	// Strict is what our own images and firmware do: each PCR has its own short list of types, Secure Boot is the first
	// event in PCR 7, which holds no action (such as a debugger, or memory without DMA protection) and no authority
	// before its separator, and boot services were left.
	Strict = Rules{"strict"}
	// Profile is what the firmware profile lets any vendor do: whatever type of the profile in PCR 0 to 6, and logs that
	// end before boot services are left, as older kernels cut them.
	Profile = Rules{"profile"}
)

func (r Rules) String() string { return r.name }

// Check applies the rules for PCR 0 to 7 that a replay cannot; see Rules.
func (l *Log) Check(r Rules) error {
	if r != Strict && r != Profile {
		return badLog("rules", "none", "Strict or Profile")
	}
	separators, exits := map[int]int{}, []string(nil)
	first := true
	for i, e := range l.Events {
		if e.PCR > 7 || e.Type == evNoAction {
			continue
		}
		if !r.allow(e.PCR, e.Type) {
			return badLog("type", fmt.Sprintf("%#x in PCR %d, event %d", e.Type, e.PCR, i), "a type known there")
		}
		if dataCovered(e.PCR, e.Type) && !l.hashes(e) {
			return badLog("data", fmt.Sprintf("event %d, PCR %d", i, e.PCR), "data that hash to the digest")
		}
		if e.PCR == 7 {
			if r == Strict && first && e.Type != evVariable {
				return badLog("order", fmt.Sprintf("%#x", e.Type), "the SecureBoot variable first in PCR 7")
			}
			first = false
			if !r.inOrder(e.Type, separators[7] > 0) {
				return badLog("order", fmt.Sprintf("%#x in PCR 7, event %d", e.Type, i), "variables before the separator, authorities only after it")
			}
		}
		if e.Type == evSeparator {
			if !bytes.Equal(e.Data, make([]byte, 4)) {
				return badLog("separator", fmt.Sprintf("%.64x", e.Data), "00000000")
			}
			separators[e.PCR]++
		}
		if what, ok := bytes.CutPrefix(e.Data, []byte("Exit Boot Services ")); ok && e.PCR == 5 && e.Type == evAction {
			exits = append(exits, string(what))
		}
	}
	for _, p := range Firmware {
		if separators[p] != 1 {
			return badLog("separator", fmt.Sprintf("%d in PCR %d", separators[p], p), "exactly one")
		}
	}
	if len(exits) == 0 && r == Profile {
		return nil
	}
	return checkExit(exits)
}

// hashes tells whether the data are what every bank's digest is of.
func (l *Log) hashes(e LogEvent) bool {
	for _, b := range l.Banks {
		h := bankHash[b].New()
		h.Write(e.Data)
		if !bytes.Equal(h.Sum(nil), e.Digests[b]) {
			return false
		}
	}
	return true
}

// dataCovered names the types whose digest is of their data, in every log that was looked at.
func dataCovered(pcr int, t uint32) bool {
	switch t {
	case evSeparator, evGPT, evAction:
		return true
	case evVariable:
		return pcr == 7
	}
	return false
}

// inOrder tells whether a type may stand before or after the separator of PCR 7. Firmware that verifies drivers before it
// leaves the separator logs their authorities there.
func (r Rules) inOrder(t uint32, after bool) bool {
	switch {
	case t == evSeparator:
		return true
	case after:
		return t == evAuthority
	case t == evAuthority:
		return r == Profile
	}
	return true
}

// checkExit wants boot services to have been left, once: an operating system may fail to at first, and try again.
func checkExit(exits []string) error {
	const call, success, failure = "Invocation", "Returned with Success", "Returned with Failure"
	n := len(exits)
	if n < 2 || exits[n-2] != call || exits[n-1] != success {
		return badLog("exitBootServices", fmt.Sprintf("%.200q", exits), "a call that succeeded, last")
	}
	for _, what := range exits[:n-2] {
		if what != call && what != failure {
			return badLog("exitBootServices", fmt.Sprintf("%.40q", what), "only failed calls before the one that succeeded")
		}
	}
	return nil
}

// allow tells whether a type may stand in a PCR.
func (r Rules) allow(pcr int, t uint32) bool {
	switch {
	case t == evSeparator:
		return true
	case pcr == 7:
		return t == evVariable || t == evAuthority || r == Profile && (t == evAction || t == evSPDMPolicy || t == evSPDMAuth)
	case r == Profile:
		return named(t)
	}
	switch t {
	case evAction:
		return true
	case evVariable:
		return pcr == 1
	case evApplication:
		return pcr == 4 || pcr == 0 || pcr == 2
	case evDriver, evRuntime:
		return pcr == 0 || pcr == 2
	case evGPT:
		return pcr == 5
	case evCRTM:
		return pcr == 0
	case evPostCode, evCRTMText, evBlob, evBlob2, evHostInfo:
		return pcr == 0 || pcr == 2
	case evConfig, evCPUCode, evBootVar, evTables, evTables2, evHCRTM:
		return pcr == 1 || pcr == 3
	case evOSAction, evIPL:
		return pcr == 4 || pcr == 5
	}
	return false
}

// named tells whether the profile names a type. EV_PREBOOT_CERT (0) and EV_UNUSED (2) say nothing, and hide anything.
func named(t uint32) bool {
	switch t {
	case evPostCode, evOSAction, evEventTag, evCRTMText, evCRTM, evCPUCode, evConfig, evTable, evCompact, evIPL, evIPLData,
		evHostCode, evHostConfig, evHostInfo, evOmitBoot,
		evVariable, evBootVar, evApplication, evDriver, evRuntime, evGPT, evAction, evBlob, evTables, evBlob2, evTables2, evBootVar2, evGPT2, evHCRTM,
		evAuthority, evSPDMBlob, evSPDMConfig, evSPDMPolicy, evSPDMAuth:
		return true
	}
	return false
}
