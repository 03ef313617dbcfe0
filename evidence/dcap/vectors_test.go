package dcap_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIPPED, NOT TESTED: vector %s is missing; set CLOISTER_VECTORS", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".hex") {
		if raw, err = hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(raw)), "0x")); err != nil {
			t.Fatal(err)
		}
	}
	return raw
}

// quote is what a test needs of a quote: package tdx reads the rest.
type quote struct {
	version   uint16
	tee       dcap.TEE
	signed    []byte
	signature []byte
	tcbsvn    [16]byte
}

func split(t testing.TB, raw []byte) quote {
	t.Helper()
	q := quote{version: binary.LittleEndian.Uint16(raw), tee: dcap.TEE(binary.LittleEndian.Uint32(raw[4:]))}
	start, size := 48, 584
	switch {
	case q.version == 3:
		q.tee, size = dcap.SGX, 384
	case q.version == 5:
		start, size = 54, int(binary.LittleEndian.Uint32(raw[50:]))
	}
	end := start + size
	q.signed, q.tcbsvn = raw[:end], [16]byte(raw[start:])
	q.signature = raw[end+4:][:binary.LittleEndian.Uint32(raw[end:])]
	return q
}

func verify(t testing.TB, q quote, o dcap.Options) (*dcap.Verified, error) {
	t.Helper()
	s, err := dcap.ParseSignatureData(q.version, q.signature)
	if err != nil {
		return nil, err
	}
	return dcap.Verify(q.signed, s, o)
}

func day(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// realQuotes are quotes of platforms in service, with a time at which their PCK certificates hold.
var realQuotes = []struct{ name, fmspc, ca, at string }{
	{"dcap-automata/quote_tdx.bin", "00806f050000", dcap.Platform, "2025-07-01"},
	{"dcap-automata/alibaba_quote_5.dat", "90c06f000000", dcap.Platform, "2025-07-01"},
	{"dcap-automata/tdx_quote_5.dat", "90c06f000000", dcap.Platform, "2025-07-01"},
	{"dcap-automata/quote_sgx.bin", "00a067110000", dcap.Processor, "2025-07-01"},
	{"dcap-quotes-with-collateral/tdx_quote", "b0c06f000000", dcap.Platform, "2025-07-01"},
	{"dcap-quotes-with-collateral/tdx_quote_outdated", "90c06f000000", dcap.Platform, "2026-02-01"},
	{"dcap-quotes-with-collateral/sgx_quote", "00a067110000", dcap.Processor, "2025-07-01"},
	{"dcap-quotes-with-collateral/tdx-quote.hex", "b0c06f000000", dcap.Platform, "2025-07-01"},
	{"dcap-quotes-with-collateral/quote-from-tappd.hex", "b0c06f000000", dcap.Platform, "2025-07-01"},
	{"tdx-gotdxguest/quote_v5_sample.dat", "90c06f000000", dcap.Platform, "2026-02-01"},
	{"tdx-gotdxguest/tdx_prod_quote_SPR_E4.dat", "50806f000000", dcap.Platform, "2025-07-01"},
	{"tdx-quote-azure-cvmtools/td_quote_v4.dat", "90c06f000000", dcap.Platform, "2025-07-01"},
	{"tdx-quote-azure-cvmtools/td_quote_v5.dat", "90c06f000000", dcap.Platform, "2025-07-01"},
	{"tdx-trustee/tdx_quote_4.dat", "50806f000000", dcap.Platform, "2025-07-01"},
	{"tdx-trustee/tdx_quote_5.dat", "90c06f000000", dcap.Platform, "2025-07-01"},
	{"tdx-trustee/tdx_quote_6.dat", "00a06d080000", dcap.Platform, "2025-07-01"},
	{"tdx-ccel-gcp-cos113/cos-113-tdx-quote.dat", "00806f050000", dcap.Platform, "2025-07-01"},
	{"az-tdx-vtpm-evidence/td-quote.bin", "00806f050000", dcap.Platform, "2025-07-01"},
}

func TestVerifyRealQuotes(t *testing.T) {
	chains, verified := dcap.NewChainCache(4), 0
	for _, r := range realQuotes {
		t.Run(r.name, func(t *testing.T) {
			q := split(t, vector(t, r.name))
			o := dcap.Options{At: day(t, r.at), Chains: chains}
			v, err := verify(t, q, o)
			if err != nil {
				t.Fatal(err)
			}
			verified++
			p := v.PCK()
			if hex.EncodeToString(p.FMSPC[:]) != r.fmspc || p.CA != r.ca || v.Root() != evidence.RootIntel {
				t.Errorf("FMSPC %x, CA %s, root %s", p.FMSPC, p.CA, v.Root())
			}
			for _, at := range []string{"2017-01-01", "2050-01-01"} {
				o.At = day(t, at)
				if _, err := verify(t, q, o); evidence.CodeOf(err) != evidence.CodeChain {
					t.Errorf("at %s: %v", at, err)
				}
			}
			if _, err := verify(t, q, dcap.Options{Chains: chains}); evidence.CodeOf(err) != evidence.CodeUnavailable {
				t.Errorf("without a time: %v", err)
			}
		})
	}
	if n := chains.Len(); n > 4 || (n == 0) != (verified == 0) {
		t.Errorf("%d chains remembered", n)
	}
}

// TestIntelsSamplesAreRefused: their quotes hold no PEM chain, and with their chains put in they end at roots of their own.
func TestIntelsSamplesAreRefused(t *testing.T) {
	o := dcap.Options{At: day(t, "2022-01-01")}
	for _, dir := range []string{"dcap-intel-sample-sgx", "dcap-intel-sample-tdx"} {
		q := split(t, vector(t, dir+"/quote.dat"))
		t.Run("TDX-14 "+dir, func(t *testing.T) {
			if _, err := verify(t, q, o); evidence.CodeOf(err) != evidence.CodeParse {
				t.Error(err)
			}
		})
		t.Run("TDX-17 "+dir, func(t *testing.T) {
			raw := q.signature
			s := &dcap.SignatureData{Signature: [64]byte(raw), AttestationKey: [64]byte(raw[64:])}
			if raw = raw[128:]; q.version > 3 {
				raw = raw[6:]
			}
			s.QEReport, s.QESignature = [384]byte(raw), [64]byte(raw[384:])
			s.AuthData = raw[450:][:binary.LittleEndian.Uint16(raw[448:])]
			block, second := pem.Decode(vector(t, dir+"/pckSignChain.pem"))
			first := pem.EncodeToMemory(block)
			if dir == "dcap-intel-sample-tdx" { // which has the root first
				first, second = second, first
			}
			s.PCKChainPEM = slices.Concat(bytes.TrimSpace(vector(t, dir+"/pckCert.pem")), []byte("\n"), bytes.TrimSpace(first), []byte("\n"), second)
			if _, err := dcap.Verify(q.signed, s, o); evidence.CodeOf(err) != evidence.CodeChain || !strings.Contains(err.Error(), "root key") {
				t.Error(err)
			}
		})
	}
}

func pemOf(t testing.TB, names ...string) (out []byte) {
	t.Helper()
	for _, name := range names {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vector(t, name)})...)
	}
	return out
}

