package dcap

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
)

// Appraise judges the platform that made a quote by Intel's collateral. The steps: the collateral ends at the root that the
// quote ends at (refuse/chain); all of it is in force (unavailable); it is about this platform (refuse/binding); nothing of
// quote and collateral is revoked (refuse/revoked); it is not older than the floor (refuse/tcb); the quoting enclave is
// the one that it names (refuse/chain). Then a TCB level is found for platform, TDX module and quoting enclave: no
// level is refuse/tcb, and a revoked one refuse/revoked. Every other status is a result for the caller to judge.
//
// TeeTCBSVN is TEE_TCB_SVN of a TD's quote; it is not looked at for SGX. The TDX module's signer and attributes are in the
// quote's body: the caller matches them with TCBResult.Module.
func (v *Verified) Appraise(c *Collateral, tee TEE, teeTCBSVN [16]byte, o Options) (*TCBResult, error) {
	switch {
	case !v.valid():
		return nil, refuseChain("quote", "one that nobody verified", "one that Verify made")
	case !c.valid():
		return nil, evidence.Refuse(evidence.CodeUnavailable, "collateral", "none", "Intel's collateral of the platform")
	case o.At.IsZero():
		return nil, evidence.Refuse(evidence.CodeUnavailable, "time", "none", "the time to judge collateral at")
	}
	if err := c.authenticate(v.under); err != nil {
		return nil, fmt.Errorf("authenticating the collateral: %w", err)
	}
	if !bytes.Equal(c.tcbSigner.root.RawSubjectPublicKeyInfo, v.chain.root.RawSubjectPublicKeyInfo) {
		return nil, refuseChain("root of the collateral", "another than the quote's", "the root that the quote ends at")
	}
	if err := c.current(o.At); err != nil {
		return nil, err
	}
	if err := c.about(v.chain, tee); err != nil {
		return nil, err
	}
	if err := c.checkRevocation(v.chain); err != nil {
		return nil, err
	}
	if err := o.Floor.met(c.Floor()); err != nil {
		return nil, err
	}
	if err := c.qe.match(v.qe); err != nil {
		return nil, err
	}
	return c.grade(v, teeTCBSVN)
}

// about checks that the collateral is of this kind of quote, and of this platform.
func (c *Collateral) about(chain *pckChain, tee TEE) error {
	bound := func(field, got, want string) error {
		return evidence.Refuse(evidence.CodeBinding, field, got, want)
	}
	p := &chain.pck
	switch {
	case tee != SGX && tee != TDX:
		return evidence.Refuse(evidence.CodeUnsupported, "TEE", fmt.Sprintf("0x%x", uint32(tee)), "SGX or TDX")
	case c.tcb.tee != tee:
		return bound("id of the TCB info", c.tcb.tee.String(), tee.String())
	case c.qe.tee != tee:
		return bound("id of the QE identity", c.qe.tee.String(), tee.String())
	case c.tcb.fmspc != p.FMSPC:
		return bound("FMSPC of the TCB info", hex.EncodeToString(c.tcb.fmspc[:]), hex.EncodeToString(p.FMSPC[:])+", as the PCK certificate says")
	case c.tcb.pceid != p.PCEID:
		return bound("PCE id of the TCB info", hex.EncodeToString(c.tcb.pceid[:]), hex.EncodeToString(p.PCEID[:])+", as the PCK certificate says")
	case !bytes.Equal(c.pckCA.cert.RawSubject, chain.ca.RawSubject) || !bytes.Equal(c.pckCA.cert.RawSubjectPublicKeyInfo, chain.ca.RawSubjectPublicKeyInfo):
		return bound("issuer of the PCK CRL", c.pckCA.cert.Subject.CommonName, chain.ca.Subject.CommonName+" with the key that issued the PCK certificate")
	}
	return nil
}

// checkRevocation looks up the certificates of quote and collateral.
func (c *Collateral) checkRevocation(chain *pckChain) error {
	if err := c.pckCRL.check("PCK certificate", chain.leaf); err != nil {
		return err
	}
	if err := c.rootCRL.check("PCK CA", chain.ca); err != nil {
		return err
	}
	for _, i := range c.issuers() {
		if err := c.rootCRL.check(i.name, i.cert); err != nil {
			return err
		}
	}
	return nil
}

// grade finds the levels and unites them.
func (c *Collateral) grade(v *Verified, teeTCBSVN [16]byte) (*TCBResult, error) {
	qe, err := matchSVN("QE", c.qe.levels, v.qe.ISVSVN)
	if err != nil {
		return nil, err
	}
	i, err := c.tcb.match(&v.chain.pck, teeTCBSVN)
	if err != nil {
		return nil, err
	}
	platform := c.tcb.levels[i].graded
	r := &TCBResult{PlatformStatus: platform.status, QEStatus: qe.status, MatchedLevel: i, EvaluationNumber: min(c.tcb.evaluation, c.qe.evaluation)}
	matched := []graded{platform, qe}
	if c.tcb.tee == TDX {
		version := teeTCBSVN[1]
		m, ok := c.ModuleIdentity(version)
		if !ok {
			return nil, evidence.Refuse(evidence.CodeTCB, "TDX module", fmt.Sprintf("major version %d", version), "a version that Intel lists")
		}
		r.Module = m
		if version > 0 {
			level, err := matchSVN("TDX module", m.levels, uint16(teeTCBSVN[0]))
			if err != nil {
				return nil, err
			}
			r.ModuleStatus = level.status
			matched = append(matched, level)
		}
	}
	r.Status, r.TCBDate = UpToDate, platform.date
	for _, g := range matched {
		r.Status, r.TCBDate = r.Status.Worse(g.status), earlier(r.TCBDate, g.date)
		r.Advisories = append(r.Advisories, g.advisories...)
	}
	slices.Sort(r.Advisories)
	r.Advisories = slices.Compact(r.Advisories)
	if r.Status == Revoked {
		return nil, evidence.Refuse(evidence.CodeRevoked, "TCB status", fmt.Sprintf("platform %s, QE %s, TDX module %q", r.PlatformStatus, r.QEStatus, r.ModuleStatus), "none that is revoked")
	}
	return r, nil
}
