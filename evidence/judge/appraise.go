package judge

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/vtpm"
)

const (
	ruleExpected = "what the relying party expects"
	unsaid       = "nothing is expected, so nothing is accepted"
)

// appraise compares every claim with what is expected.
func (h *hearing) appraise(e Expect) {
	if e.Nothing() {
		h.checks = append(h.checks, evidence.Check{Claim: "expectations", Got: "nothing is expected", Want: "an expectation, a policy, or an explicit any", Rule: ruleExpected})
		e.all = true // one check says it; the safe defaults are judged all the same
	}
	if len(e.kinds) > 0 {
		h.checks = append(h.checks, evidence.OneOf(e.kinds...).Check("kind", ruleExpected, h.kind))
	}
	w := h.wants(e)
	h.appraiseSNP(w)
	h.appraiseTDX(w)
	h.appraiseSGX(e, w)
	h.appraiseNonce(e)
	h.appraiseRuntime(w)
	h.appraisePCRs(e, w)
}

// has tells whether the evidence has that part at all.
func (h *hearing) has(p part) bool {
	ev := h.Evidence
	switch p {
	case inSNP:
		return ev.SNP != nil
	case inTDX:
		return ev.TDQuote != nil || ev.TDReport != nil
	case inSGX:
		return ev.SGXQuote != nil
	case inRuntime:
		return ev.HCL != nil
	case inLog:
		return ev.EventLog != nil
	case inPCRs:
		return ev.TPM != nil
	}
	return false
}

// bound tells of claims that something else already settles, so that nobody has to say something of them: the report
// data of a report about runtime claims, and the user data where a nonce or an SSH host key settles freshness.
func (h *hearing) settled(name string) bool {
	ev := h.Evidence
	switch name {
	case nameReportData:
		return ev.HCL != nil
	case nameUserData:
		return ev.TPM != nil
	}
	return false
}

