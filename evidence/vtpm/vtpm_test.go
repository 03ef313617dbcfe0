package vtpm

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
)

func TestQuote(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := PCRs{7: {1}, 11: {2}}
	nonce := NonceFor(make([]byte, 64))
	make := func(mask []byte, alg tpm2.TPMIAlgHash, magic tpm2.TPMGenerated, p PCRs) ([]byte, []byte) {
		d := valuesDigest(selected(p), p)
		raw := tpm2.Marshal(tpm2.TPMSAttest{Magic: magic, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: nonce},
			Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: alg, PCRSelect: mask}}},
				PCRDigest: tpm2.TPM2BDigest{Buffer: d[:]}})})
		h := sha256.Sum256(raw)
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, h[:])
		if err != nil {
			t.Fatal(err)
		}
		return raw, sig
	}
	good := []byte{0x80, 0x08, 0}
	raw, sig := make(good, tpm2.TPMAlgSHA256, tpm2.TPMGeneratedValue, pcrs)
	if _, err := VerifyQuote(raw, sig, &key.PublicKey, nonce, pcrs); err != nil {
		t.Fatalf("positive twin: %v", err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	noneRaw, noneSig := make([]byte{0, 0, 0}, tpm2.TPMAlgSHA256, tpm2.TPMGeneratedValue, PCRs{})
	magicRaw, magicSig := make(good, tpm2.TPMAlgSHA256, 1, pcrs)
	sha1Raw, sha1Sig := make(good, tpm2.TPMAlgSHA1, tpm2.TPMGeneratedValue, pcrs)
	for _, r := range []struct {
		name     string
		raw, sig []byte
		key      *rsa.PublicKey
		nonce    []byte
		pcrs     PCRs
		want     evidence.Code
	}{
		{"TPM-01 nonce of another session", raw, sig, &key.PublicKey, NonceFor([]byte("b")), pcrs, evidence.CodeBinding},
		{"TPM-03 empty selection", noneRaw, noneSig, &key.PublicKey, nonce, PCRs{}, evidence.CodeBinding},
		{"TPM-03 smaller selection", raw, sig, &key.PublicKey, nonce, PCRs{7: {1}, 11: {2}, 12: {}}, evidence.CodeBinding},
		{"TPM-03 forged values", raw, sig, &key.PublicKey, nonce, PCRs{7: {1}, 11: {3}}, evidence.CodeBinding},
		{"TPM-07 another TPM's key", raw, sig, &other.PublicKey, nonce, pcrs, evidence.CodeChain},
		{"TPM-08 magic", magicRaw, magicSig, &key.PublicKey, nonce, pcrs, evidence.CodeParse},
		{"TPM-09 random signature", raw, noneSig, &key.PublicKey, nonce, pcrs, evidence.CodeChain},
		{"TPM-12 SHA-1 bank", sha1Raw, sha1Sig, &key.PublicKey, nonce, pcrs, evidence.CodeMeasurement},
	} {
		t.Run(r.name, func(t *testing.T) {
			if _, err := VerifyQuote(r.raw, r.sig, r.key, r.nonce, r.pcrs); evidence.CodeOf(err) != r.want {
				t.Errorf("got %v, want %s", err, r.want)
			}
		})
	}
}

// TestPolicyDigests compares with digests that a TPM computed.
func TestPolicyDigests(t *testing.T) {
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v := PCRs{4: [32]byte(un("368f85b3013041dfe203faaa364f00b07c5da7b1e5f1dbf2efb06fa6b9bd92de")), 7: [32]byte(un("aa1154c9e0a774854ccbed4c8ce7e9b906b3d700a1a8db1772d0341a62dbe51b")), 8: [32]byte(un("cfde439a2c06af3479ca6bdc60429b90553d65300c5cfcc40004a08c6b5ad81a"))}
	got, err := PolicyPCRDigest([32]byte{}, []int{8, 4, 7}, v)
	if err != nil || hex.EncodeToString(got[:]) != "76532a0e16f7e6bf6b02918c11f75d99d729fab0cc81d0df2c4284a2c4fe6e05" {
		t.Errorf("PolicyPCR %x, %v", got, err)
	}
	if _, err := PolicyPCRDigest([32]byte{}, []int{4, 12}, v); err == nil {
		t.Error("a PCR without a value was taken")
	}
	got = PolicyAuthorizeDigest(un("000be78f74a470dd92e979ca067cdb2293a35f075e8560b436bd2ccea5da21486a07"), nil)
	if hex.EncodeToString(got[:]) != "95213a3784eaab04f427bc7e8851c2f1df0903be8e42428ec25dcefd907baff1" {
		t.Errorf("PolicyAuthorize %x", got)
	}
}

func FuzzQuote(f *testing.F) {
	f.Add([]byte("\xffTCG"))
	f.Fuzz(func(t *testing.T, raw []byte) { _, _ = ParseQuote(raw) })
}
