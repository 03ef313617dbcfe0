// Package judge gives the verdict on a piece of evidence of any kind that package envelope knows.
//
// Inspect says what the bytes say and whether whoever had to sign them did. Verify says in addition whether that is
// what a relying party expects. Three things never come from the evidence: the roots that count, the time, and what is
// expected. Certificates and collateral may come with it, for they end at a root that was named or count for nothing.
//
// Whatever a relying party asks, and also where it asks nothing, some claims are judged by safe defaults: no debugging,
// no migration, VMPL 0, no provisional firmware, a TCB that has no known hole, certificates and collateral that are
// in date. See Expect.
package judge

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/internal/anchor"
	"cloister.dev/cloister/evidence/soft"
)

// Roots are the roots of trust that the relying party names. The zero value trusts nobody.
type Roots struct {
	AMD, Intel bool
	Software   []soft.Root

	dcap *anchor.DCAP // in place of Intel's root; nil for all but tests of this package
}

// UnderDCAP puts another root in the place of Intel's. Its type is internal to evidence, so only packages there can call it.
func (r Roots) UnderDCAP(a anchor.DCAP) Roots {
	r.Intel, r.dcap = true, &a
	return r
}

// VendorRoots are the roots of the makers of processors, whose keys are pinned.
func VendorRoots() Roots { return Roots{AMD: true, Intel: true} }

func (r Roots) names() []evidence.RootKind {
	var out []evidence.RootKind
	if r.AMD {
		out = append(out, evidence.RootAMD)
	}
	switch {
	case r.dcap != nil:
		out = append(out, r.dcap.Kind)
	case r.Intel:
		out = append(out, evidence.RootIntel)
	}
	if len(r.Software) > 0 {
		out = append(out, evidence.RootSoftware)
	}
	return out
}

// File is something that the relying party has beside the evidence: certificates, revocation lists, Intel's collateral.
// The name is for messages.
type File struct {
	Name string
	Raw  []byte
}

// Input is a piece of evidence and all that a judgement of it depends on.
type Input struct {
	Evidence *envelope.Evidence
	Files    []File
	Roots    Roots
	At       time.Time // the time to judge validity at; required
}

// CheckFiles tells whether each file is something that can stand beside evidence, before any evidence is looked at.
func CheckFiles(files []File) error {
	_, _, err := endorsements(nil, files)
	return err
}

// endorsements collects what may help: what the relying party has, then what came with the evidence. Public keys in PEM
// are kept apart: a quote may be checked against them, but they vouch for nothing.
func endorsements(ev *envelope.Evidence, files []File) (*collateral.Set, []crypto.PublicKey, error) {
	set, keys := &collateral.Set{}, []crypto.PublicKey(nil)
	for _, f := range files {
		if block, _ := pem.Decode(f.Raw); block != nil && block.Type == "PUBLIC KEY" {
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, nil, evidence.Refuse(evidence.CodeParse, f.Name, err.Error(), "a public key")
			}
			switch key.(type) {
			case *rsa.PublicKey, *ecdsa.PublicKey:
				keys = append(keys, key)
			default:
				return nil, nil, evidence.Refuse(evidence.CodeUnsupported, f.Name, fmt.Sprintf("%T", key), "an RSA or ECC key")
			}
			continue
		}
		if err := set.Add(f.Name, f.Raw); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if ev != nil {
		for n, raw := range ev.Certificates {
			if err := set.Add(fmt.Sprintf("certificate %d of the evidence", n+1), raw); err != nil {
				return nil, nil, err
			}
		}
	}
	return set, keys, nil
}

// Inspect tells everything that the bytes say, and whether they are authentic: everything in them that is signed was
// signed under a root that was named, and the parts belong together. The verdict of the judgement stays at its zero
// value. An error means that the input is of no use; what is wrong with the evidence is in the judgement.
func Inspect(in Input) (evidence.Judgement, error) {
	h, err := hear(in)
	if err != nil {
		return evidence.Judgement{}, err
	}
	return h.judgement(), nil
}

// Verify is Inspect with a verdict: every check of authenticity must be met, and every claim be what is expected. Where
// nothing fails but something needed for a verdict could not be had, the verdict is "unavailable".
func Verify(in Input, e Expect) (evidence.Judgement, error) {
	h, err := hear(in)
	if err != nil {
		return evidence.Judgement{}, err
	}
	h.appraise(e)
	j := h.judgement()
	a := evidence.Appraise(h.checks...)
	// Authenticity is decided on its own: without it nothing is accepted, whatever was checked.
	if j.Authentic || a.Verdict != evidence.Accepted {
		j.Verdict = a.Verdict
	}
	return j, nil
}

