package judge

import (
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/tdx"
)

// tdxPart is a TD quote whose signature ends at a root that was named, with what collateral says where there was some.
type tdxPart struct{ genuine *tdx.Authentic }

func (h *hearing) tellTDX() {
	switch ev := h.Evidence; {
	case ev.TDQuote != nil:
		h.claims["quote-version"] = ev.TDQuote.Version
		h.claims["quote-padding"] = ev.TDQuote.Padding
		h.claims["qe-vendor-id"] = hex.EncodeToString(ev.TDQuote.QEVendorID[:])
		h.tellTD(&ev.TDQuote.Body)
	case ev.TDReport != nil:
		h.tellTD(&ev.TDReport.Body)
	}
}

func (h *hearing) tellTD(b *tdx.Body) {
	bytes := func(name string, v []byte) { h.claims[name] = hex.EncodeToString(v) }
	bytes("mrtd", b.MRTD[:])
	for n, v := range b.RTMR {
		bytes(fmt.Sprintf("rtmr%d", n), v[:])
	}
	bytes(nameReportData, b.ReportData[:])
	bytes("mrconfigid", b.MRConfigID[:])
	bytes("mrowner", b.MROwner[:])
	bytes("mrownerconfig", b.MROwnerConfig[:])
	bytes("mrseam", b.MRSeam[:])
	bytes("mrsignerseam", b.MRSignerSeam[:])
	bytes("seam-attributes", b.SeamAttributes[:])
	bytes("tee-tcb-svn", b.TEETCBSVN[:])
	if b.TEETCBSVN2 != nil && b.MRServiceTD != nil {
		bytes("tee-tcb-svn2", b.TEETCBSVN2[:])
		bytes("mrservicetd", b.MRServiceTD[:])
	}
	a := b.TDAttributes
	h.claims["td-attributes"] = fmt.Sprintf("0x%x", uint64(a))
	for name, on := range map[string]bool{"debug": a.Untrusted(), "migratable": a.Has(tdx.Migratable), "sept-ve-disable": a.Has(tdx.SEPTVEDisable),
		"pks": a.Has(tdx.PKS), "key-locker": a.Has(tdx.KeyLocker), "perfmon": a.Has(tdx.Perfmon)} {
		h.claims["td-"+name] = on
	}
	h.claims["td-reserved-attributes"] = fmt.Sprintf("0x%x", uint64(a.Reserved()))
	h.claims["xfam"] = fmt.Sprintf("0x%x", b.XFAM)
}

func (h *hearing) hearTDX() {
	q, o := h.Evidence.TDQuote, dcap.Options{At: h.At}
	genuine, err := h.authenticateTDX(q, o)
	if err != nil {
		h.failed(checkHardware, ruleAuthentic, err)
		return
	}
	h.tdx, h.root = &tdxPart{genuine}, genuine.Root()
	h.tellPCK(genuine.PCK())
	h.tellQE(genuine.QEReport())
	h.met(checkHardware, "signed, chain ends at the "+string(h.root)+" root", "a root that was named", ruleAuthentic)
	c, err := h.collateral(genuine.PCK(), q.SignatureData().PCKChainPEM, dcap.TDX)
	if err == nil {
		genuine, err = genuine.WithCollateral(c, o)
	}
	if err != nil {
		h.failedCollateral(err)
		return
	}
	h.tdx.genuine = genuine
	h.met(checkCollateral, "authentic and in force", "Intel's collateral for the platform", ruleAuthentic)
	h.tellTCB(genuine.TCB())
}

func (h *hearing) authenticateTDX(q *tdx.Quote, o dcap.Options) (*tdx.Authentic, error) {
	if !h.Roots.Intel {
		return nil, evidence.Refuse(evidence.CodeChain, "root", "a TD quote", "a root that was named: "+rootNames(h.Roots))
	}
	if h.Roots.dcap != nil {
		return tdx.AuthenticateUnder(q, *h.Roots.dcap, o)
	}
	return tdx.Authenticate(q, o)
}

// sameTD shows that the quote was made of the TDREPORT inside the HCL report.
func (h *hearing) sameTD() bool {
	if err := h.Evidence.TDReport.QuotedBy(h.Evidence.TDQuote); err != nil {
		h.failed(checkBinding, ruleBinding, err)
		return false
	}
	return true
}

func svnAtLeast(got, floor [16]byte) bool {
	return tdx.SVNAtLeast(floor).Check("", "", got).Result == evidence.Met
}

func mr(name string, s standing, at func(*wants) *evidence.Expectation[[48]byte]) field {
	return of(name, inTDX, s, at, read48, nil)
}

