package vtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
)

func be16(v ...int) (out []byte) {
	for _, x := range v {
		out = binary.BigEndian.AppendUint16(out, uint16(x))
	}
	return out
}

func digestOf(h crypto.Hash, msg []byte) []byte {
	x := h.New()
	x.Write(msg)
	return x.Sum(nil)
}

// TestSignatureForms: every form of every kind of key is taken, and none is when a bit is wrong.
func TestSignatureForms(t *testing.T) {
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte("TPMS_ATTEST")
	must := func(sig []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	type form struct {
		name string
		key  crypto.PublicKey
		sig  []byte
		good bool
	}
	ssa := must(rsa.SignPKCS1v15(rand.Reader, rk, crypto.SHA256, digestOf(crypto.SHA256, msg)))
	ssa384 := must(rsa.SignPKCS1v15(rand.Reader, rk, crypto.SHA384, digestOf(crypto.SHA384, msg)))
	ssa1 := must(rsa.SignPKCS1v15(rand.Reader, rk, crypto.SHA1, digestOf(crypto.SHA1, msg)))
	pss := must(rsa.SignPSS(rand.Reader, rk, crypto.SHA256, digestOf(crypto.SHA256, msg), nil))
	short := must(rsa.SignPSS(rand.Reader, rk, crypto.SHA256, digestOf(crypto.SHA256, msg), &rsa.PSSOptions{SaltLength: 32}))
	forms := []form{
		{"RSASSA, bare", &rk.PublicKey, ssa, true},
		{"RSASSA, TPMT", &rk.PublicKey, append(be16(algRSASSA, int(SHA256), 256), ssa...), true},
		{"RSASSA, SHA-384", &rk.PublicKey, append(be16(algRSASSA, int(SHA384), 256), ssa384...), true},
		{"RSAPSS, longest salt", &rk.PublicKey, append(be16(algRSAPSS, int(SHA256), 256), pss...), true},
		{"RSAPSS, salt of 32", &rk.PublicKey, append(be16(algRSAPSS, int(SHA256), 256), short...), true},
		{"RSAPSS, bare", &rk.PublicKey, pss, false},
		{"RSASSA named RSAPSS", &rk.PublicKey, append(be16(algRSAPSS, int(SHA256), 256), ssa...), false},
		{"SHA-1", &rk.PublicKey, append(be16(algRSASSA, int(SHA1), 256), ssa1...), false},
		{"SHA-384, bare", &rk.PublicKey, ssa384, false},
		{"another size", &rk.PublicKey, append(be16(algRSASSA, int(SHA256), 255), ssa...), false},
		{"TPM-09 nothing", &rk.PublicKey, nil, false},
		{"HMAC", &rk.PublicKey, append(be16(5, int(SHA256), 256), ssa...), false},
		{"no key", nil, ssa, false},
		{"an RSA key of 1024 bits", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}, ssa[:128], false},
		{"SVC-18 an RSA key of 16384 bits", &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16383), E: 65537}, make([]byte, 2048), false},
	}
	for _, c := range []struct {
		curve elliptic.Curve
		bank  Bank
		size  int
	}{{elliptic.P256(), SHA256, 32}, {elliptic.P384(), SHA384, 48}} {
		k, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name := c.curve.Params().Name
		der := must(ecdsa.SignASN1(rand.Reader, k, digestOf(bankHash[c.bank], msg)))
		r, s, err := ecdsa.Sign(rand.Reader, k, digestOf(bankHash[c.bank], msg))
		if err != nil {
			t.Fatal(err)
		}
		fr, fs := r.FillBytes(make([]byte, c.size)), s.FillBytes(make([]byte, c.size))
		tpmt := func(alg int, b Bank, r, s []byte) []byte {
			return append(append(append(be16(alg, int(b), len(r)), r...), be16(len(s))...), s...)
		}
		other := SHA384
		if c.bank == SHA384 {
			other = SHA256
		}
		forms = append(forms, form{name + ", r and s", &k.PublicKey, append(append([]byte(nil), fr...), fs...), true},
			form{name + ", DER", &k.PublicKey, der, true},
			form{name + ", TPMT", &k.PublicKey, tpmt(algECDSA, c.bank, fr, fs), true},
			form{name + ", TPMT without leading zeros", &k.PublicKey, tpmt(algECDSA, c.bank, r.Bytes(), s.Bytes()), true},
			form{name + ", another hash named", &k.PublicKey, tpmt(algECDSA, other, fr, fs), false},
			form{name + ", Schnorr", &k.PublicKey, tpmt(0x1c, c.bank, fr, fs), false},
			form{name + ", bytes behind", &k.PublicKey, append(tpmt(algECDSA, c.bank, fr, fs), 0), false},
			form{name + ", cut", &k.PublicKey, tpmt(algECDSA, c.bank, fr, fs)[:20], false},
			form{name + ", s is zero", &k.PublicKey, tpmt(algECDSA, c.bank, fr, nil), false},
			form{name + ", r is the order", &k.PublicKey, tpmt(algECDSA, c.bank, c.curve.Params().N.Bytes(), fs), false},
			form{name + ", an RSA signature", &k.PublicKey, ssa, false},
			form{name + ", under an RSA key", &rk.PublicKey, der, false})
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forms = append(forms, form{"P-521", &p521.PublicKey, must(ecdsa.SignASN1(rand.Reader, p521, digestOf(crypto.SHA512, msg))), false})
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			err := CheckSignature(msg, f.sig, f.key)
			if (err == nil) != f.good || err != nil && evidence.CodeOf(err) != evidence.CodeChain && evidence.CodeOf(err) != evidence.CodeUnsupported {
				t.Errorf("got %v", err)
			}
			if !f.good {
				return
			}
			for i := range f.sig {
				f.sig[i] ^= 0x10
				if CheckSignature(msg, f.sig, f.key) == nil {
					t.Fatalf("TPM-09 byte %d of the signature does not count", i)
				}
				f.sig[i] ^= 0x10
			}
			if CheckSignature([]byte("TPMS_ATTESt"), f.sig, f.key) == nil {
				t.Error("TPM-09 another message")
			}
		})
	}
}

