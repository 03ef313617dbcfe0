package claims

import (
	"encoding/binary"
	"encoding/hex"
)

// TDX is what a token says of a TD, from its quote.
type TDX struct {
	TEETCBSVN                                     [16]byte
	MRSeam, MRSignerSeam                          [48]byte
	SeamAttributes                                [8]byte
	Attributes, XFAM                              uint64
	MRTD, MRConfigID, MROwner, MROwnerConfig      [48]byte
	RTMR                                          [4][48]byte
	ReportData                                    [64]byte
	Debug, SEPTVEDisable, PKS, KeyLocker, Perfmon bool
	Migratable                                    bool
	// MRServiceTD measures a service TD that is bound to it; nil: TDX 1.0, which has none.
	MRServiceTD *[48]byte
	// TCB is what Intel's collateral says of the platform; nil: nobody was asked, and a token says nothing.
	TCB *TCB
}

// TCB is the result of Intel's algorithm.
type TCB struct {
	Status           string   // Intel's words: "UpToDate", "OutOfDate", …
	Advisories       []string // that the platform is open to, such as "INTEL-SA-00837"
	EvaluationNumber uint32   // of the TCB information it was judged by
}

// What our tokens say beside Azure's claims of a TD.
const (
	tcbAdvisories = "x-cloister-tcb-advisories"
	tcbEvaluation = "x-cloister-tcb-evaluation-number"
	migratable    = "x-cloister-tdx-migratable"
	serviceTD     = "x-cloister-tdx-mrservicetd"
)

// Claims are the members of a token: lower-case hexadecimal digits in the order of the quote's bytes, integers,
// booleans.
func (d TDX) Claims() map[string]any {
	state := map[bool]string{false: "disabled", true: "enabled"}
	le := func(v uint64) string { return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, v)) }
	out := map[string]any{
		"x-ms-attestation-type":             "tdxvm",
		"dbgstat":                           state[d.Debug],
		"eat_profile":                       "https://aka.ms/maa-eat-profile-tdxvm",
		"intuse":                            "generic",
		"tdx_mrconfigid":                    hex.EncodeToString(d.MRConfigID[:]),
		"tdx_mrowner":                       hex.EncodeToString(d.MROwner[:]),
		"tdx_mrownerconfig":                 hex.EncodeToString(d.MROwnerConfig[:]),
		"tdx_mrseam":                        hex.EncodeToString(d.MRSeam[:]),
		"tdx_mrsignerseam":                  hex.EncodeToString(d.MRSignerSeam[:]),
		"tdx_mrtd":                          hex.EncodeToString(d.MRTD[:]),
		"tdx_rtmr0":                         hex.EncodeToString(d.RTMR[0][:]),
		"tdx_rtmr1":                         hex.EncodeToString(d.RTMR[1][:]),
		"tdx_rtmr2":                         hex.EncodeToString(d.RTMR[2][:]),
		"tdx_rtmr3":                         hex.EncodeToString(d.RTMR[3][:]),
		"tdx_report_data":                   hex.EncodeToString(d.ReportData[:]),
		"tdx_seam_attributes":               hex.EncodeToString(d.SeamAttributes[:]),
		"tdx_seamsvn":                       int64(binary.LittleEndian.Uint16(d.TEETCBSVN[:2])), // SVN and major version of the module
		"tdx_td_attributes":                 le(d.Attributes),
		"tdx_td_attributes_debug":           d.Debug,
		"tdx_td_attributes_key_locker":      d.KeyLocker,
		"tdx_td_attributes_perfmon":         d.Perfmon,
		"tdx_td_attributes_protection_keys": d.PKS,
		"tdx_td_attributes_septve_disable":  d.SEPTVEDisable,
		"tdx_tee_tcb_svn":                   hex.EncodeToString(d.TEETCBSVN[:]),
		"tdx_xfam":                          le(d.XFAM),
		migratable:                          d.Migratable,
	}
	if d.MRServiceTD != nil {
		out[serviceTD] = hex.EncodeToString(d.MRServiceTD[:])
	}
	if d.TCB != nil {
		advisories := make([]any, len(d.TCB.Advisories))
		for i, a := range d.TCB.Advisories {
			advisories[i] = a
		}
		out["attester_tcb_status"], out[tcbAdvisories], out[tcbEvaluation] = d.TCB.Status, advisories, int64(d.TCB.EvaluationNumber)
	}
	return out
}
