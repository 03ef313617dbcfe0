package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/token"
)

// fakeTPM signs what a vTPM would: its keys are in the test's hands.
type fakeTPM struct{ ak, ek, enc *rsa.PrivateKey }

const vmUniqueID = "B6C98C3B-4EC7-4DA6-BD2F-7D98D20D7B75"

func newTPM(t testing.TB) *fakeTPM {
	t.Helper()
	var keys [3]*rsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	return &fakeTPM{keys[0], keys[1], keys[2]}
}

func public(key *rsa.PublicKey, a tpm2.TPMAObject, policy []byte) []byte {
	a.FixedTPM, a.FixedParent, a.SensitiveDataOrigin = !a.FixedTPM, true, true // FixedTPM set by a test means: leave it out
	parms := tpm2.TPMSRSAParms{KeyBits: 2048}
	return tpm2.Marshal(tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &parms),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})}))
}

var (
	signing    = tpm2.TPMAObject{Restricted: true, SignEncrypt: true, UserWithAuth: true}
	decrypting = tpm2.TPMAObject{Restricted: true, Decrypt: true, AdminWithPolicy: true}
)

func (f *fakeTPM) claims(t testing.TB) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"keys": []any{hcl.JWKFromRSA(hcl.KeyAK, "sign", &f.ak.PublicKey), hcl.JWKFromRSA(hcl.KeyEK, "encrypt", &f.ek.PublicKey)},
		"vm-configuration": map[string]any{"secure-boot": true, "tpm-enabled": true, "vmUniqueId": vmUniqueID}, "user-data": strings.Repeat("0", 128)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (w *world) hardware(t testing.TB, claims []byte, change func(*sevsnp.Report)) []byte {
	t.Helper()
	return w.report(t, w.chip, func(r *sevsnp.Report) {
		r.ReportData = hcl.ReportData(claims)
		if change != nil {
			change(r)
		}
	}).Report
}

func TestAKCertificate(t *testing.T) {
	w, f := newWorld(t), newTPM(t)
	claims := f.claims(t)
	good := func(change func(*sevsnp.Report)) client.AKRequest {
		raw, err := (&hcl.Report{Version: 2, Type: hcl.TypeSNP, Hardware: w.hardware(t, claims, change), Claims: claims}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return client.AKRequest{HCLReport: append(raw, make([]byte, 100)...), ChainPEM: w.chip.Chain.PEM(), InitTimeData: initData,
			AKPublic: public(&f.ak.PublicKey, signing, nil), EKPublic: public(&f.ek.PublicKey, decrypting, make([]byte, 32))}
	}
	ctx, c := t.Context(), w.client("/software")
	der, err := c.AKCertificate(ctx, good(nil))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || !f.ak.PublicKey.Equal(cert.PublicKey) || len(der) > 4096 || cert.CheckSignatureFrom(cert) == nil {
		t.Errorf("certificate %v, %v", cert.Subject, err)
	}
	stranger := newTPM(t)
	for name, r := range map[string]struct {
		change func(*client.AKRequest)
		code   evidence.Code
	}{
		"TPM-07 another AK": {func(r *client.AKRequest) { r.AKPublic = public(&stranger.ak.PublicKey, signing, nil) }, evidence.CodeBinding},
		"TPM-16 another EK": {func(r *client.AKRequest) { r.EKPublic = public(&stranger.ek.PublicKey, decrypting, nil) }, evidence.CodeBinding},
		"an AK that signs anything": {func(r *client.AKRequest) {
			r.AKPublic = public(&f.ak.PublicKey, tpm2.TPMAObject{SignEncrypt: true}, nil)
		}, evidence.CodeConfig},
		"an AK that can leave the TPM": {func(r *client.AKRequest) {
			r.AKPublic = public(&f.ak.PublicKey, tpm2.TPMAObject{FixedTPM: true, Restricted: true, SignEncrypt: true}, nil)
		}, evidence.CodeConfig},
		"an EK that signs":                 {func(r *client.AKRequest) { r.EKPublic = public(&f.ek.PublicKey, signing, nil) }, evidence.CodeConfig},
		"bytes behind the public area":     {func(r *client.AKRequest) { r.AKPublic = append(r.AKPublic, 0) }, evidence.CodeParse},
		"no AK":                            {func(r *client.AKRequest) { r.AKPublic = nil }, evidence.CodeParse},
		"claims changed":                   {func(r *client.AKRequest) { r.HCLReport[1250] ^= 1 }, ""},
		"SNP-24 other init data":           {func(r *client.AKRequest) { r.InitTimeData = []byte(`{}`) }, evidence.CodeBinding},
		"SNP-14 another chain":             {func(r *client.AKRequest) { r.ChainPEM = w.amdLike.Chain.PEM() }, evidence.CodeChain},
		"SNP-03 debug, by default policy":  {func(r *client.AKRequest) { *r = good(func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }) }, evidence.CodePolicy},
		"SNP-02 VMPL 2, by default policy": {func(r *client.AKRequest) { *r = good(func(r *sevsnp.Report) { r.VMPL = 2 }) }, evidence.CodePolicy},
	} {
		t.Run(name, func(t *testing.T) {
			in := good(nil)
			r.change(&in)
			got, err := c.AKCertificate(ctx, in)
			if code := evidence.CodeOf(err); got != nil || code == "" || r.code != "" && code != r.code {
				t.Errorf("got %d bytes, %v; want %s", len(got), err, r.code)
			}
		})
	}
}