// TestECCQuote: an ECC key's quote has its PCR digest by the scheme's hash.
func TestECCQuote(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := PCRs{7: {1}, 11: {2}}
	quote := func(digest []byte) ([]byte, []byte) {
		raw := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: []byte("n")},
			Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: digest},
				PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0x80, 8, 0}}}}})})
		sig, err := ecdsa.SignASN1(rand.Reader, k, digestOf(crypto.SHA384, raw))
		if err != nil {
			t.Fatal(err)
		}
		return raw, sig
	}
	for _, r := range []struct {
		name   string
		digest []byte
		pcrs   PCRs
		want   evidence.Code
	}{
		{"SHA-384", concatenated(crypto.SHA384, []int{7, 11}, pcrs), pcrs, ""},
		{"TPM-03 other values", concatenated(crypto.SHA384, []int{7, 11}, pcrs), PCRs{7: {1}, 11: {3}}, evidence.CodeBinding},
		{"a SHA-1 digest", concatenated(crypto.SHA1, []int{7, 11}, pcrs), pcrs, evidence.CodeUnsupported},
		{"no digest", nil, pcrs, evidence.CodeUnsupported},
	} {
		t.Run(r.name, func(t *testing.T) {
			raw, sig := quote(r.digest)
			if _, err := VerifyQuote(raw, sig, &k.PublicKey, []byte("n"), r.pcrs); evidence.CodeOf(err) != r.want {
				t.Errorf("got %v, want %q", err, r.want)
			}
		})
	}
}

