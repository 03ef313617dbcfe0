package dcap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/internal/anchor"
)

// Options are what a judgement depends on besides the evidence.
type Options struct {
	At     time.Time   // the time to judge certificates, lists and documents at; required
	Chains *ChainCache // optional: remembers PCK chains whose signatures held; the caller owns it
	Floor  Floor       // collateral older than this is refused; the zero value is no floor
}

// Verified is a quote whose signature was followed to a root that was named. Only Verify, here and through package soft,
// makes one; the zero value is refused everywhere.
type Verified struct {
	chain *pckChain
	qe    *QEReport
	under anchor.DCAP
}

func (v *Verified) valid() bool {
	return v != nil && v.chain != nil && v.qe != nil && v.under.Kind != ""
}

// PCK is what the platform's certificate says. It is a copy; the zero value gives an empty one.
func (v *Verified) PCK() *PCK {
	if !v.valid() {
		return &PCK{}
	}
	p := v.chain.pck
	return &p
}

// QEReport is the quoting enclave's report. It is a copy; the zero value gives an empty one.
func (v *Verified) QEReport() *QEReport {
	if !v.valid() {
		return &QEReport{}
	}
	r := *v.qe
	return &r
}

// Root is the kind of root; empty for the zero value.
func (v *Verified) Root() evidence.RootKind {
	if !v.valid() {
		return ""
	}
	return v.under.Kind
}

// Verify checks that a quote was signed by a key of a quoting enclave of Intel's, on a platform that Intel certified. Signed
// is the quote's header and body as they came. Nothing is known of the platform's TCB yet, nor of revocation:
// Verified.Appraise looks at these. A software root is never accepted.
func Verify(signed []byte, s *SignatureData, o Options) (*Verified, error) {
	return VerifyUnder(signed, s, intel, o)
}

// VerifyUnder is Verify under other roots. Its anchor's type is internal to evidence, so only packages there can
// call it.
func VerifyUnder(signed []byte, s *SignatureData, a anchor.DCAP, o Options) (*Verified, error) {
	switch {
	case s == nil || len(signed) == 0:
		return nil, evidence.Refuse(evidence.CodeParse, "quote", "none", "a quote with its signature section")
	case o.At.IsZero():
		return nil, evidence.Refuse(evidence.CodeUnavailable, "time", "none", "the time to judge certificates at")
	}
	c, err := o.Chains.chain(s.PCKChainPEM)
	if err != nil {
		return nil, err
	}
	if err := c.judge(a, o.At); err != nil {
		return nil, err
	}
	o.Chains.keep(s.PCKChainPEM, c)
	qe, err := certified(s, c.key, a)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, s.AttestationKey[:]...))
	if err != nil {
		return nil, refuseChain("attestation key", "not a point of the curve", "a key on P-256")
	}
	if err := checkSignature("quote", key, signed, s.Signature); err != nil {
		return nil, err
	}
	return &Verified{chain: c, qe: qe, under: a}, nil
}

// certified checks that the PCK signed the quoting enclave's report, that the report is of a quoting enclave that counts, and
// that it is about this attestation key.
func certified(s *SignatureData, pck *ecdsa.PublicKey, a anchor.DCAP) (*QEReport, error) {
	if err := checkSignature("QE report", pck, s.QEReport[:], s.QESignature); err != nil {
		return nil, err
	}
	qe, err := ParseQEReport(s.QEReport[:])
	if err != nil {
		return nil, err
	}
	var want [64]byte
	sum := sha256.Sum256(append(append([]byte{}, s.AttestationKey[:]...), s.AuthData...))
	copy(want[:], sum[:])
	if qe.ReportData != want {
		return nil, refuseChain("report data of the QE", "another", "the hash of the attestation key and authentication data, and zeros")
	}
	if qe.Debug() || qe.Attributes[0]&sgxInit == 0 {
		return nil, refuseChain("attributes of the QE", "debug, or not initialised", "an initialised enclave that can't be debugged")
	}
	for _, known := range a.QEs {
		if qe.MRSigner == known.MRSigner && qe.ISVProdID == known.ISVProdID {
			return qe, nil
		}
	}
	return nil, refuseChain("QE", qe.name(), "a quoting enclave of the root's owner")
}

// checkSignature verifies ECDSA with SHA-256. R and S, big-endian, are in 1 to n-1.
func checkSignature(what string, key *ecdsa.PublicKey, signed []byte, sig [64]byte) error {
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	n := elliptic.P256().Params().N
	for _, v := range []*big.Int{r, s} {
		if v.Sign() == 0 || v.Cmp(n) >= 0 {
			return refuseChain("signature of the "+what, "r or s is zero or not below the order", "1 to n-1")
		}
	}
	sum := sha256.Sum256(signed)
	if !ecdsa.Verify(key, sum[:], r, s) {
		return refuseChain("signature of the "+what, "one that does not verify", "one by the key that was certified")
	}
	return nil
}
