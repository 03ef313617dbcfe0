package bundle

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/launch"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/soft"
)

// Roots are the roots of trust that the relying party names. The zero value trusts nobody.
type Roots struct {
	AMD      bool
	Software []soft.Root
	CRLs     []*x509.RevocationList // AMD's, if the relying party has any; Expect.SNP.RevocationChecked demands one
	Chains   *sevsnp.Chains         // optional: AMD chains whose signatures held before
}

// Expect is what the relying party wants of the whole. Every member must be set; Any is spelled out.
type Expect struct {
	SNP        sevsnp.Expect // ReportData is set here: it is the digest of the runtime claims
	Nonce      []byte        // the challenge
	PCRs       map[int]evidence.Expectation[[32]byte]
	SecureBoot evidence.Expectation[bool]
}

// demanded are the PCRs that every relying party must say something of: boot loader, Secure Boot, kernel image, and the
// two through which a host could add to it.
var demanded = []int{4, 7, 11, 12, 13}

// settable tells the PCRs that a running system can reset or that need a locality nobody proves here. Source: TCG PC
// Client Platform TPM Profile, PCR attributes.
func settable(pcr int) bool { return pcr >= 16 && pcr <= 23 }

// Validate refuses expectations that could not hold anything, before evidence is looked at.
func (e Expect) Validate() error {
	var errs []error
	snp := e.SNP
	snp.ReportData = evidence.Any[[64]byte]()
	errs = append(errs, snp.Validate(), e.SecureBoot.Validate("secure boot"))
	if len(e.Nonce) == 0 {
		errs = append(errs, evidence.Refuse(evidence.CodePolicy, "nonce", "none", "a challenge"))
	}
	for _, n := range demanded {
		errs = append(errs, e.PCRs[n].Validate(fmt.Sprintf("PCR %d", n)))
	}
	zeros := 0
	for n, x := range e.PCRs {
		if n < 0 || settable(n) || n > 23 {
			errs = append(errs, evidence.Refuse(evidence.CodePolicy, fmt.Sprintf("PCR %d", n), "resettable", "0 to 15"))
		}
		if !slices.Contains(demanded, n) {
			errs = append(errs, x.Validate(fmt.Sprintf("PCR %d", n)))
		}
		if x.String() == evidence.Exactly([32]byte{}).String() {
			zeros++
		}
	}
	if zeros > 0 && zeros == len(e.PCRs) {
		errs = append(errs, evidence.Refuse(evidence.CodePolicy, "PCRs", "all zero", "values of a boot"))
	}
	for _, n := range []int{4, 7, 11} {
		if e.PCRs[n].String() == evidence.Exactly([32]byte{}).String() {
			errs = append(errs, evidence.Refuse(evidence.CodePolicy, fmt.Sprintf("PCR %d", n), "zero, as if nothing was measured", "a measured value"))
		}
	}
	return errors.Join(errs...)
}

// ExpectFrom turns a document of expected values into expectations: exactly those values, at VMPL 0, without debugging
// and migration, with Secure Boot.
func ExpectFrom(x launch.Expected, nonce []byte) (Expect, error) {
	snp := sevsnp.Baseline()
	measurements, err := x.Measurements()
	if err != nil {
		return Expect{}, err
	}
	hostData, err := x.HostDataBytes()
	if err != nil {
		return Expect{}, err
	}
	pcrs, err := x.PCRValues()
	if err != nil {
		return Expect{}, err
	}
	snp.Root = evidence.OneOf(x.Roots...)
	snp.Measurement = evidence.OneOf(measurements...)
	snp.HostData = evidence.Exactly(hostData)
	e := Expect{SNP: snp, Nonce: nonce, SecureBoot: evidence.Exactly(true), PCRs: map[int]evidence.Expectation[[32]byte]{}}
	for n, v := range pcrs {
		e.PCRs[n] = evidence.Exactly(v)
	}
	return e, e.Validate()
}