// wants turns what was said into expectations, notes claims that nobody said anything of though they must be, and
// claims that were named and are not in this kind of evidence: what is never compared must not read as held.
func (h *hearing) wants(e Expect) *wants {
	w := &wants{snp: sevsnp.Baseline(), tdx: tdx.Baseline(), sgx: baselineSGX(), userData: evidence.Any[[64]byte](), vmID: evidence.Any[string](), secureBoot: evidence.Any[bool](), vmSecure: evidence.Any[bool]()}
	w.snp.Root = h.wantedRoot(e)
	w.tdx.Root = w.snp.Root
	w.snp.SigningKey = evidence.OneOf(sevsnp.SignedByVCEK, sevsnp.SignedByVLEK)
	if h.snp != nil {
		floor := defaultFloor(h.snp.genuine)
		w.snp.ReportedTCB, w.snp.CommittedTCB, w.snp.LaunchTCB = floor, floor, floor
	}
	here := map[string]bool{}
	for _, f := range fields {
		if !h.has(f.part) {
			continue
		}
		here[f.name] = true
		r, said := e.rules[f.name]
		switch {
		case said:
			if err := f.set(w, r); err != nil {
				h.failed(f.name, ruleExpected, err)
			}
		case f.standing == usual && (e.all || e.anyOf[f.name]):
			f.any(w)
		case f.standing == must:
			f.any(w)
			if !e.waived(f.name) && !h.settled(f.name) {
				h.unsaid(f.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.rules)) {
		if !here[name] {
			h.failed(name, ruleExpected, evidence.Refuse(evidence.CodePolicy, "", "no such claim in this evidence", e.rules[name].String()))
		}
	}
	return w
}

// defaultFloor is the TCB that every platform in service meets. A product without one is refused.
func defaultFloor(a *sevsnp.Authentic) evidence.Expectation[sevsnp.TCB] {
	floor, ok := sevsnp.DefaultFloor(sevsnp.Product(a.Product()))
	if !ok {
		return evidence.OneOf[sevsnp.TCB]()
	}
	return sevsnp.TCBAtLeast(floor)
}

func (r rule) String() string {
	texts := make([]string, len(r.values))
	for i, v := range r.values {
		texts[i] = fmt.Sprint(v)
	}
	return r.op + " " + strings.Join(texts, ", ")
}

func (h *hearing) unsaid(name string) {
	h.silent[name] = true
	got, ok := h.claims[name]
	if !ok {
		got = "a value"
	}
	h.checks = append(h.checks, evidence.Check{Claim: name, Got: fmt.Sprint(got), Want: unsaid, Rule: ruleExpected})
}

// wantedRoot is one of the roots that were named and, where a document lists some, also one of those.
func (h *hearing) wantedRoot(e Expect) evidence.Expectation[evidence.RootKind] {
	named := h.Roots.names()
	if len(e.roots) > 0 {
		named = slices.DeleteFunc(named, func(r evidence.RootKind) bool { return !slices.Contains(e.roots, r) })
	}
	if len(named) == 0 {
		named = e.roots // none that was named: genuine evidence can't end at these
	}
	return evidence.OneOf(named...)
}

func (h *hearing) appraiseSNP(w *wants) {
	if h.snp == nil {
		return
	}
	h.add(sevsnp.Appraise(h.snp.genuine, w.snp))
}

// add takes over the checks of an appraisal, under the names of the claims.
func (h *hearing) add(a evidence.Appraisal) {
	for _, c := range a.Checks {
		c.Claim = kebab(c.Claim)
		if h.silent[c.Claim] && (c.Result == evidence.NotAsked || c.Result == evidence.NotHad) {
			continue // a check that failed says so already
		}
		h.checks = append(h.checks, c)
	}
}

// appraiseNonce judges freshness. A quote of a bundle carries the digest of the challenge; other quotes carry the
// challenge itself.
func (h *hearing) appraiseNonce(e Expect) {
	ev := h.Evidence
	switch {
	case ev.TPM == nil:
		if e.nonce != nil {
			h.failed(nameNonce, ruleExpected, evidence.Refuse(evidence.CodeBinding, "", "no quote that could carry one", hex.EncodeToString(e.nonce)))
		}
	case e.nonce == nil && e.waived(nameNonce):
		h.checks = append(h.checks, evidence.Any[string]().Check(nameNonce, "freshness", hex.EncodeToString(ev.TPM.Quote.ExtraData)))
	case e.nonce == nil:
		h.checks = append(h.checks, evidence.Check{Claim: nameNonce, Got: hex.EncodeToString(ev.TPM.Quote.ExtraData), Want: unsaid, Rule: ruleExpected})
	default:
		if !h.answers(e.nonce) {
			h.checks = append(h.checks, evidence.Check{Claim: nameNonce, Got: h.answered(), Want: hex.EncodeToString(e.nonce), Rule: "freshness"})
			return
		}
		h.met(nameNonce, hex.EncodeToString(e.nonce), hex.EncodeToString(e.nonce), "freshness")
	}
}

// answers tells whether the evidence answers a challenge: the quote carries it, or in a bundle its digest.
func (h *hearing) answers(nonce []byte) bool {
	ev := h.Evidence
	if ev.Form == envelope.FormBundle {
		return subtle.ConstantTimeCompare(ev.Nonce, nonce) == 1 && ev.TPM.Quote.CheckNonce(vtpm.NonceFor(nonce)) == nil
	}
	return ev.TPM.Quote.CheckNonce(nonce) == nil
}

// answered is the challenge that the evidence answers.
func (h *hearing) answered() string {
	ev := h.Evidence
	switch {
	case ev.Form != envelope.FormBundle:
		return hex.EncodeToString(ev.TPM.Quote.ExtraData)
	case ev.TPM.Quote.CheckNonce(vtpm.NonceFor(ev.Nonce)) == nil:
		return hex.EncodeToString(ev.Nonce)
	}
	return "a quote that does not answer the bundle's own nonce"
}

func (h *hearing) appraiseRuntime(w *wants) {
	ev := h.Evidence
	if ev.Runtime != nil && h.bound {
		var data [64]byte
		raw, err := hex.DecodeString(ev.Runtime.UserData)
		switch {
		case len(raw) == len(data) && err == nil:
			copy(data[:], raw)
			h.checks = append(h.checks, w.userData.Check(nameUserData, ruleBinding, data))
		case w.userData.String() != opAny:
			h.failed(nameUserData, ruleBinding, evidence.Refuse(evidence.CodeBinding, "", fmt.Sprintf("%d characters", len(ev.Runtime.UserData)), w.userData.String()))
		}
		h.checks = append(h.checks,
			w.vmID.Check("vm-id", "runtime claims", strings.ToLower(ev.Runtime.VMConfiguration.VMUniqueID)),
			w.vmSecure.Check("vm-secure-boot", "runtime claims", ev.Runtime.VMConfiguration.SecureBoot))
	}
	if on, ok := h.claims[nameSecureBoot].(bool); ok {
		h.checks = append(h.checks, w.secureBoot.Check(nameSecureBoot, "event log, PCR 7", on))
	}
}

// bundlePCRs are what a relying party must say something of in our own bundle: boot loader, Secure Boot, kernel image,
// and the two through which a host could add to it.
var bundlePCRs = []int{4, 7, 11, 12, 13}

func (h *hearing) appraisePCRs(e Expect, w *wants) {
	ev := h.Evidence
	if ev.TPM == nil {
		return
	}
	said := 0
	for n := range 16 {
		x, ok := w.pcrs[n]
		got, quoted := ev.TPM.PCRs[n]
		switch {
		case ok && !quoted:
			h.failed(pcrName(n), "quote", evidence.Refuse(evidence.CodeMeasurement, "", "not in the quote", x.String()))
		case ok:
			said++
			h.checks = append(h.checks, x.Check(pcrName(n), "quote", got))
		case slices.Contains(bundlePCRs, n) && ev.Form == envelope.FormBundle && !e.waived(pcrName(n)) && !e.waived(namePCRs):
			said++
			h.unsaid(pcrName(n))
		}
	}
	if said == 0 && !e.waived(namePCRs) && ev.Form != envelope.FormBundle {
		h.checks = append(h.checks, evidence.Check{Claim: namePCRs, Got: fmt.Sprintf("%d values", len(ev.TPM.PCRs)), Want: unsaid, Rule: ruleExpected})
	}
}