// bootLog is a small log with its registers: Secure Boot variables and separators.
type bootLog struct {
	raw  []byte
	pcrs map[int][32]byte
}

func newLog() *bootLog {
	spec := append([]byte("Spec ID Event03\x00"), make([]byte, 8)...)
	spec = binary.LittleEndian.AppendUint32(spec, 1)
	spec = binary.LittleEndian.AppendUint16(spec, 0x000b)
	spec = append(binary.LittleEndian.AppendUint16(spec, 32), 0)
	l := &bootLog{pcrs: map[int][32]byte{11: {11}, 12: {}, 13: {}}}
	l.raw = binary.LittleEndian.AppendUint32(l.raw, 0)
	l.raw = binary.LittleEndian.AppendUint32(l.raw, 3)
	l.raw = append(l.raw, make([]byte, 20)...)
	l.raw = append(binary.LittleEndian.AppendUint32(l.raw, uint32(len(spec))), spec...)
	return l
}

func (l *bootLog) add(pcr int, kind uint32, data []byte) {
	l.addDigest(pcr, kind, sha256.Sum256(data), data)
}

func (l *bootLog) addDigest(pcr int, kind uint32, digest [32]byte, data []byte) {
	for _, v := range []uint32{uint32(pcr), kind, 1} {
		l.raw = binary.LittleEndian.AppendUint32(l.raw, v)
	}
	l.raw = append(binary.LittleEndian.AppendUint16(l.raw, 0x000b), digest[:]...)
	l.raw = append(binary.LittleEndian.AppendUint32(l.raw, uint32(len(data))), data...)
	was := l.pcrs[pcr]
	l.pcrs[pcr] = sha256.Sum256(append(was[:], digest[:]...))
}

func (l *bootLog) variable(name string, value []byte) {
	guid, _ := hex.DecodeString("61dfe48bca93d211aa0d00e098032b8c")
	if name == "db" || name == "dbx" {
		guid, _ = hex.DecodeString("cbb219d73a3d9645a3bcdad00e67656f")
	}
	u := utf16.Encode([]rune(name))
	data := binary.LittleEndian.AppendUint64(guid, uint64(len(u)))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(value)))
	for _, c := range u {
		data = binary.LittleEndian.AppendUint16(data, c)
	}
	l.add(7, 0x80000001, append(data, value...))
}

func goodLog(secure byte) *bootLog {
	l := newLog()
	l.add(0, 8, []byte("firmware"))
	l.variable("SecureBoot", []byte{secure})
	for _, n := range []string{"PK", "KEK", "db", "dbx"} {
		l.variable(n, []byte("list of "+n))
	}
	for n := range 8 {
		l.add(n, 4, []byte{0, 0, 0, 0})
	}
	l.add(4, 0x80000003, []byte("UKI"))
	return l
}