// hearing collects what is found.
type hearing struct {
	Input
	set    *collateral.Set
	keys   []crypto.PublicKey
	checks []evidence.Check
	claims map[string]any
	kind   string
	root   evidence.RootKind

	// Parts whose authenticity was shown. All that the evidence has must be, for it to be authentic.
	snp    *snpPart
	tdx    *tdxPart
	sgx    *sgxPart
	silent map[string]bool // claims of which nothing was said though it must be
	bound  bool            // the HCL report's hardware report is about its claims
	quoted bool            // the quote is by the key of the claims, over the PCRs given
}

func hear(in Input) (*hearing, error) {
	switch {
	case in.Evidence == nil:
		return nil, evidence.Refuse(evidence.CodeParse, "evidence", "none", "a piece of evidence")
	case in.At.IsZero():
		return nil, evidence.Refuse(evidence.CodePolicy, "time", "none", "the time to judge at")
	case len(in.Roots.names()) == 0:
		return nil, evidence.Refuse(evidence.CodePolicy, "roots of trust", "none", "at least one")
	}
	h := &hearing{Input: in, claims: map[string]any{}, silent: map[string]bool{}, kind: in.Evidence.Kind}
	if _, _, err := endorsements(nil, in.Files); err != nil {
		return nil, err
	}
	var err error
	if h.set, h.keys, err = endorsements(in.Evidence, in.Files); err != nil {
		// What came with the evidence and can't be read is a failure of the evidence, and no reason to do without it.
		h.failed("certificates", "bytes", err)
		h.set, h.keys, _ = endorsements(nil, in.Files)
		h.tell()
		return h, nil
	}
	h.tell()
	h.hardware()
	h.vtpm()
	h.eventLog()
	h.userData()
	return h, nil
}

func (h *hearing) judgement() evidence.Judgement {
	return evidence.Judgement{Kind: h.kind, Root: h.root, Authentic: h.authentic(), Checks: h.checks, Claims: h.claims}
}

// authentic decides from what was shown, part by part: a part that is there and was not shown makes it false.
func (h *hearing) authentic() bool {
	ev := h.Evidence
	switch {
	case h.root == "":
		return false
	case ev.SNP != nil && h.snp == nil, ev.TDQuote != nil && h.tdx == nil, ev.SGXQuote != nil && h.sgx == nil:
		return false
	case ev.TDReport != nil && h.tdx == nil: // its MAC proves nothing elsewhere: only a quote vouches for it
		return false
	case ev.HCL != nil && !h.bound, ev.TPM != nil && !h.quoted:
		return false
	}
	return h.snp != nil || h.tdx != nil || h.sgx != nil
}

func (h *hearing) met(claim, got, want, rule string) {
	h.checks = append(h.checks, evidence.Passed(claim, got, want, rule))
}

// failed notes an error. The name of the check stays as it is, so that programs can look for it: which field of it was
// wrong goes before what was got.
func (h *hearing) failed(claim, rule string, err error) {
	c := evidence.Failed(claim, rule, err)
	var r *evidence.Refusal
	if errors.As(err, &r) && r.Field != "" {
		c.Claim, c.Got = claim, r.Field+": "+r.Got
	}
	h.checks = append(h.checks, c)
}

// named is the name of the check that an error belongs to: what is revoked, or below every TCB level, says so by its name.
func named(claim string, err error) string {
	switch evidence.CodeOf(err) {
	case evidence.CodeRevoked:
		return checkRevocation
	case evidence.CodeTCB:
		return nameTCBStatus
	}
	return claim
}

// lacking notes something that could not be had.
func (h *hearing) lacking(claim, rule, got, want string) {
	h.failed(claim, rule, evidence.Refuse(evidence.CodeUnavailable, "", got, want))
}

// Decide adds checks that a caller made by other rules, such as an attestation policy, to a judgement of Verify, and
// decides anew. It never makes a better verdict of a judgement that was refused or of evidence that is not authentic.
func Decide(j evidence.Judgement, more ...evidence.Check) evidence.Judgement {
	j.Checks = append(append([]evidence.Check(nil), j.Checks...), more...)
	if a := evidence.Appraise(j.Checks...); j.Verdict != evidence.Refused && (j.Authentic || a.Verdict != evidence.Accepted) {
		j.Verdict = a.Verdict
	}
	return j
}
