package tdx

import (
	"fmt"
	"slices"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Authentic is a quote whose signature ends at a root that was named. Only Authenticate makes one; the zero value is refused
// everywhere.
type Authentic struct {
	quote    *Quote
	verified *dcap.Verified
	tcb      *dcap.TCBResult // nil: nobody asked Intel's collateral
}

// Quote is the quote. It is a copy: changing it changes no evidence.
func (a *Authentic) Quote() *Quote {
	if !a.valid() {
		return &Quote{}
	}
	q := *a.quote
	q.Body = q.Body.clone()
	return &q
}

// Root is the kind of root; empty for the zero value.
func (a *Authentic) Root() evidence.RootKind {
	if !a.valid() {
		return ""
	}
	return a.verified.Root()
}

// PCK is what the platform's certificate says.
func (a *Authentic) PCK() *dcap.PCK {
	if !a.valid() {
		return &dcap.PCK{}
	}
	return a.verified.PCK()
}

// QEReport is the quoting enclave's report.
func (a *Authentic) QEReport() *dcap.QEReport {
	if !a.valid() {
		return &dcap.QEReport{}
	}
	return a.verified.QEReport()
}

// TCB is what collateral says of the platform; nil where none was consulted.
func (a *Authentic) TCB() *dcap.TCBResult {
	if !a.valid() || a.tcb == nil {
		return nil
	}
	t := *a.tcb
	t.Advisories = slices.Clone(t.Advisories)
	return &t
}

func (a *Authentic) valid() bool {
	return a != nil && a.quote != nil && a.verified != nil && a.verified.Root() != ""
}

// Authenticate checks that Intel's hardware made a quote. Whether the platform is current, or revoked, is not known yet: see
// WithCollateral. A software root is never accepted.
func Authenticate(q *Quote, o dcap.Options) (*Authentic, error) {
	return authenticate(q, func(signed []byte, s *dcap.SignatureData) (*dcap.Verified, error) { return dcap.Verify(signed, s, o) })
}

// AuthenticateUnder is Authenticate under other roots. Its anchor's type is internal to evidence, so only packages there can call it.
func AuthenticateUnder(q *Quote, a anchor.DCAP, o dcap.Options) (*Authentic, error) {
	return authenticate(q, func(signed []byte, s *dcap.SignatureData) (*dcap.Verified, error) {
		return dcap.VerifyUnder(signed, s, a, o)
	})
}

func authenticate(q *Quote, verify func([]byte, *dcap.SignatureData) (*dcap.Verified, error)) (*Authentic, error) {
	if q == nil || len(q.signed) == 0 || q.signature == nil {
		return nil, evidence.Refuse(evidence.CodeParse, "TD quote", "none", "a parsed quote")
	}
	v, err := verify(q.signed, q.signature)
	if err != nil {
		return nil, err
	}
	// A quote changed by hand may not be what its bytes say; from here on only the signed bytes count.
	own, err := reread(q)
	if err != nil {
		return nil, err
	}
	return &Authentic{quote: own, verified: v}, nil
}

// reread parses the signed bytes again: header and body.
func reread(q *Quote) (*Quote, error) {
	own, at, size, err := parseHeader(q.signed)
	if err != nil {
		return nil, err
	}
	if len(q.signed) != at+size {
		return nil, evidence.Refuse(evidence.CodeParse, "TD quote", fmt.Sprintf("%d signed bytes", len(q.signed)), fmt.Sprint(at+size))
	}
	own.signed, own.signature, own.Padding, own.OddPadding = q.signed, q.signature, q.Padding, q.OddPadding
	own.Body, err = parseBody(q.signed[at:])
	return own, err
}

// WithCollateral adds what Intel's collateral says of the platform, the quoting enclave and the TDX module. Every check of the
// collateral is in dcap.Verified.Appraise; the TDX module's signer and attributes are matched here.
func (a *Authentic) WithCollateral(c *dcap.Collateral, o dcap.Options) (*Authentic, error) {
	if !a.valid() {
		return nil, evidence.Refuse(evidence.CodeChain, "TD quote", "one that was not authenticated", "one that Authenticate accepted")
	}
	body := a.quote.Body
	r, err := a.verified.Appraise(c, dcap.TDX, body.TEETCBSVN, o)
	if err != nil {
		return nil, fmt.Errorf("judging the platform by Intel's collateral: %w", err)
	}
	if err := r.Module.Match(body.MRSignerSeam, body.SeamAttributes); err != nil {
		return nil, fmt.Errorf("judging the TDX module by Intel's collateral: %w", err)
	}
	return &Authentic{quote: a.quote, verified: a.verified, tcb: r}, nil
}