// stockLog covers the registers that Azure's clients send for Linux.
func stockLog() *bootLog {
	l := goodLog(1)
	for _, n := range []int{11, 12, 13} {
		delete(l.pcrs, n)
	}
	return l
}

func (f *fakeTPM) quote(t testing.TB, pcrs map[int][32]byte, extra []byte, change func(*tpm2.TPMSAttest)) (raw, sig []byte) {
	t.Helper()
	var bits [3]byte
	h := sha256.New()
	for n := range 24 {
		if v, ok := pcrs[n]; ok {
			bits[n/8] |= 1 << (n % 8)
			h.Write(v[:])
		}
	}
	a := tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: extra},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits[:]}}}})}
	if change != nil {
		change(&a)
	}
	raw = tpm2.Marshal(a)
	return raw, f.sign(t, raw)
}

func (f *fakeTPM) sign(t testing.TB, raw []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(raw)
	sig, err := rsa.SignPKCS1v15(rand.Reader, f.ak, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (w *world) guest(t testing.TB, f *fakeTPM, l *bootLog, nonce string) client.Guest {
	t.Helper()
	claims := f.claims(t)
	extra := sha256.Sum256([]byte(nonce))
	g := client.Guest{OSType: "Linux", OSDistro: "Debian", OSBuild: "x", OSVersionMajor: 12, OSVersionMinor: 5, EventLog: l.raw, PCRs: l.pcrs,
		ClientPayload: map[string][]byte{"nonce": []byte(nonce)}, AKPublic: public(&f.ak.PublicKey, signing, nil),
		Report: w.hardware(t, claims, nil), ChainPEM: w.chip.Chain.PEM(), RuntimeClaims: claims, InitTimeData: initData}
	g.Quote, g.QuoteSignature = f.quote(t, l.pcrs, extra[:], nil)
	return g
}

// policyPCR is written from the TPM's specification, not with the code under test.
func policyPCR(pcrs map[int][32]byte) []byte {
	var bits [3]byte
	h := sha256.New()
	for n := range 24 {
		if v, ok := pcrs[n]; ok {
			bits[n/8] |= 1 << (n % 8)
			h.Write(v[:])
		}
	}
	in := append(make([]byte, 32), 0, 0, 0x01, 0x7f, 0, 0, 0, 1, 0, 0x0b, 3, bits[0], bits[1], bits[2])
	sum := sha256.Sum256(append(in, h.Sum(nil)...))
	return sum[:]
}

func (f *fakeTPM) encrypted(t testing.TB, g client.Guest, a tpm2.TPMAObject, policy []byte) client.Guest {
	t.Helper()
	g.EncKeyPublic = public(&f.enc.PublicKey, a, policy)
	name := sha256.Sum256(g.EncKeyPublic[2:])
	g.EncKeyCertify = tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, name[:]...)}})})
	g.EncKeyCertifySignature = f.sign(t, g.EncKeyCertify)
	g.Decrypt = func(_ context.Context, wrapped []byte) ([]byte, error) {
		//lint:ignore SA1019 the protocol of the guest attestation client fixes this padding
		return rsa.DecryptPKCS1v15(nil, f.enc, wrapped)
	}
	return g
}