// realQuote is a quote of somebody else's TPM.
type realQuote struct {
	message, signature []byte
	pcrs               PCRs
	ak                 crypto.PublicKey
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hclKey(t testing.TB, raw []byte) crypto.PublicKey {
	t.Helper()
	r, err := hcl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := hcl.ParseClaims(r.Claims)
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.RSAKey(hcl.KeyAK)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func realQuotes(t testing.TB) map[string]realQuote {
	out := map[string]realQuote{}
	pcrs := func(all [][]byte) PCRs {
		p := PCRs{}
		for i, v := range all {
			p[i] = [32]byte(v)
		}
		return p
	}
	// Signature, message and values, each behind a length or number of 8 bytes.
	raw := vector(t, "vtpm-quote-azure", "quote.bin")
	take := func(n uint64) []byte { b := raw[:n]; raw = raw[n:]; return b }
	length := func() uint64 { return binary.LittleEndian.Uint64(take(8)) }
	q := realQuote{}
	q.signature = take(length())
	q.message = take(length())
	var all [][]byte
	for range length() {
		all = append(all, take(32))
	}
	q.pcrs = pcrs(all)
	block, _ := pem.Decode(vector(t, "vtpm-quote-azure", "akpub.pem"))
	var err error
	if q.ak, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	out["Azure, binary"] = q

	for _, name := range []string{"evidence-v1.json", "evidence-v2.json"} {
		var f struct {
			HCL   string `json:"hcl_report"`
			Quote struct {
				Message, Signature string
				PCRs               []string
			} `json:"tpm_quote"`
		}
		if err := json.Unmarshal(vector(t, "az-snp-vtpm-evidence", name), &f); err != nil {
			t.Fatal(err)
		}
		report, err := base64.URLEncoding.DecodeString(f.HCL)
		if err != nil {
			t.Fatal(err)
		}
		all = nil
		for _, v := range f.Quote.PCRs {
			all = append(all, unhex(t, v))
		}
		out["Azure, "+name] = realQuote{unhex(t, f.Quote.Message), unhex(t, f.Quote.Signature), pcrs(all), hclKey(t, report)}
	}
	for _, name := range []string{"evidence-v0.json", "evidence-genoa.json"} {
		var f struct {
			Report []uint16
			Quote  struct {
				Message, Signature []uint16
				PCRs               [][]uint16
			}
		}
		if err := json.Unmarshal(vector(t, "az-snp-vtpm-evidence", name), &f); err != nil {
			t.Fatal(err)
		}
		octets := func(in []uint16) []byte {
			b := make([]byte, len(in))
			for i, v := range in {
				b[i] = byte(v)
			}
			return b
		}
		all = nil
		for _, v := range f.Quote.PCRs {
			all = append(all, octets(v))
		}
		out["Azure, "+name] = realQuote{octets(f.Quote.Message), octets(f.Quote.Signature), pcrs(all), hclKey(t, octets(f.Report))}
	}
	var tr struct {
		AK    string `json:"ak_public"`
		Quote struct {
			Message, Signature string
			PCRs               []string
		} `json:"tpm_quote"`
	}
	if err := json.Unmarshal(vector(t, "tdx-trustee", "tpm_evidence.json"), &tr); err != nil {
		t.Fatal(err)
	}
	text := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	q = realQuote{message: text(tr.Quote.Message), signature: text(tr.Quote.Signature)}
	all = nil
	for _, v := range tr.Quote.PCRs {
		all = append(all, unhex(t, v))
	}
	q.pcrs = pcrs(all)
	if q.ak, err = x509.ParsePKIXPublicKey(text(tr.AK)); err != nil {
		t.Fatal(err)
	}
	out["a TPM, TPMT_SIGNATURE"] = q
	return out
}

func TestRealQuotes(t *testing.T) {
	for name, q := range realQuotes(t) {
		t.Run(name, func(t *testing.T) {
			parsed, err := OpenQuote(q.message, q.signature, q.ak)
			if err != nil {
				t.Fatal(err)
			}
			// The list of values names all 24; the quote may select fewer.
			pcrs := PCRs{}
			for _, n := range parsed.Selection {
				pcrs[n] = q.pcrs[n]
			}
			if err := parsed.CheckPCRs(pcrs); err != nil {
				t.Fatal(err)
			}
			for n := range pcrs {
				bad := PCRs{}
				for k, v := range pcrs {
					bad[k] = v
				}
				v := bad[n]
				v[31] ^= 1
				bad[n] = v
				if evidence.CodeOf(parsed.CheckPCRs(bad)) != evidence.CodeBinding {
					t.Errorf("TPM-03 PCR %d does not count", n)
				}
			}
			if evidence.CodeOf(parsed.CheckNonce([]byte{1, 2, 3, 4})) != evidence.CodeBinding {
				t.Error("TPM-01 another nonce is answered")
			}
			if parsed.CheckNonce(nil) == nil {
				t.Error("TPM-01 no nonce is answered")
			}
			sig := append([]byte(nil), q.signature...)
			for i := range sig {
				sig[i] = q.signature[len(sig)-1-i]
			}
			if _, err := OpenQuote(q.message, sig, q.ak); err == nil {
				t.Error("TPM-09 the signature backwards")
			}
			for n := range q.message {
				if _, err := ParseQuote(q.message[:n]); err == nil {
					t.Errorf("a prefix of %d bytes is a quote", n)
				}
			}
			if parsed.Counters.CheckAfter(parsed.Counters) != nil {
				t.Error("TPM-17 the same quote is behind itself")
			}
		})
	}
	if q := realQuotes(t)["Azure, binary"]; string(mustOpen(t, q).ExtraData) != "challenge" {
		t.Error("another nonce than the one published")
	}
}

func mustOpen(t testing.TB, q realQuote) *Quote {
	t.Helper()
	out, err := OpenQuote(q.message, q.signature, q.ak)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCounters(t *testing.T) {
	last := Counters{Clock: 1000, ResetCount: 5, RestartCount: 2, Safe: true}
	for _, r := range []struct {
		name            string
		now             Counters
		after, sameBoot bool
	}{
		{"later", Counters{1001, 5, 2, true}, true, true},
		{"at once", last, true, true},
		{"resumed", Counters{1001, 5, 3, true}, true, false},
		{"booted", Counters{1001, 6, 0, true}, true, false},
		{"booted after power was lost", Counters{900, 6, 0, false}, true, false},
		{"TPM-17 clock behind", Counters{999, 5, 2, true}, false, false},
		{"TPM-17 clock behind in one boot, though not safe", Counters{999, 5, 2, false}, false, false},
		{"TPM-17 clock behind after a boot", Counters{999, 6, 0, true}, false, false},
		{"TPM-17 fewer boots", Counters{2000, 4, 2, true}, false, false},
		{"TPM-17 fewer resumes", Counters{2000, 5, 1, true}, false, false},
		{"TPM-17 cleared", Counters{0, 0, 0, true}, false, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := r.now.CheckAfter(last); (err == nil) != r.after || err != nil && evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("after: %v", err)
			}
			if err := r.now.CheckSameBoot(last); (err == nil) != r.sameBoot || err != nil && evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("same boot: %v", err)
			}
		})
	}
}

