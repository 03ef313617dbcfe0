// Package judgetest makes evidence of every form, under a software root of its own, for tests of those who judge. The
// signatures are real. Everything takes a testing.TB, so that no product can use it.
package judgetest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strconv"
	"testing"
	"unicode/utf16"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/vtpm"
)

// Now is a time at which everything made here is valid.
var Now = sevsnptest.Now

// What the VM's evidence says.
var (
	Measurement = [48]byte{0xaa}
	HostData    = [32]byte{1, 2, 3}
	Nonce       = bytes.Repeat([]byte{7}, 32)
	HostKey     = []byte("host key in wire format")
)

// VM is a VM under a software root whose keys are in the test's hands.
type VM struct {
	Chip *sevsnptest.Chip
	AK   *rsa.PrivateKey
	PCRs vtpm.PCRs
	Log  []byte
}

// New makes a VM, with a root of its own.
func New(t testing.TB) *VM {
	t.Helper()
	vendor := sevsnptest.New(t, sevsnp.Milan)
	vendor.ARK = vendor.Authority(t, soft.RootName, 1, &vendor.ARKKey.PublicKey, nil, vendor.ARKKey)
	vendor.ASK = vendor.Authority(t, soft.IntermediateName, 2, &vendor.ASKKey.PublicKey, vendor.ARK, vendor.ARKKey)
	v := &VM{Chip: vendor.Chip(t, sevsnp.TCB{BootLoader: 4, SNP: 0x18, Microcode: 0xdb}, nil)}
	var err error
	if v.AK, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	log := boot()
	v.Log, v.PCRs = marshalLog(log), replay(log)
	v.PCRs[11] = [32]byte{11}
	v.PCRs[12], v.PCRs[13] = [32]byte{}, [32]byte{}
	return v
}

// RootPEM is the certificate of the VM's root.
func (v *VM) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Chip.Chain.Root.Raw})
}

// Root names the VM's root.
func (v *VM) Root(t testing.TB) soft.Root {
	t.Helper()
	r, err := soft.ParseRoot(v.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Report is a signed report; change may be nil.
func (v *VM) Report(t testing.TB, data [64]byte, change func(*sevsnp.Report)) []byte {
	t.Helper()
	r := v.Chip.Report()
	r.Measurement, r.HostData, r.ReportData = Measurement, HostData, data
	if change != nil {
		change(r)
	}
	return v.Chip.Sign(t, r).Marshal()
}

// HCL is an HCL report about the VM's attestation key.
func (v *VM) HCL(t testing.TB, change func(*sevsnp.Report)) []byte {
	t.Helper()
	user := bundle.UserData(HostKey)
	c := hcl.RuntimeClaims{Keys: []hcl.JWK{hcl.JWKFromRSA(hcl.KeyAK, "sign", &v.AK.PublicKey)},
		VMConfiguration: hcl.VMConfiguration{SecureBoot: true, TPMEnabled: true, VMUniqueID: "B6C98C3B-4EC7-4DA6-BD2F-7D98D20D7B75"}, UserData: hex.EncodeToString(user[:])}
	claims, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := (&hcl.Report{Version: 2, Type: hcl.TypeSNP, Hardware: v.Report(t, hcl.ReportData(claims), change), Claims: claims}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Quote is a quote over the VM's PCRs whose extra data is this.
func (v *VM) Quote(t testing.TB, extra []byte) (quote, signature []byte) {
	t.Helper()
	mask, h := make([]byte, 3), sha256.New()
	for n := range 24 {
		if value, ok := v.PCRs[n]; ok {
			mask[n/8] |= 1 << (n % 8)
			h.Write(value[:])
		}
	}
	quote = tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: extra},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}})})
	sum := sha256.Sum256(quote)
	signature, err := rsa.SignPKCS1v15(rand.Reader, v.AK, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return quote, signature
}