var tdxFields = []field{
	of("mrtd", inTDX, must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MRTD }, readMeasurement, nil),
	mr("rtmr0", must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.RTMR[0] }),
	mr("rtmr1", must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.RTMR[1] }),
	mr("rtmr2", must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.RTMR[2] }),
	mr("rtmr3", must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.RTMR[3] }),
	mr("mrconfigid", must, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MRConfigID }),
	of(nameReportData, inTDX, must, func(w *wants) *evidence.Expectation[[64]byte] { return &w.tdx.ReportData }, read64, nil),

	bits("td-debug", inTDX, safe, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.Debug }),
	bits("td-migratable", inTDX, safe, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.Migratable }),
	of("td-reserved-attributes", inTDX, safe, func(w *wants) *evidence.Expectation[uint64] { return &w.tdx.ReservedBits }, readWord, nil),
	mr("mrservicetd", safe, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MRServiceTD }),
	mr("mrsignerseam", safe, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MRSignerSeam }),
	of("seam-attributes", inTDX, safe, func(w *wants) *evidence.Expectation[[8]byte] { return &w.tdx.SeamAttributes }, read8, nil),
	of(nameTCBStatus, inTDX, safe, func(w *wants) *evidence.Expectation[dcap.Status] { return &w.tdx.TCBStatus }, readStatus, nil),

	{name: nameAdvisories, part: inTDX, standing: free, any: func(w *wants) { w.tdx.DeniedAdvisories = []string{} }, set: denyAdvisories},
	of("tcb-evaluation", inTDX, free, func(w *wants) *evidence.Expectation[uint32] { return &w.tdx.EvaluationNumber }, read32bits, atLeast32),
	mr("mrowner", free, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MROwner }),
	mr("mrownerconfig", free, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MROwnerConfig }),
	mr("mrseam", free, func(w *wants) *evidence.Expectation[[48]byte] { return &w.tdx.MRSeam }),
	bits("td-sept-ve-disable", inTDX, free, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.SEPTVEDisable }),
	bits("td-pks", inTDX, free, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.PKS }),
	bits("td-key-locker", inTDX, free, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.KeyLocker }),
	bits("td-perfmon", inTDX, free, func(w *wants) *evidence.Expectation[bool] { return &w.tdx.Perfmon }),
	of("xfam", inTDX, free, func(w *wants) *evidence.Expectation[uint64] { return &w.tdx.XFAM }, readWord, nil),
	of("tee-tcb-svn", inTDX, free, func(w *wants) *evidence.Expectation[[16]byte] { return &w.tdx.TEETCBSVN }, read16, svnAtLeast),
	of("qe-isv-svn", inTDX, free, func(w *wants) *evidence.Expectation[uint16] { return &w.tdx.QESVN }, read16bits, atLeast16),
	of("pck-pce-svn", inTDX, free, func(w *wants) *evidence.Expectation[uint16] { return &w.tdx.PCESVN }, read16bits, atLeast16),
	of("fmspc", inTDX, free, func(w *wants) *evidence.Expectation[[6]byte] { return &w.tdx.FMSPC }, read6, nil),
	of("ppid", inTDX, free, func(w *wants) *evidence.Expectation[[16]byte] { return &w.tdx.PPID }, read16, nil),
}

const nameAdvisories = "advisories"

// denyAdvisories reads {"noneOf": […]}: advisories of Intel's that the platform must not be open to.
func denyAdvisories(w *wants, r rule) error {
	if r.op != opNoneOf || len(r.values) == 0 {
		return mistake(nameAdvisories, r.op, opNoneOf+" with at least one id")
	}
	for _, v := range r.values {
		id, err := readText(v)
		if err != nil {
			return mistake(nameAdvisories, err.Error(), "ids such as INTEL-SA-00837")
		}
		w.tdx.DeniedAdvisories = append(w.tdx.DeniedAdvisories, id)
	}
	return nil
}

// tdxNames are the names of claims that do not follow from those of package tdx by kebab alone.
var tdxNames = map[string]string{
	"RTMR 0": "rtmr0", "RTMR 1": "rtmr1", "RTMR 2": "rtmr2", "RTMR 3": "rtmr3", "TCB evaluation number": "tcb-evaluation", "SVN of the quoting enclave": "qe-isv-svn",
	"PCE SVN": "pck-pce-svn", "reserved attributes": "td-reserved-attributes", "attribute debug": "td-debug", "attribute migratable": "td-migratable",
	"attribute SEPT_VE_DISABLE": "td-sept-ve-disable", "attribute PKS": "td-pks", "attribute key locker": "td-key-locker", "attribute perfmon": "td-perfmon",
}

func (h *hearing) appraiseTDX(w *wants) {
	if h.tdx == nil {
		return
	}
	a := tdx.Appraise(h.tdx.genuine, w.tdx)
	for i, c := range a.Checks {
		if name, ok := tdxNames[c.Claim]; ok {
			a.Checks[i].Claim = name
		}
	}
	h.add(a)
}