func TestPublicAreas(t *testing.T) {
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaArea := func(change func(*tpm2.TPMTPublic)) []byte {
		a := AKTemplate()
		a.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: rk.N.Bytes()})
		if change != nil {
			change(&a)
		}
		return tpm2.Marshal(tpm2.New2B(a))
	}
	ecc := func(curve elliptic.Curve, id tpm2.TPMECCCurve, off byte) []byte {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		point[len(point)-1] ^= off
		n := (len(point) - 1) / 2
		a := AKTemplate()
		a.Type = tpm2.TPMAlgECC
		a.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: id, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull}})
		a.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+n:]}})
		return tpm2.Marshal(tpm2.New2B(a))
	}
	for _, r := range []struct {
		name string
		raw  []byte
		want evidence.Code
	}{
		{"RSA", rsaArea(nil), ""},
		{"P-256", ecc(elliptic.P256(), tpm2.TPMECCNistP256, 0), ""},
		{"P-384", ecc(elliptic.P384(), tpm2.TPMECCNistP384, 0), ""},
		{"P-521", ecc(elliptic.P521(), tpm2.TPMECCNistP521, 0), evidence.CodeParse},
		{"a point off the curve", ecc(elliptic.P256(), tpm2.TPMECCNistP256, 1), evidence.CodeParse},
		{"a point of another curve", ecc(elliptic.P384(), tpm2.TPMECCNistP256, 0), evidence.CodeParse},
		{"bytes behind", append(rsaArea(nil), 0), evidence.CodeParse},
		{"nothing", nil, evidence.CodeParse},
		{"exponent 3", rsaArea(func(a *tpm2.TPMTPublic) {
			p, _ := a.Parameters.RSADetail()
			p.Exponent = 3
		}), evidence.CodeParse},
		{"another size than stated", rsaArea(func(a *tpm2.TPMTPublic) {
			p, _ := a.Parameters.RSADetail()
			p.KeyBits = 3072
		}), evidence.CodeParse},
		{"name algorithm SHA-1", rsaArea(func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgSHA1 }), evidence.CodeUnsupported},
	} {
		t.Run(r.name, func(t *testing.T) {
			p, err := ParsePublic("AK", r.raw)
			if evidence.CodeOf(err) != r.want {
				t.Fatalf("got %v, want %q", err, r.want)
			}
			if err == nil && (p.Check("AK", AttestationKey) != nil || len(p.Name) != 34) {
				t.Error("not an attestation key")
			}
		})
	}
	for name, change := range map[string]func(*tpm2.TPMAObject){
		"TPM-08 not restricted": func(o *tpm2.TPMAObject) { o.Restricted = false },
		"can leave":             func(o *tpm2.TPMAObject) { o.FixedTPM = false },
		"can move":              func(o *tpm2.TPMAObject) { o.FixedParent = false },
		"imported":              func(o *tpm2.TPMAObject) { o.SensitiveDataOrigin = false },
		"decrypts":              func(o *tpm2.TPMAObject) { o.Decrypt = true },
		"does not sign":         func(o *tpm2.TPMAObject) { o.SignEncrypt = false },
	} {
		p, err := ParsePublic("AK", rsaArea(func(a *tpm2.TPMTPublic) { change(&a.ObjectAttributes) }))
		if err != nil {
			t.Fatal(err)
		}
		if evidence.CodeOf(p.Check("AK", AttestationKey)) != evidence.CodeConfig {
			t.Errorf("%s: taken for an attestation key", name)
		}
	}
}