// combined reads collateral in the one-file form of a public verifier.
func combined(t testing.TB, name string) dcap.Files {
	t.Helper()
	var c map[string]string
	if err := json.Unmarshal(vector(t, name), &c); err != nil {
		t.Fatal(err)
	}
	document := func(member, text, signature string) []byte {
		return []byte(`{"` + member + `":` + text + `,"signature":"` + signature + `"}`)
	}
	return dcap.Files{
		TCBInfo:    document("tcbInfo", c["tcb_info"], c["tcb_info_signature"]),
		QEIdentity: document("enclaveIdentity", c["qe_identity"], c["qe_identity_signature"]),
		PCKCRL:     []byte(c["pck_crl"]), RootCRL: []byte(c["root_ca_crl"]),
		TCBInfoIssuerChain: []byte(c["tcb_info_issuer_chain"]), QEIdentityIssuerChain: []byte(c["qe_identity_issuer_chain"]),
		PCKCRLIssuerChain: []byte(c["pck_crl_issuer_chain"]),
	}
}

// single reads collateral from files of one part each.
func single(t testing.TB, tcb, qe, crl string) dcap.Files {
	t.Helper()
	signer := pemOf(t, "dcap-automata/signing.der", "dcap-automata/root.der")
	return dcap.Files{TCBInfo: vector(t, tcb), QEIdentity: vector(t, qe), PCKCRL: vector(t, crl), RootCRL: vector(t, "dcap-automata/intel_root_ca_crl.der"),
		TCBInfoIssuerChain: signer, QEIdentityIssuerChain: signer, PCKCRLIssuerChain: pemOf(t, "dcap-automata/platform.der", "dcap-automata/root.der")}
}

