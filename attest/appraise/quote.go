package appraise

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
)

// attested checks a signature of the attestation key over a TPMS_ATTEST and reads the structure. Only a
// restricted key signs here, so a structure that begins with TPM_GENERATED was made inside the TPM.
func attested(what string, raw, signature []byte, ak *rsa.PublicKey, kind tpm2.TPMST) (*tpm2.TPMSAttest, error) {
	sum := sha256.Sum256(raw)
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, sum[:], signature); err != nil {
		return nil, evidence.Refuse(evidence.CodeChain, what+" signature", "not by the attestation key", "RSASSA-PKCS1-v1_5 with SHA-256 by HCLAkPub")
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, what, err.Error(), "a TPMS_ATTEST")
	}
	switch {
	case a.Magic != tpm2.TPMGeneratedValue:
		return nil, evidence.Refuse(evidence.CodeParse, what+" magic", fmt.Sprintf("%#08x", uint32(a.Magic)), "TPM_GENERATED")
	case a.Type != kind:
		return nil, evidence.Refuse(evidence.CodeParse, what+" type", fmt.Sprintf("%#04x", uint16(a.Type)), fmt.Sprintf("%#04x", uint16(kind)))
	case !bytes.Equal(tpm2.Marshal(*a), raw):
		return nil, evidence.Refuse(evidence.CodeParse, what, "bytes behind the structure", "a TPMS_ATTEST and nothing else")
	}
	return a, nil
}

// checkQuote checks that a quote covers exactly these registers of the SHA-256 bank, with these values.
func checkQuote(a *tpm2.TPMSAttest, pcrs map[int][32]byte) error {
	quote, err := a.Attested.Quote()
	if err != nil {
		return evidence.Refuse(evidence.CodeParse, "quote", err.Error(), "a quote")
	}
	want := selection(pcrs)
	if got := tpm2.Marshal(quote.PCRSelect); !bytes.Equal(got, want) {
		return evidence.Refuse(evidence.CodeBinding, "quote PCR selection", hex.EncodeToString(got), hex.EncodeToString(want)).By("the SHA-256 bank with exactly the registers of PcrSet")
	}
	digest := pcrDigest(pcrs)
	if subtle.ConstantTimeCompare(quote.PCRDigest.Buffer, digest[:]) != 1 {
		return evidence.Refuse(evidence.CodeBinding, "quote PCR digest", hex.EncodeToString(quote.PCRDigest.Buffer), hex.EncodeToString(digest[:])).By("SHA-256 over the values in PCRs")
	}
	return nil
}

// selection is the TPML_PCR_SELECTION of these registers: the SHA-256 bank, 3 bytes.
func selection(pcrs map[int][32]byte) []byte {
	var bits [3]byte
	for n := range pcrs {
		bits[n/8] |= 1 << (n % 8)
	}
	return tpm2.Marshal(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits[:]}}})
}

// pcrDigest is SHA-256 over the values in ascending order of their registers.
func pcrDigest(pcrs map[int][32]byte) [32]byte {
	h := sha256.New()
	for _, n := range slices.Sorted(maps.Keys(pcrs)) {
		v := pcrs[n]
		h.Write(v[:])
	}
	return [32]byte(h.Sum(nil))
}

// ephemeral checks the key that the answer is encrypted to: made inside this TPM, certified by the
// attestation key, and usable only while the registers have the values in the quote.
func ephemeral(public, certify, signature []byte, ak *rsa.PublicKey, pcrs map[int][32]byte) (*rsa.PublicKey, error) {
	a, err := attested("EncKeyCertifyInfo", certify, signature, ak, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, err
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return nil, evidence.Refuse(evidence.CodeParse, "EncKeyCertifyInfo", err.Error(), "a certification")
	}
	pub, key, err := publicArea("EncKeyPub", public, ephemeralAttributes)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(tpm2.Marshal(*pub))
	name := append(binary.BigEndian.AppendUint16(nil, uint16(pub.NameAlg)), sum[:]...)
	if !bytes.Equal(info.Name.Buffer, name) {
		return nil, evidence.Refuse(evidence.CodeBinding, "EncKeyCertifyInfo name", hex.EncodeToString(info.Name.Buffer), hex.EncodeToString(name)).By("the name of EncKeyPub")
	}
	if pub.ObjectAttributes.UserWithAuth {
		return nil, evidence.Refuse(evidence.CodeConfig, "EncKeyPub userWithAuth", "true", "false: only the policy may authorise its use")
	}
	if want := policyPCR(pcrs); !bytes.Equal(pub.AuthPolicy.Buffer, want[:]) {
		return nil, evidence.Refuse(evidence.CodeBinding, "EncKeyPub policy", hex.EncodeToString(pub.AuthPolicy.Buffer), hex.EncodeToString(want[:])).By("PolicyPCR over the quoted registers")
	}
	return key, nil
}

// policyPCR is the policy digest of a session in which only PolicyPCR ran:
// SHA-256(32 zero bytes, TPM_CC_PolicyPCR, selection, digest of the registers).
func policyPCR(pcrs map[int][32]byte) [32]byte {
	digest := pcrDigest(pcrs)
	in := binary.BigEndian.AppendUint32(make([]byte, 32), uint32(tpm2.TPMCCPolicyPCR))
	in = append(append(in, selection(pcrs)...), digest[:]...)
	return sha256.Sum256(in)
}
