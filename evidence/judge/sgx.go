package judge

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

// Layout of an SGX quote of version 3: header, report body, size of the signature section (u32, little-endian), section.
const sgxSigned = 48 + dcap.QEReportSize

// sgxPart is an SGX quote whose signature ends at a root that was named.
type sgxPart struct {
	body *dcap.QEReport
	tcb  *dcap.TCBResult // nil where there was no collateral
}

func (h *hearing) sgxBody() (*dcap.QEReport, error) {
	return dcap.ParseQEReport(h.Evidence.SGXQuote[48:sgxSigned])
}

func (h *hearing) tellSGX() {
	if h.Evidence.SGXQuote == nil {
		return
	}
	b, err := h.sgxBody()
	if err != nil {
		h.failed(checkHardware, "bytes", err)
		return
	}
	h.claims["quote-version"] = binary.LittleEndian.Uint16(h.Evidence.SGXQuote)
	h.claims["mrenclave"] = hex.EncodeToString(b.MREnclave[:])
	h.claims["mrsigner"] = hex.EncodeToString(b.MRSigner[:])
	h.claims["isv-prod-id"] = b.ISVProdID
	h.claims["isv-svn"] = b.ISVSVN
	h.claims["sgx-attributes"] = hex.EncodeToString(b.Attributes[:])
	h.claims["sgx-debug"] = b.Debug()
	h.claims["sgx-cpu-svn"] = hex.EncodeToString(b.CPUSVN[:])
	h.claims[nameReportData] = hex.EncodeToString(b.ReportData[:])
}

func (h *hearing) hearSGX() {
	raw := h.Evidence.SGXQuote
	if !h.Roots.Intel {
		h.failed(checkHardware, ruleAuthentic, evidence.Refuse(evidence.CodeChain, "root", "an SGX quote", "a root that was named: "+rootNames(h.Roots)))
		return
	}
	size := binary.LittleEndian.Uint32(raw[sgxSigned:]) // the envelope has seen that it is inside
	end := sgxSigned + 4 + int(size)
	for _, b := range raw[end:] {
		if b != 0 {
			h.failed(checkHardware, "bytes", evidence.Refuse(evidence.CodeParse, "SGX quote", fmt.Sprintf("%d bytes behind it", len(raw)-end), "nothing, or zeros"))
			return
		}
	}
	section, err := dcap.ParseSignatureData(3, raw[sgxSigned+4:end])
	if err != nil {
		h.failed(checkHardware, "bytes", err)
		return
	}
	o := dcap.Options{At: h.At}
	verify := dcap.Verify
	if under := h.Roots.dcap; under != nil {
		verify = func(signed []byte, s *dcap.SignatureData, o dcap.Options) (*dcap.Verified, error) {
			return dcap.VerifyUnder(signed, s, *under, o)
		}
	}
	verified, err := verify(raw[:sgxSigned], section, o)
	if err != nil {
		h.failed(checkHardware, ruleAuthentic, err)
		return
	}
	body, err := h.sgxBody()
	if err != nil {
		h.failed(checkHardware, "bytes", err)
		return
	}
	h.sgx, h.root = &sgxPart{body: body}, verified.Root()
	h.tellPCK(verified.PCK())
	h.tellQE(verified.QEReport())
	h.met(checkHardware, "signed, chain ends at the "+string(h.root)+" root", "a root that was named", ruleAuthentic)
	c, err := h.collateral(verified.PCK(), section.PCKChainPEM, dcap.SGX)
	if err == nil {
		h.sgx.tcb, err = verified.Appraise(c, dcap.SGX, [16]byte{}, o)
	}
	if err != nil {
		h.failedCollateral(err)
		return
	}
	h.met(checkCollateral, "authentic and in force", "Intel's collateral for the platform", ruleAuthentic)
	h.tellTCB(h.sgx.tcb)
}

// sgxWants are the expectations of an enclave.
type sgxWants struct {
	mrEnclave, mrSigner evidence.Expectation[[32]byte]
	prodID, svn         evidence.Expectation[uint32]
	reportData          evidence.Expectation[[64]byte]
	debug               evidence.Expectation[bool]
	status              evidence.Expectation[dcap.Status]
}

func baselineSGX() sgxWants {
	return sgxWants{mrSigner: evidence.Any[[32]byte](), prodID: evidence.Any[uint32](), svn: evidence.Any[uint32](),
		debug: evidence.Exactly(false), status: evidence.OneOf(goodStatus...)}
}

func atLeast32(got, floor uint32) bool { return got >= floor }

var sgxFields = []field{
	of("mrenclave", inSGX, must, func(w *wants) *evidence.Expectation[[32]byte] { return &w.sgx.mrEnclave }, notZero(read32), nil),
	of(nameReportData, inSGX, must, func(w *wants) *evidence.Expectation[[64]byte] { return &w.sgx.reportData }, read64, nil),
	of("mrsigner", inSGX, free, func(w *wants) *evidence.Expectation[[32]byte] { return &w.sgx.mrSigner }, notZero(read32), nil),
	of("isv-prod-id", inSGX, free, func(w *wants) *evidence.Expectation[uint32] { return &w.sgx.prodID }, read32bits, nil),
	of("isv-svn", inSGX, free, func(w *wants) *evidence.Expectation[uint32] { return &w.sgx.svn }, read32bits, atLeast32),
	bits("sgx-debug", inSGX, safe, func(w *wants) *evidence.Expectation[bool] { return &w.sgx.debug }),
	of(nameTCBStatus, inSGX, safe, func(w *wants) *evidence.Expectation[dcap.Status] { return &w.sgx.status }, readStatus, nil),
}

func (h *hearing) appraiseSGX(e Expect, w *wants) {
	if h.sgx == nil {
		return
	}
	const rule = "SGX quote"
	b := h.sgx.body
	h.checks = append(h.checks, h.wantedRoot(e).Check("root", rule, h.root))
	h.add(evidence.Appraisal{Checks: []evidence.Check{
		w.sgx.mrEnclave.Check("mrenclave", rule, b.MREnclave),
		w.sgx.mrSigner.Check("mrsigner", rule, b.MRSigner),
		w.sgx.prodID.Check("isv-prod-id", rule, uint32(b.ISVProdID)),
		w.sgx.svn.Check("isv-svn", rule, uint32(b.ISVSVN)),
		w.sgx.reportData.Check(nameReportData, rule, b.ReportData),
		w.sgx.debug.Check("sgx-debug", rule, b.Debug()),
	}})
	status := evidence.Check{Claim: nameTCBStatus, Got: "not known: no collateral", Want: w.sgx.status.String(), Result: evidence.NotHad, Rule: "Intel's collateral"}
	if h.sgx.tcb != nil {
		status = w.sgx.status.Check(nameTCBStatus, "Intel's collateral", h.sgx.tcb.Status)
	}
	h.add(evidence.Appraisal{Checks: []evidence.Check{status}})
}