func TestAppraiseRealQuotes(t *testing.T) {
	const phala = "dcap-quotes-with-collateral/"
	october := func(t testing.TB) dcap.Files {
		return single(t, "dcap-automata/1025-tcb_info.json", "dcap-automata/1025-identity.json", "dcap-automata/1025-pck_crl.der")
	}
	july := func(t testing.TB) dcap.Files {
		return single(t, "dcap-automata/tcb_info_v3_with_tdx_module.json", "dcap-automata/qe_identity.json", "dcap-automata/pck_platform_crl.der")
	}
	outdated := func(t testing.TB) dcap.Files { return combined(t, phala+"tdx_quote_outdated_collateral.json") }
	for _, r := range []struct {
		name, quote string
		files       func(testing.TB) dcap.Files
		at          string
		status      dcap.Status
		advisories  string
		code        evidence.Code
	}{
		{"TD v4", phala + "tdx_quote", func(t testing.TB) dcap.Files { return combined(t, phala+"tdx_quote_collateral.json") }, "2025-07-01", dcap.UpToDate, "", ""},
		// SGX component 8 of this platform is 3 and each level asks for 5: by components, as Intel compares, none matches. A verifier
		// that compares the components as one number calls it OutOfDate.
		{"TDX-08 TD v5 of Azure, below every level", phala + "tdx_quote_outdated", outdated, "2026-03-01", "", "", evidence.CodeTCB},
		{"SGX v3", phala + "sgx_quote", func(t testing.TB) dcap.Files { return combined(t, phala+"sgx_quote_collateral.json") }, "2025-07-01", dcap.ConfigurationAndSWHardeningNeeded, "INTEL-SA-00289", ""},
		{"TD v4, October", "dcap-automata/quote_tdx.bin", october, "2025-10-25", dcap.OutOfDate, "INTEL-SA-00986", ""},
		{"TD v4, July", "dcap-automata/quote_tdx.bin", july, "2025-07-20", dcap.OutOfDate, "INTEL-SA-00960", ""},
		{"TD v4, QE identity and TCB info of Trustee", "tdx-trustee/tdx_quote_6.dat", func(t testing.TB) dcap.Files {
			return single(t, "tdx-trustee/tcbInfo.json", "tdx-trustee/enclaveIdentity.json", "dcap-automata/1025-pck_crl.der")
		}, "2025-11-05", dcap.OutOfDate, "", ""},
		{"TDX-15 collateral of July in October", "dcap-automata/quote_tdx.bin", july, "2025-10-25", "", "", evidence.CodeUnavailable},
		{"TDX-15 collateral of October in July", "dcap-automata/quote_tdx.bin", october, "2025-07-20", "", "", evidence.CodeUnavailable},
		{"TDX-19 collateral of another platform", "dcap-automata/alibaba_quote_5.dat", october, "2025-10-25", "", "", evidence.CodeBinding},
		{"TDX-27 collateral of SGX for a TD", phala + "tdx_quote", func(t testing.TB) dcap.Files { return combined(t, phala+"sgx_quote_collateral.json") }, "2025-07-01", "", "", evidence.CodeBinding},
		{"TDX-17 sample collateral of Intel's own root", "dcap-automata/quote_tdx.bin", func(t testing.TB) dcap.Files {
			f := october(t)
			f.TCBInfoIssuerChain, f.QEIdentityIssuerChain = vector(t, "dcap-intel-sample-sgx/tcbSignChain.pem"), vector(t, "dcap-intel-sample-sgx/tcbSignChain.pem")
			return f
		}, "2025-10-25", "", "", evidence.CodeChain},
		{"TDX-08 TD v4 of Azure, below every level", "tdx-quote-azure-cvmtools/td_quote_v4.dat", outdated, "2026-03-01", "", "", evidence.CodeTCB},
	} {
		t.Run(r.name, func(t *testing.T) {
			q := split(t, vector(t, r.quote))
			o := dcap.Options{At: day(t, r.at)}
			v, err := verify(t, q, o)
			if err != nil {
				t.Fatal(err)
			}
			var got *dcap.TCBResult
			c, err := dcap.ParseCollateral(r.files(t))
			if err == nil {
				got, err = v.Appraise(c, q.tee, q.tcbsvn, o)
			}
			if evidence.CodeOf(err) != r.code || (err == nil) != (r.code == "") {
				t.Fatalf("%v, want %q", err, r.code)
			}
			if err == nil && (got.Status != r.status || r.advisories != "" && !slices.Contains(got.Advisories, r.advisories)) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestRootPin: the pin is of the key in every copy of Intel's root.
func TestRootPin(t *testing.T) {
	a, err := x509.ParseCertificate(vector(t, "dcap-automata/root.der"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.ParseCertificate(vector(t, "dcap-quotes-with-collateral/intel-sgx-root-ca.der"))
	if err != nil {
		t.Fatal(err)
	}
	if !a.Equal(b) {
		t.Error("two vectors disagree on the root")
	}
}
