package bundle

import (
	"crypto/rsa"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/vtpm"
)

// Kind is the kind of evidence that is judged here.
const Kind = "sevsnpvm"

// Names of claims in a result.
const (
	ClaimMeasurement = "measurement"
	ClaimHostData    = "host-data"
	ClaimVMID        = "vm-id"
	ClaimSecureBoot  = "secure-boot"
	ClaimSSHHostKey  = "ssh-host-key-sha256"
)

// ClaimPCR is the name of a PCR's claim.
func ClaimPCR(n int) string { return fmt.Sprintf("pcr%d", n) }

// judge collects checks; a part that can't be judged is a check that was not met.
type judge struct {
	checks []evidence.Check
	claims map[string]any
}

func (j *judge) met(claim, got, want, rule string) {
	j.checks = append(j.checks, evidence.Passed(claim, got, want, rule))
}

// failed notes an error as a check not met, or one that could not be made.
func (j *judge) failed(claim, rule string, err error) {
	j.checks = append(j.checks, evidence.Failed(claim, rule, err))
}

// Appraise judges a bundle at a time. An error means that the caller's expectations or roots are of no use; what is wrong
// with the evidence is in the result. Checks go on after one that failed, so that a person sees all of it.
func Appraise(b Bundle, roots Roots, e Expect, at time.Time) (evidence.Judgement, error) {
	if err := e.Validate(); err != nil {
		return evidence.Judgement{}, fmt.Errorf("expectations: %w", err)
	}
	if !roots.AMD && len(roots.Software) == 0 {
		return evidence.Judgement{}, evidence.Refuse(evidence.CodePolicy, "roots of trust", "none", "at least one")
	}
	j := &judge{claims: map[string]any{}}
	r := evidence.Judgement{Kind: Kind}
	report, genuine := j.hardware(b, roots, e, at)
	if genuine != nil {
		r.Root = genuine.Root()
	}
	quoted := false
	if claims := j.runtime(report); claims != nil {
		var pcrs vtpm.PCRs
		if pcrs, quoted = j.quote(b, claims, e); pcrs != nil {
			j.log(b, pcrs, e)
			j.pcrs(pcrs, e)
		}
		j.userData(b, claims)
	}
	r.Authentic = genuine != nil && quoted
	r.Checks, r.Claims = j.checks, j.claims
	// Without a genuine report and quote nothing is accepted, whatever was checked.
	if r.Authentic {
		r.Verdict = evidence.Appraise(j.checks...).Verdict
	}
	return r, nil
}

// hardware judges the hardware report and what it vouches for: the runtime claims.
func (j *judge) hardware(b Bundle, roots Roots, e Expect, at time.Time) (*hcl.Report, *sevsnp.Authentic) {
	report, err := hcl.Parse(b.HCLReport)
	if err != nil {
		j.failed("HCL report", "bytes", err)
		return nil, nil
	}
	snp, err := sevsnp.Parse(report.Hardware)
	if err != nil {
		j.failed("hardware report", "bytes", err)
		return nil, nil
	}
	j.claims[ClaimMeasurement] = hex.EncodeToString(snp.Measurement[:])
	j.claims[ClaimHostData] = hex.EncodeToString(snp.HostData[:])
	chain, err := sevsnp.ParseChain([]byte(b.Chain))
	if err != nil {
		j.failed("certificate chain", "bytes", err)
		return report, nil
	}
	genuine, err := authenticate(snp, chain, roots, at)
	if err != nil {
		j.failed("hardware report", "authenticity", err)
		return report, nil
	}
	j.met("hardware report", "signed, chain ends at the "+string(genuine.Root())+" root", "a root that was named", "authenticity")
	want := e.SNP
	want.ReportData = evidence.Exactly(hcl.ReportData(report.Claims))
	j.checks = append(j.checks, asked(sevsnp.Appraise(genuine, want).Checks)...)
	return report, genuine
}

// asked leaves out the checks that nobody asked for: they would hide those that count.
func asked(checks []evidence.Check) []evidence.Check {
	var out []evidence.Check
	for _, c := range checks {
		if c.Result != evidence.NotAsked {
			out = append(out, c)
		}
	}
	return out
}

