package vtpm

import (
	"bytes"
	"crypto"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
)

// PCRs are values of the SHA-256 bank.
type PCRs map[int][32]byte

// Quote is what a TPM attested: nonce, selection (SHA-256 bank, ascending), digest over it, counters.
type Quote struct {
	ExtraData []byte
	Selection []int
	PCRDigest []byte // by the hash of the signing key's scheme: 32, 48 or 64 bytes
	Counters
}

// ParseQuote reads a TPMS_ATTEST. It says nothing about who made it.
func ParseQuote(raw []byte) (*Quote, error) {
	a, err := parseAttest("quote", raw, tpm2.TPMSTAttestQuote)
	if err != nil {
		return nil, err
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "quote", err.Error(), "quote info")
	}
	sel := q.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "quote.bank", fmt.Sprint(len(sel), " selections"), "the SHA-256 bank alone")
	}
	out := &Quote{ExtraData: a.ExtraData.Buffer, PCRDigest: q.PCRDigest.Buffer,
		Counters: Counters{Clock: a.ClockInfo.Clock, ResetCount: a.ClockInfo.ResetCount, RestartCount: a.ClockInfo.RestartCount, Safe: bool(a.ClockInfo.Safe)}}
	for i, b := range sel[0].PCRSelect {
		for bit := range 8 {
			if b&(1<<bit) != 0 {
				out.Selection = append(out.Selection, 8*i+bit)
			}
		}
	}
	return out, nil
}

// parseAttest reads a TPMS_ATTEST of one kind and nothing behind it. What begins with TPM_GENERATED was made inside a
// TPM, provided that a restricted key signed it.
func parseAttest(what string, raw []byte, kind tpm2.TPMST) (*tpm2.TPMSAttest, error) {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "a TPMS_ATTEST")
	}
	switch {
	case a.Magic.Check() != nil:
		return nil, evidence.Refuse(evidence.CodeParse, what+".magic", fmt.Sprintf("%#x", uint32(a.Magic)), "0xff544347")
	case a.Type != kind:
		return nil, evidence.Refuse(evidence.CodeParse, what+".type", fmt.Sprintf("%#x", uint16(a.Type)), fmt.Sprintf("%#x", uint16(kind)))
	case !bytes.Equal(tpm2.Marshal(a), raw):
		return nil, evidence.Refuse(evidence.CodeParse, what, "bytes behind the structure", "a TPMS_ATTEST and nothing else")
	}
	return a, nil
}

// OpenQuote reads a quote and checks its signature (see CheckSignature). Nonce and PCRs are still to be checked.
func OpenQuote(quote, sig []byte, ak crypto.PublicKey) (*Quote, error) {
	q, err := ParseQuote(quote)
	if err != nil {
		return nil, err
	}
	if err := CheckSignature(quote, sig, ak); err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	return q, nil
}

// VerifyQuote checks signature (see CheckSignature), nonce and PCR values. The quote must select exactly the PCRs given,
// and at least one.
func VerifyQuote(quote, sig []byte, ak crypto.PublicKey, nonce []byte, pcrs PCRs) (*Quote, error) {
	q, err := OpenQuote(quote, sig, ak)
	if err != nil {
		return nil, err
	}
	if err := q.CheckNonce(nonce); err != nil {
		return nil, err
	}
	return q, q.CheckPCRs(pcrs)
}

// CheckNonce refuses a quote that does not answer this nonce. An empty nonce is never answered.
func (q *Quote) CheckNonce(nonce []byte) error {
	if len(nonce) == 0 || subtle.ConstantTimeCompare(q.ExtraData, nonce) != 1 {
		return evidence.Refuse(evidence.CodeBinding, "quote.nonce", hex.EncodeToString(q.ExtraData), hex.EncodeToString(nonce))
	}
	return nil
}

// CheckPCRs refuses a quote over other PCRs than those given, over other values, or over none.
func (q *Quote) CheckPCRs(pcrs PCRs) error {
	want := selected(pcrs)
	if len(want) == 0 || !slices.Equal(q.Selection, want) {
		return evidence.Refuse(evidence.CodeBinding, "quote.pcrs", fmt.Sprint(q.Selection), fmt.Sprint(want)).By("the SHA-256 bank with exactly the PCRs given")
	}
	// The digest is by the hash of the signing scheme (TPM 2.0 part 3, Quote): its length tells which.
	var hash crypto.Hash
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if h.Size() == len(q.PCRDigest) {
			hash = h
		}
	}
	if hash == 0 {
		return evidence.Refuse(evidence.CodeUnsupported, "quote.pcrDigest", fmt.Sprintf("%d bytes", len(q.PCRDigest)), "SHA-256, SHA-384 or SHA-512")
	}
	if d := concatenated(hash, want, pcrs); subtle.ConstantTimeCompare(d, q.PCRDigest) != 1 {
		return evidence.Refuse(evidence.CodeBinding, "quote.pcrDigest", hex.EncodeToString(q.PCRDigest), hex.EncodeToString(d)).By("the digest over the values given")
	}
	return nil
}

// CertifiedName is the name of the key that a TPM certified (TPM2_Certify), once the signature was checked. The caller
// compares it with the name of the key's public area.
func CertifiedName(what string, certify, sig []byte, ak crypto.PublicKey) ([]byte, error) {
	a, err := parseAttest(what, certify, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, err
	}
	if err := CheckSignature(certify, sig, ak); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "a certification")
	}
	return info.Name.Buffer, nil
}

func selected(pcrs PCRs) []int {
	var out []int
	for i := range pcrs {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

func concatenated(hash crypto.Hash, sel []int, pcrs PCRs) []byte {
	h := hash.New()
	for _, i := range sel {
		v := pcrs[i]
		h.Write(v[:])
	}
	return h.Sum(nil)
}

func valuesDigest(sel []int, pcrs PCRs) [32]byte {
	return [32]byte(concatenated(crypto.SHA256, sel, pcrs))
}