func TestCertifiedName(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: []byte("name")}})})
	sum := sha256.Sum256(raw)
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if name, err := CertifiedName("key", raw, sig, &k.PublicKey); err != nil || string(name) != "name" {
		t.Fatalf("positive twin: %v", err)
	}
	if _, err := ParseQuote(raw); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("a certification is read as a quote: %v", err)
	}
	if _, err := CertifiedName("key", raw, append([]byte{1}, sig[1:]...), &k.PublicKey); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("TPM-09 %v", err)
	}
}

func FuzzPublic(f *testing.F) {
	a := AKTemplate()
	a.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: append([]byte{0xff}, make([]byte, 255)...)})
	f.Add(tpm2.Marshal(tpm2.New2B(a)))
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParsePublic("key", raw)
		if err != nil {
			return
		}
		if string(tpm2.Marshal(tpm2.New2B(p.Area))) != string(raw) {
			t.Fatal("does not come back")
		}
		_ = p.Check("key", AttestationKey)
	})
}

func FuzzSignature(f *testing.F) {
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	ek, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(be16(algRSASSA, int(SHA256), 256), make([]byte, 256)...))
	f.Add(append(be16(algECDSA, int(SHA256), 32), make([]byte, 66)...))
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, sig []byte) {
		for _, key := range []crypto.PublicKey{&rk.PublicKey, &ek.PublicKey} {
			if CheckSignature([]byte("message"), sig, key) == nil {
				t.Fatal("TPM-09 a signature that nobody made")
			}
		}
	})
}