func authenticate(r *sevsnp.Report, c sevsnp.Chain, roots Roots, at time.Time) (*sevsnp.Authentic, error) {
	var errs []error
	if len(roots.Software) > 0 {
		a, err := soft.Authenticate(r, c, roots.Software, at)
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	if roots.AMD {
		a, err := sevsnp.Authenticate(r, c, sevsnp.Options{At: at, CRLs: roots.CRLs, Chains: roots.Chains})
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// runtime reads the runtime claims; nil where there are none to go on with.
func (j *judge) runtime(report *hcl.Report) *hcl.RuntimeClaims {
	if report == nil {
		return nil
	}
	claims, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		j.failed("runtime claims", "bytes", err)
		return nil
	}
	j.claims[ClaimVMID] = strings.ToLower(claims.VMConfiguration.VMUniqueID)
	return claims
}

// quote judges the vTPM's quote. The key that signed it must be the one in the runtime claims.
func (j *judge) quote(b Bundle, claims *hcl.RuntimeClaims, e Expect) (vtpm.PCRs, bool) {
	ak, err := claims.RSAKey(hcl.KeyAK)
	if err != nil {
		j.failed("attestation key", "binding", err)
		return nil, false
	}
	offered, _, err := vtpm.RSAPublic(b.AKPublic)
	if err != nil {
		j.failed("attestation key", "bytes", err)
		return nil, false
	}
	if !sameKey(ak, offered) {
		j.failed("attestation key", "binding", evidence.Refuse(evidence.CodeBinding, "", "another key", "the key in the runtime claims ("+hcl.KeyAK+")"))
		return nil, false
	}
	j.met("attestation key", "the key in the runtime claims", "the key in the runtime claims ("+hcl.KeyAK+")", "binding")
	if subtle.ConstantTimeCompare(b.Nonce, e.Nonce) != 1 {
		j.failed("nonce", "freshness", evidence.Refuse(evidence.CodeBinding, "", hex.EncodeToString(b.Nonce), hex.EncodeToString(e.Nonce)))
		return nil, false
	}
	pcrs, err := b.Values()
	if err != nil {
		j.failed("PCRs", "bytes", err)
		return nil, false
	}
	if _, err := vtpm.VerifyQuote(b.Quote, b.Signature, ak, vtpm.NonceFor(e.Nonce), pcrs); err != nil {
		j.failed("quote", "authenticity", err)
		return nil, false
	}
	j.met("quote", "signed by the attestation key, answers this challenge", "a fresh quote over the PCRs given", "authenticity")
	for n, v := range pcrs {
		j.claims[ClaimPCR(n)] = hex.EncodeToString(v[:])
	}
	return pcrs, true
}

func sameKey(a, b *rsa.PublicKey) bool { return a.E == b.E && a.N.Cmp(b.N) == 0 }

// log judges the boot log: its rules, and that it explains the firmware's PCRs. PCR 11 and 15 go on after the firmware
// hands over, so the log alone can't explain them.
func (j *judge) log(b Bundle, pcrs vtpm.PCRs, e Expect) {
	log, err := vtpm.ParseEventLog(b.EventLog)
	if err != nil {
		j.failed("event log", "bytes", err)
		return
	}
	if err := log.Check(vtpm.Strict); err != nil {
		j.failed("event log", "rules", err)
		return
	}
	if err := log.Explains(pcrs); err != nil {
		j.failed("event log", "replay", err)
		return
	}
	j.met("event log", "explains PCR 0 to 7 as quoted", "a log that replays to the quoted values", "replay")
	on, err := log.SecureBoot()
	if err != nil {
		j.failed("secure boot", "event log", err)
		return
	}
	j.claims[ClaimSecureBoot] = on
	j.checks = append(j.checks, e.SecureBoot.Check("secure boot", "event log, PCR 7", on))
}

// pcrs compares quoted values with what is expected, in order.
func (j *judge) pcrs(got vtpm.PCRs, e Expect) {
	numbers := make([]int, 0, len(e.PCRs))
	for n := range e.PCRs {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	for _, n := range numbers {
		v, quoted := got[n]
		claim := fmt.Sprintf("PCR %d", n)
		if !quoted {
			j.failed(claim, "quote", evidence.Refuse(evidence.CodeMeasurement, "", "not in the quote", e.PCRs[n].String()))
			continue
		}
		j.checks = append(j.checks, e.PCRs[n].Check(claim, "quote", v))
	}
}

// userData judges what the guest chose to bind: its SSH host key.
func (j *judge) userData(b Bundle, claims *hcl.RuntimeClaims) {
	want := UserData(b.SSHHostKey)
	got := strings.ToLower(claims.UserData)
	if subtle.ConstantTimeCompare([]byte(got), []byte(hex.EncodeToString(want[:]))) != 1 {
		j.failed("user data", "binding", evidence.Refuse(evidence.CodeBinding, "", cutText(got), hex.EncodeToString(want[:])+", of the SSH host key"))
		return
	}
	j.met("user data", got, "the digest of the SSH host key", "binding")
	j.claims[ClaimSSHHostKey] = Fingerprint(b.SSHHostKey)
}

// cutText keeps a stranger's text from filling a report.
func cutText(s string) string { return s[:min(len(s), 128)] }
