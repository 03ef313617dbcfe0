package judge

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// Names of checks of authenticity, and the rules that they go by.
const (
	checkHardware   = "hardware-report"
	checkRevocation = "revocation"
	checkChain      = "certificate-chain"
	checkBinding    = "runtime-claims"
	checkAK         = "attestation-key"
	checkQuote      = "quote"
	checkPCRs       = "quote-pcrs"
	checkEventLog   = "event-log"
	checkUserData   = "ssh-host-key"

	ruleAuthentic = "authenticity"
	ruleBinding   = "binding"
)

// snpPart is an SNP report whose signature ends at a root that was named.
type snpPart struct{ genuine *sevsnp.Authentic }

// hardware shows that the hardware report is genuine, and about the runtime claims where there are some.
func (h *hearing) hardware() {
	ev := h.Evidence
	switch {
	case ev.SNP != nil:
		h.hearSNP()
	case ev.TDQuote != nil:
		h.hearTDX()
	case ev.SGXQuote != nil:
		h.hearSGX()
	case ev.TDReport != nil:
		h.lacking(checkHardware, ruleAuthentic, "a TDREPORT, whose MAC proves nothing on another machine", "a TD quote made of it")
	}
	if ev.HCL == nil {
		return
	}
	if err := ev.HCL.CheckBinding(); err != nil {
		h.failed(checkBinding, ruleBinding, err)
		return
	}
	if ev.TDQuote != nil && !h.sameTD() {
		return
	}
	h.bound = true
	h.met(checkBinding, "their SHA-256 is in the hardware report", "the claims that the hardware report is about", ruleBinding)
}

func (h *hearing) hearSNP() {
	chain, err := h.set.SNPChain(h.Evidence.SNP)
	if forged, ok := h.offered(); err != nil && ok {
		chain, err = forged, nil
	}
	if err != nil {
		h.failed(checkChain, ruleAuthentic, err)
		return
	}
	genuine, err := h.authenticateSNP(chain)
	if err != nil {
		h.failed(named(checkHardware, err), ruleAuthentic, err)
		return
	}
	h.snp, h.root = &snpPart{genuine}, genuine.Root()
	h.claims["product"] = genuine.Product()
	if csp := genuine.CSP(); csp != "" {
		h.claims["csp-id"] = csp
	}
	h.claims["revocation-checked"] = genuine.RevocationChecked()
	h.met(checkHardware, "signed, chain ends at the "+string(genuine.Root())+" root", "a root that was named", ruleAuthentic)
}

// authenticateSNP tries each kind of root that was named. Of two refusals, the one counts that is about the chain's own root.
func (h *hearing) authenticateSNP(c sevsnp.Chain) (*sevsnp.Authentic, error) {
	var errs []error
	try := func(own bool, a *sevsnp.Authentic, err error) *sevsnp.Authentic {
		switch {
		case err == nil:
			return a
		case own:
			errs = append([]error{err}, errs...)
		default:
			errs = append(errs, err)
		}
		return nil
	}
	software := c.Root != nil && c.Root.Subject.CommonName == soft.RootName
	if h.Roots.AMD {
		a, err := sevsnp.Authenticate(h.Evidence.SNP, c, sevsnp.Options{At: h.At, CRLs: h.set.SNPCRLs()})
		if a = try(!software, a, err); a != nil {
			return a, nil
		}
	}
	if len(h.Roots.Software) > 0 {
		a, err := soft.Authenticate(h.Evidence.SNP, c, h.Roots.Software, h.At)
		if a = try(software, a, err); a != nil {
			return a, nil
		}
	}
	if len(errs) == 0 {
		return nil, evidence.Refuse(evidence.CodeChain, "root", "an SNP report", "a root that was named: "+rootNames(h.Roots))
	}
	return nil, errors.Join(errs...)
}

func rootNames(r Roots) string {
	out := ""
	for _, n := range r.names() {
		if out != "" {
			out += ", "
		}
		out += string(n)
	}
	return out
}

// offered is the chain of a certificate that was offered as the report's and is of no use as that: the only one that is no
// authority, with whoever it names as its issuer. It is tried so that a forged certificate is refused rather than
// called missing; package sevsnp judges it as any other.
func (h *hearing) offered() (sevsnp.Chain, bool) {
	var c sevsnp.Chain
	var all []*x509.Certificate
	for _, i := range h.set.Items() {
		if i.Certificate == nil {
			continue
		}
		all = append(all, i.Certificate)
		// AMD's intermediates, and those in their form, are named so; other vendors' certificates are not meant for this.
		if !i.Certificate.IsCA && strings.HasPrefix(i.Certificate.Issuer.CommonName, "SEV-") {
			if c.Leaf != nil {
				return c, false
			}
			c.Leaf = i.Certificate
		}
	}
	if c.Leaf == nil {
		return c, false
	}
	for _, x := range all {
		if bytes.Equal(x.RawSubject, c.Leaf.RawIssuer) {
			c.Intermediate = x
		}
	}
	if c.Intermediate == nil {
		return c, false
	}
	for _, x := range all {
		if bytes.Equal(x.RawSubject, c.Intermediate.RawIssuer) {
			c.Root = x
		}
	}
	return c, c.Root != nil
}
