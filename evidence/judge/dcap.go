package judge

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence/dcap"
)

const (
	checkCollateral = "collateral"
	nameTCBStatus   = "tcb-status"
)

// goodStatus are the statuses of Intel's that are accepted where the relying party names none: a platform that is up to
// date, also where Intel advises that software be hardened. What needs another configuration or an update is refused.
var goodStatus = []dcap.Status{dcap.UpToDate, dcap.SWHardeningNeeded}

// collateral finds and reads Intel's collateral for a platform. The certificates of the quote help to find it; they count
// for nothing by themselves.
func (h *hearing) collateral(pck *dcap.PCK, chainPEM []byte, tee dcap.TEE) (*dcap.Collateral, error) {
	if err := h.set.Add("PCK certificate chain of the quote", bytes.TrimRight(chainPEM, "\x00")); err != nil {
		return nil, err
	}
	files, err := h.set.DCAP(pck, tee)
	if err != nil {
		return nil, err
	}
	return dcap.ParseCollateral(files)
}

// failedCollateral notes what collateral says against a platform, or what is wrong with the collateral.
func (h *hearing) failedCollateral(err error) {
	name := named(checkCollateral, err)
	h.failed(name, ruleAuthentic, err)
	if name == nameTCBStatus {
		h.silent[name] = true // no second check need say that there is no status
	}
}

func (h *hearing) tellPCK(p *dcap.PCK) {
	h.claims["fmspc"] = hex.EncodeToString(p.FMSPC[:])
	h.claims["pce-id"] = hex.EncodeToString(p.PCEID[:])
	h.claims["ppid"] = hex.EncodeToString(p.PPID[:])
	h.claims["pck-ca"] = p.CA
	h.claims["pck-pce-svn"] = p.PCESVN
	h.claims["pck-cpu-svn"] = hex.EncodeToString(p.CPUSVN[:])
}

func (h *hearing) tellQE(r *dcap.QEReport) {
	h.claims["qe-mrenclave"] = hex.EncodeToString(r.MREnclave[:])
	h.claims["qe-mrsigner"] = hex.EncodeToString(r.MRSigner[:])
	h.claims["qe-isv-prod-id"] = r.ISVProdID
	h.claims["qe-isv-svn"] = r.ISVSVN
}

func (h *hearing) tellTCB(r *dcap.TCBResult) {
	h.claims[nameTCBStatus] = string(r.Status)
	h.claims["platform-tcb-status"] = string(r.PlatformStatus)
	h.claims["qe-tcb-status"] = string(r.QEStatus)
	if r.ModuleStatus != "" {
		h.claims["module-tcb-status"] = string(r.ModuleStatus)
	}
	h.claims["advisories"] = append([]string{}, r.Advisories...)
	h.claims["tcb-date"] = r.TCBDate.UTC().Format(time.RFC3339)
	h.claims["tcb-evaluation"] = r.EvaluationNumber
}

func readStatus(v any) (dcap.Status, error) {
	s, err := readText(v)
	if err != nil {
		return "", err
	}
	status, err := dcap.ParseStatus(s)
	if err != nil || status == dcap.Revoked {
		return "", fmt.Errorf("%.64q: want a TCB status of Intel's other than Revoked", s)
	}
	return status, nil
}
