package judge

import "cloister.dev/cloister/evidence"

type (
	tdxPart  struct{}
	tdxWants struct{}
)

var tdxFields []field

// Quotes of Intel's TEEs are recognised, and not judged yet.
func (h *hearing) hearTDX() {
	h.failed(checkHardware, ruleAuthentic, evidence.Refuse(evidence.CodeUnsupported, "", "a TD quote", "an SNP report or an SGX quote"))
}

func (h *hearing) sameTD() bool               { return false }
func (h *hearing) tellTDX()                   {}
func (h *hearing) baselineTDX(Expect, *wants) {}
func (h *hearing) appraiseTDX(Expect, *wants) {}
