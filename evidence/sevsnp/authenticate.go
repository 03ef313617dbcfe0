package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Options are what a judgement of authenticity depends on besides the evidence.
type Options struct {
	At         time.Time              // the time to judge certificates and lists at; required
	CRLs       []*x509.RevocationList // AMD's lists; those of other products are passed over
	RequireCRL bool                   // without a current list of the chain's root: "unavailable"
	Chains     *Chains                // optional: remembers whose signatures held; the caller owns it
}

// Authentic is a report whose signature ends at a root that was named. Only Authenticate, here and in
// package soft, makes one; the zero value is refused everywhere.
type Authentic struct {
	report            *Report
	root              evidence.RootKind
	product           Product
	csp               string
	revocationChecked bool
}

// Report is the report. It is a copy: changing it changes no evidence.
func (a *Authentic) Report() *Report {
	if !a.valid() {
		return &Report{}
	}
	r := *a.report
	return &r
}

// Root is the kind of root; empty for the zero value.
func (a *Authentic) Root() evidence.RootKind {
	if !a.valid() {
		return ""
	}
	return a.root
}

// Product is the name of the processor line.
func (a *Authentic) Product() string {
	if !a.valid() {
		return ""
	}
	return string(a.product)
}

// CSP is the cloud provider's id in a VLEK; empty for a VCEK.
func (a *Authentic) CSP() string {
	if !a.valid() {
		return ""
	}
	return a.csp
}

// RevocationChecked tells whether a current revocation list of the root was consulted.
func (a *Authentic) RevocationChecked() bool { return a.valid() && a.revocationChecked }

func (a *Authentic) valid() bool { return a != nil && a.report != nil && a.root != "" }

// Authenticate checks that AMD's hardware made a report: the chain ends at the root pinned for its product,
// the leaf is about this chip and this TCB, and its key signed the report. A software root is never accepted.
func Authenticate(r *Report, c Chain, o Options) (*Authentic, error) {
	return AuthenticateUnder(r, c, amd, o)
}

// AuthenticateUnder is Authenticate under other roots. Its anchor's type is internal to evidence, so only
// packages there can call it.
func AuthenticateUnder(r *Report, c Chain, a anchor.Anchor, o Options) (*Authentic, error) {
	if r == nil {
		return nil, evidence.Refuse(evidence.CodeParse, "SNP report", "none", "a parsed report")
	}
	kind := r.KeyInfo.SigningKey
	if kind != SignedByVCEK && kind != SignedByVLEK {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "signing key of the SNP report", kind.String(), "VCEK or VLEK")
	}
	v, err := verifyChain(c, kind, a, o)
	if err != nil {
		return nil, fmt.Errorf("following the SNP certificate chain: %w", err)
	}
	return v.authenticate(r)
}

// authenticate checks a report against a leaf whose chain is good.
func (v *verified) authenticate(r *Report) (*Authentic, error) {
	// A report built by hand may not be what its bytes say; from here on only the bytes count.
	own, err := Parse(r.Marshal())
	if err != nil {
		return nil, err
	}
	product, err := own.Product()
	if err != nil {
		return nil, err
	}
	switch {
	case own.KeyInfo.SigningKey != v.kind:
		return nil, refuseChain("signing key of the SNP report", own.KeyInfo.SigningKey.String(), v.kind.String())
	case product == "" && v.product == Turin:
		return nil, evidence.Refuse(evidence.CodeUnsupported, "SNP report version", "2 with a Turin certificate", "3 or later, which name the TCB layout")
	case product != "" && product != v.product:
		return nil, refuseChain("product of the "+v.kind.String(), string(v.product), string(product)+", as the report says")
	case own.ReportedTCB != v.leaf.tcb:
		return nil, refuseChain("TCB of the "+v.kind.String(), v.leaf.tcb.String(), own.ReportedTCB.String()+", the reported TCB")
	}
	if v.kind == SignedByVCEK {
		n := len(v.leaf.hwid)
		if !bytes.Equal(own.ChipID[:n], v.leaf.hwid) || !bytes.Equal(own.ChipID[n:], make([]byte, len(own.ChipID)-n)) {
			return nil, refuseChain("hardware id of the VCEK", hex.EncodeToString(v.leaf.hwid), hex.EncodeToString(own.ChipID[:])+", the chip id of the report")
		}
	}
	if err := checkSignature(own, v.key); err != nil {
		return nil, err
	}
	return &Authentic{report: own, root: v.root, product: v.product, csp: v.leaf.csp, revocationChecked: v.revocationChecked}, nil
}

// checkSignature verifies the report's ECDSA signature. R and S are in 1 to n-1, in one form only.
func checkSignature(r *Report, key *ecdsa.PublicKey) error {
	rr, s := littleEndian(r.Signature[0:72]), littleEndian(r.Signature[72:144])
	n := elliptic.P384().Params().N
	for _, x := range []struct {
		name string
		v    *big.Int
	}{{"R", rr}, {"S", s}} {
		if x.v.Sign() == 0 || x.v.Cmp(n) >= 0 {
			return refuseChain("signature of the SNP report", x.name+" is zero or not below the order", "1 to n-1")
		}
	}
	sum := sha512.Sum384(r.SignedBytes())
	if !ecdsa.Verify(key, sum[:], rr, s) {
		return refuseChain("signature of the SNP report", "one that does not verify", "one by the key of the chain")
	}
	return nil
}
