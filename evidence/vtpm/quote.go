package vtpm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
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
	ExtraData                []byte
	Selection                []int
	PCRDigest                []byte
	Clock                    uint64 // milliseconds
	ResetCount, RestartCount uint32
}

// ParseQuote reads a TPMS_ATTEST. It says nothing about who made it.
func ParseQuote(raw []byte) (*Quote, error) {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "quote", err.Error(), "a TPMS_ATTEST")
	}
	if err := a.Magic.Check(); err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "quote.magic", fmt.Sprintf("%#x", uint32(a.Magic)), "0xff544347")
	}
	if a.Type != tpm2.TPMSTAttestQuote || !bytes.Equal(tpm2.Marshal(a), raw) {
		return nil, evidence.Refuse(evidence.CodeParse, "quote.type", fmt.Sprintf("%#x", uint16(a.Type)), "one quote without trailing bytes")
	}
	q, err := a.Attested.Quote()
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "quote", err.Error(), "quote info")
	}
	sel := q.PCRSelect.PCRSelections
	if len(sel) != 1 || sel[0].Hash != tpm2.TPMAlgSHA256 {
		return nil, evidence.Refuse(evidence.CodeMeasurement, "quote.bank", fmt.Sprint(len(sel), " selections"), "the SHA-256 bank alone")
	}
	out := &Quote{ExtraData: a.ExtraData.Buffer, PCRDigest: q.PCRDigest.Buffer, Clock: a.ClockInfo.Clock, ResetCount: a.ClockInfo.ResetCount, RestartCount: a.ClockInfo.RestartCount}
	for i, b := range sel[0].PCRSelect {
		for bit := range 8 {
			if b&(1<<bit) != 0 {
				out.Selection = append(out.Selection, 8*i+bit)
			}
		}
	}
	return out, nil
}

// VerifyQuote checks signature (RSASSA, SHA-256; sig is the bare signature), nonce and PCR values. The
// quote must select exactly the PCRs given, and at least one.
func VerifyQuote(quote, sig []byte, ak crypto.PublicKey, nonce []byte, pcrs PCRs) (*Quote, error) {
	q, err := ParseQuote(quote)
	if err != nil {
		return nil, err
	}
	key, ok := ak.(*rsa.PublicKey)
	if !ok || key == nil {
		return nil, evidence.Refuse(evidence.CodeUnsupported, "ak", fmt.Sprintf("%T", ak), "an RSA key")
	}
	h := sha256.Sum256(quote)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, h[:], sig); err != nil {
		return nil, evidence.Refuse(evidence.CodeChain, "quote.signature", "invalid", "a signature by the AK")
	}
	if len(nonce) == 0 || subtle.ConstantTimeCompare(q.ExtraData, nonce) != 1 {
		return nil, evidence.Refuse(evidence.CodeBinding, "quote.nonce", hex.EncodeToString(q.ExtraData), hex.EncodeToString(nonce))
	}
	want := selected(pcrs)
	if len(want) == 0 || !slices.Equal(q.Selection, want) {
		return nil, evidence.Refuse(evidence.CodeBinding, "quote.pcrs", fmt.Sprint(q.Selection), fmt.Sprint(want))
	}
	d := valuesDigest(want, pcrs)
	if !bytes.Equal(d[:], q.PCRDigest) {
		return nil, evidence.Refuse(evidence.CodeBinding, "quote.pcrDigest", hex.EncodeToString(q.PCRDigest), hex.EncodeToString(d[:]))
	}
	return q, nil
}

func selected(pcrs PCRs) []int {
	var out []int
	for i := range pcrs {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

func valuesDigest(sel []int, pcrs PCRs) [32]byte {
	h := sha256.New()
	for _, i := range sel {
		v := pcrs[i]
		h.Write(v[:])
	}
	return [32]byte(h.Sum(nil))
}