func TestAzureGuest(t *testing.T) {
	w, f, l := newWorld(t), newTPM(t), goodLog(1)
	ctx, c := t.Context(), w.client("/software")
	check := func(compact string, err error) *token.Token {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	tok := check(c.AzureGuest(ctx, w.guest(t, f, l, "n1")))
	pcr4 := l.pcrs[4]
	for path, want := range map[string]any{
		"x-ms-attestation-type": "azurevm", "secureboot": true, "x-ms-azurevm-dbvalidated": true, "x-ms-azurevm-vmid": vmUniqueID, "x-ms-azurevm-osversion-major": 12.0,
		"x-ms-isolation-tee.x-ms-attestation-type": "sevsnpvm", "x-ms-isolation-tee.x-ms-sevsnpvm-snpfw-svn": 21.0, "x-ms-isolation-tee.x-ms-runtime.vm-configuration.vmUniqueId": vmUniqueID,
		"x-ms-runtime.client-payload.nonce": "bjE=", "x-cloister-pcr4": hex.EncodeToString(pcr4[:]), "x-cloister-pcr12": strings.Repeat("0", 64), "x-cloister-root": "software",
	} {
		if got, _ := tok.Lookup(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if got := fmt.Sprint(tok.Claims["x-ms-azurevm-attested-pcrs"]); got != "[0 1 2 3 4 5 6 7 11 12 13]" {
		t.Errorf("attested registers %s", got)
	}
	if tok := check(c.AzureGuest(ctx, w.guest(t, f, goodLog(0), "n1"))); tok.Claims["secureboot"] != false {
		t.Error("Secure Boot is off, and the token says on")
	}
	azure := f.encrypted(t, w.guest(t, f, l, "n1"), tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(l.pcrs))
	azure.Quote, azure.QuoteSignature = f.quote(t, l.pcrs, nil, nil)
	tok = check(c.AzureGuest(ctx, azure))
	if keys, _ := tok.Lookup("x-ms-runtime.keys"); len(keys.([]any)) != 1 || keys.([]any)[0].(map[string]any)["kid"] != "TpmEphemeralEncryptionKey" {
		t.Errorf("keys %v", keys)
	}
	stock := f.encrypted(t, w.guest(t, f, stockLog(), "n1"), tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(stockLog().pcrs))
	stock.Quote, stock.QuoteSignature = f.quote(t, stock.PCRs, nil, nil)
	tok = check(c.AzureGuest(ctx, stock))
	if got := fmt.Sprint(tok.Claims["x-ms-azurevm-attested-pcrs"]); got != "[0 1 2 3 4 5 6 7]" {
		t.Errorf("attested registers of a stock client %s", got)
	}
	for n, want := range map[int]bool{4: true, 7: true, 11: false, 12: false, 13: false} {
		if _, got := tok.Claims[fmt.Sprintf("x-cloister-pcr%d", n)]; got != want {
			t.Errorf("x-cloister-pcr%d of a stock client: %t, want %t", n, got, want)
		}
	}

	stranger := newTPM(t)
	twice := goodLog(1)
	twice.variable("SecureBoot", []byte{1})
	late := newLog()
	late.add(0, 8, []byte("firmware"))
	for n := range 8 {
		late.add(n, 4, []byte{0, 0, 0, 0})
	}
	late.variable("SecureBoot", []byte{1})
	forged := newLog()
	forged.add(0, 8, []byte("firmware"))
	forged.variable("SecureBoot", []byte{1})
	data := bytes.Clone(forged.raw)
	for n := range 8 {
		forged.add(n, 4, []byte{0, 0, 0, 0})
	}
	forged.raw = append(append(data[:len(data)-1], 0), forged.raw[len(data):]...) // the value off, its digest kept
	resigned := func(g *client.Guest, extra []byte, change func(*tpm2.TPMSAttest)) {
		g.Quote, g.QuoteSignature = f.quote(t, g.PCRs, extra, change)
	}
	nonce := sha256.Sum256([]byte("n1"))
	other := goodLog(1)
	other.pcrs[11] = [32]byte{1}
	for _, r := range []struct {
		name   string
		change func(*client.Guest)
		code   evidence.Code
	}{
		{"TPM-01 quote of another session", func(g *client.Guest) { g.ClientPayload["nonce"] = []byte("n2") }, evidence.CodeBinding},
		{"TPM-01 no nonce", func(g *client.Guest) { g.ClientPayload = nil }, evidence.CodeBinding},
		{"TPM-01 plain answer to a quote without nonce", func(g *client.Guest) { resigned(g, nil, nil) }, evidence.CodeBinding},
		{"TPM-02 the nonce itself and not its digest", func(g *client.Guest) { resigned(g, []byte("n1"), nil) }, evidence.CodeBinding},
		{"TPM-03 quote over fewer registers", func(g *client.Guest) {
			g.Quote, g.QuoteSignature = f.quote(t, map[int][32]byte{0: g.PCRs[0]}, nonce[:], nil)
		}, evidence.CodeBinding},
		{"TPM-03 registers beside the quote", func(g *client.Guest) { g.PCRs = other.pcrs }, evidence.CodeBinding},
		{"TPM-12 quote of the SHA-1 bank", func(g *client.Guest) {
			resigned(g, nonce[:], func(a *tpm2.TPMSAttest) {
				q, _ := a.Attested.Quote()
				q.PCRSelect.PCRSelections[0].Hash = tpm2.TPMAlgSHA1
			})
		}, evidence.CodeMeasurement},
		{"TPM-13 PCR 7 not extended", func(g *client.Guest) {
			g.PCRs[7] = [32]byte{}
			resigned(g, nonce[:], nil)
		}, evidence.CodeMeasurement},
		{"a register that claims need", func(g *client.Guest) {
			delete(g.PCRs, 5)
			resigned(g, nonce[:], nil)
		}, evidence.CodeBinding},
		{"TPM-07 another TPM's AK", func(g *client.Guest) {
			g.AKPublic = public(&stranger.ak.PublicKey, signing, nil)
			g.Quote, g.QuoteSignature = stranger.quote(t, g.PCRs, nonce[:], nil)
		}, evidence.CodeBinding},
		{"TPM-08 magic", func(g *client.Guest) { resigned(g, nonce[:], func(a *tpm2.TPMSAttest) { a.Magic = 1 }) }, evidence.CodeParse},
		{"TPM-08 unrestricted key", func(g *client.Guest) { g.AKPublic = public(&f.ak.PublicKey, tpm2.TPMAObject{SignEncrypt: true}, nil) }, evidence.CodeConfig},
		{"TPM-09 random signature", func(g *client.Guest) { g.QuoteSignature[5] ^= 1 }, evidence.CodeChain},
		{"TPM-06 no log", func(g *client.Guest) { g.EventLog = nil }, evidence.CodeMeasurement},
		{"TPM-06 log cut behind an event", func(g *client.Guest) { g.EventLog = g.EventLog[:len(g.EventLog)-53] }, evidence.CodeMeasurement},
		{"TPM-06 log cut in an event", func(g *client.Guest) { g.EventLog = g.EventLog[:len(g.EventLog)-1] }, evidence.CodeParse},
		{"TPM-06 another log", func(g *client.Guest) { g.EventLog = goodLog(0).raw }, evidence.CodeMeasurement},
		{"TPM-04 a variable twice", func(g *client.Guest) { *g = w.guest(t, f, twice, "n1") }, evidence.CodeMeasurement},
		{"TPM-04 a variable behind the separator", func(g *client.Guest) { *g = w.guest(t, f, late, "n1") }, evidence.CodeMeasurement},
		{"TPM-05 data that do not fit their digest", func(g *client.Guest) { *g = w.guest(t, f, forged, "n1") }, evidence.CodeMeasurement},
		{"SNP-01 other runtime claims", func(g *client.Guest) { g.RuntimeClaims = stranger.claims(t) }, evidence.CodeBinding},
		{"Windows", func(g *client.Guest) { g.OSType = "Windows" }, evidence.CodeUnsupported},
		{"ephemeral key without policy", func(g *client.Guest) { *g = f.encrypted(t, *g, tpm2.TPMAObject{Decrypt: true, NoDA: true}, nil) }, evidence.CodeBinding},
		{"ephemeral key for other registers", func(g *client.Guest) {
			*g = f.encrypted(t, *g, tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(other.pcrs))
		}, evidence.CodeBinding},
		{"ephemeral key usable without its policy", func(g *client.Guest) {
			*g = f.encrypted(t, *g, tpm2.TPMAObject{Decrypt: true, NoDA: true, UserWithAuth: true}, policyPCR(g.PCRs))
		}, evidence.CodeConfig},
		{"TPM-18 another ephemeral key in the envelope", func(g *client.Guest) {
			*g = f.encrypted(t, *g, tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(g.PCRs))
			g.EncKeyPublic = public(&stranger.enc.PublicKey, tpm2.TPMAObject{Decrypt: true, NoDA: true}, policyPCR(g.PCRs))
		}, evidence.CodeBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			g := w.guest(t, f, goodLog(1), "n1")
			r.change(&g)
			got, err := c.AzureGuest(ctx, g)
			if code := evidence.CodeOf(err); got != "" || code != r.code {
				t.Errorf("got %q, %v; want %s", got, err, r.code)
			}
		})
	}
}