// Bundle is our own bundle, which answers a challenge; change may be nil.
func (v *VM) Bundle(t testing.TB, challenge []byte, change func(*bundle.Bundle)) []byte {
	t.Helper()
	area := vtpm.AKTemplate()
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: v.AK.N.Bytes()})
	b := bundle.Bundle{HCLReport: v.HCL(t, nil), Chain: string(v.Chip.Chain.PEM()), AKPublic: tpm2.Marshal(tpm2.New2B(area)), PCRs: map[string]string{},
		EventLog: v.Log, Nonce: challenge, SSHHostKey: HostKey}
	for n, value := range v.PCRs {
		b.PCRs[strconv.Itoa(n)] = hex.EncodeToString(value[:])
	}
	b.Quote, b.Signature = v.Quote(t, vtpm.NonceFor(challenge))
	if change != nil {
		change(&b)
	}
	raw, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Azure is evidence in the JSON form of Azure's CVMs, with a quote over PCR 0 to 23 whose extra data is the nonce; change
// may be nil.
func (v *VM) Azure(t testing.TB, nonce []byte, change func(map[string]any)) []byte {
	t.Helper()
	all := vtpm.PCRs{}
	list := make([]string, 24)
	for n := range list {
		value := v.PCRs[n]
		all[n], list[n] = value, hex.EncodeToString(value[:])
	}
	whole := *v
	whole.PCRs = all
	quote, signature := whole.Quote(t, nonce)
	members := map[string]any{"version": 1, "hcl_report": base64.RawURLEncoding.EncodeToString(v.HCL(t, nil)), "vcek": base64.RawURLEncoding.EncodeToString(v.Chip.Chain.Leaf.Raw),
		"tpm_quote": map[string]any{"message": hex.EncodeToString(quote), "signature": hex.EncodeToString(signature), "pcrs": list}}
	if change != nil {
		change(members)
	}
	raw, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// logEvent is one record of a log that is being made.
type logEvent struct {
	pcr  int
	typ  uint32
	data []byte
}

// Types of events. Source: TCG PC Client Platform Firmware Profile.
const (
	separator   = 4
	crtmVersion = 8
	variable    = 0x80000001
	application = 0x80000003
	action      = 0x80000007
	authority   = 0x800000e0
)

// boot is the log of a boot with Secure Boot, as short as the rules allow.
func boot() []logEvent {
	log := []logEvent{{0, crtmVersion, []byte("v")}, {7, variable, uefiVariable("SecureBoot", []byte{1})}, {7, variable, uefiVariable("PK", []byte("k"))},
		{4, action, []byte("Calling EFI Application from Boot Option")}}
	for p := range 8 {
		log = append(log, logEvent{p, separator, make([]byte, 4)})
	}
	return append(log, logEvent{7, authority, []byte("db")}, logEvent{4, application, []byte("image")},
		logEvent{5, action, []byte("Exit Boot Services Invocation")}, logEvent{5, action, []byte("Exit Boot Services Returned with Success")})
}

func uefiVariable(name string, value []byte) []byte {
	b := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c} // EFI_GLOBAL_VARIABLE
	units := utf16.Encode([]rune(name))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, value...)
}

func replay(log []logEvent) vtpm.PCRs {
	p := vtpm.PCRs{}
	for _, e := range log {
		old, d := p[e.pcr], sha256.Sum256(e.data)
		p[e.pcr] = sha256.Sum256(append(old[:], d[:]...))
	}
	return p
}

// marshalLog writes a crypto-agile log with the SHA-256 bank alone.
func marshalLog(log []logEvent) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 1)
	spec = le.AppendUint16(spec, 0xb)
	spec = le.AppendUint16(spec, 32)
	spec = append(spec, 0)
	out := append(make([]byte, 4), 3, 0, 0, 0)
	out = append(out, make([]byte, 20)...)
	out = le.AppendUint32(out, uint32(len(spec)))
	out = append(out, spec...)
	for _, e := range log {
		d := sha256.Sum256(e.data)
		out = le.AppendUint32(out, uint32(e.pcr))
		out = le.AppendUint32(out, e.typ)
		out = le.AppendUint32(out, 1)
		out = le.AppendUint16(out, 0xb)
		out = append(out, d[:]...)
		out = le.AppendUint32(out, uint32(len(e.data)))
		out = append(out, e.data...)
	}
	return out
}
