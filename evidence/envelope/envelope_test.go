package envelope_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/dcap/dcaptest"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/judge/judgetest"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/tdx"
	"cloister.dev/cloister/evidence/tdx/tdxtest"
)

// vector reads a file of the shared vectors, and skips where they are not at hand.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Skipf("SKIPPED: the shared vectors are not here (%v)", err)
	}
	return raw
}

func TestOpenVectors(t *testing.T) {
	for _, row := range []struct {
		file       string
		form       envelope.Form
		kind       string
		certs      int
		tpm, hcl   bool
		tdq, tdrep bool
	}{
		{file: "az-snp-vtpm-evidence/evidence-genoa.json", form: envelope.FormAzureVTPM, kind: "azurevm", certs: 1, tpm: true, hcl: true},
		{file: "az-snp-vtpm-evidence/evidence-v0.json", form: envelope.FormAzureVTPM, kind: "azurevm", certs: 1, tpm: true, hcl: true},
		{file: "az-snp-vtpm-evidence/evidence-v1.json", form: envelope.FormAzureVTPM, kind: "azurevm", certs: 1, tpm: true, hcl: true},
		{file: "az-snp-vtpm-evidence/evidence-v2.json", form: envelope.FormAzureVTPM, kind: "azurevm", certs: 1, tpm: true, hcl: true},
		{file: "az-snp-vtpm-evidence/hcl-report.bin", form: envelope.FormHCLReport, kind: "sevsnpvm", hcl: true},
		{file: "az-snp-vtpm-evidence/quote.bin", form: envelope.FormTPMQuote, kind: "tpm", tpm: true},
		{file: "az-snp-vtpm-evidence/tpm-quote-v1.json", form: envelope.FormTPMQuote, kind: "tpm", tpm: true},
		{file: "az-tdx-vtpm-evidence/evidence-v0.json", form: envelope.FormAzureVTPM, kind: "azurevm", tpm: true, hcl: true, tdq: true, tdrep: true},
		{file: "az-tdx-vtpm-evidence/evidence-v1.json", form: envelope.FormAzureVTPM, kind: "azurevm", tpm: true, hcl: true, tdq: true, tdrep: true},
		{file: "az-tdx-vtpm-evidence/hcl-report.bin", form: envelope.FormHCLReport, kind: "tdxvm", hcl: true, tdrep: true},
		{file: "az-tdx-vtpm-evidence/td-quote.bin", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "az-tdx-vtpm-evidence/tpm-quote-v1.json", form: envelope.FormTPMQuote, kind: "tpm", tpm: true},
		{file: "azure-aci-thim-snp/snp_report.bin", form: envelope.FormSNPReport, kind: "sevsnpvm"},
		{file: "dcap-automata/quote_sgx.bin", form: envelope.FormSGXQuote, kind: "sgx"},
		{file: "dcap-automata/quote_tdx.bin", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-automata/alibaba_quote_5.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-automata/tdx_quote_5.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-intel-sample-sgx/quote.dat", form: envelope.FormSGXQuote, kind: "sgx"},
		{file: "dcap-quotes-with-collateral/tdx_quote", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-quotes-with-collateral/sgx_quote", form: envelope.FormSGXQuote, kind: "sgx"},
		{file: "dcap-quotes-with-collateral/tdx-quote.hex", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-quotes-with-collateral/quote-from-tappd.hex", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "dcap-quotes-with-collateral/tdx_quote_outdated", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "hcl-snp-milan/hcl-report-snp-2048.bin", form: envelope.FormHCLReport, kind: "sevsnpvm", hcl: true},
		{file: "hcl-tdx/hcl-report-tdx.bin", form: envelope.FormHCLReport, kind: "tdxvm", hcl: true, tdrep: true},
		{file: "hcl-tdx-cvmtools/snp_hcl_report.bin", form: envelope.FormHCLReport, kind: "tdxvm", hcl: true, tdrep: true},
		{file: "snp-milan-gosevguest/attestation.bin", form: envelope.FormSNPReport, kind: "sevsnpvm"},
		{file: "snp-trustee/test-report.bin", form: envelope.FormSNPReport, kind: "sevsnpvm"},
		{file: "snp-trustee/test-vlek-report.bin", form: envelope.FormSNPReport, kind: "sevsnpvm"},
		{file: "snp-veraison-tsm/sevsnp-tsm-report.json", form: envelope.FormTSM, kind: "sevsnpvm", certs: 3},
		{file: "snp-veraison-tsm/sevsnp-tsm-report.cbor", form: envelope.FormTSM, kind: "sevsnpvm", certs: 3},
		{file: "snp-virtee/report_milan.hex", form: envelope.FormSNPReport, kind: "sevsnpvm"},
		{file: "tdx-ccel-gcp-cos113/cos-113-tdx-quote.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-gotdxguest/quote_v5_sample.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-gotdxguest/tdx_prod_quote_SPR_E4.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-quote-azure-cvmtools/td_quote_v4.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-quote-azure-cvmtools/td_quote_v5.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-trustee/tdx_quote_4.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-trustee/tdx_quote_5.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-trustee/tdx_quote_6.dat", form: envelope.FormTDQuote, kind: "tdxvm", tdq: true},
		{file: "tdx-trustee/tdx_report_1.bin", form: envelope.FormTDReport, kind: "tdxvm", tdrep: true},
		{file: "tdx-trustee/tpm_evidence.json", form: envelope.FormTPMQuote, kind: "tpm", tpm: true},
		{file: "vtpm-quote-azure/quote.bin", form: envelope.FormTPMQuote, kind: "tpm", tpm: true},
	} {
		t.Run(row.file, func(t *testing.T) {
			ev, err := envelope.Open(vector(t, row.file))
			if err != nil {
				t.Fatal(err)
			}
			if ev.Form != row.form || ev.Kind != row.kind || len(ev.Certificates) != row.certs || (ev.TPM != nil) != row.tpm || (ev.HCL != nil) != row.hcl ||
				(ev.TDQuote != nil) != row.tdq || (ev.TDReport != nil) != row.tdrep {
				t.Errorf("form %s, kind %s, %d certificates, TPM %t, HCL %t, TD quote %t, TDREPORT %t", ev.Form, ev.Kind, len(ev.Certificates), ev.TPM != nil, ev.HCL != nil, ev.TDQuote != nil, ev.TDReport != nil)
			}
		})
	}
	for _, file := range []string{"amd-roots/ask_ark_milan.pem", "azure-aci-thim-snp/uvm_host_amd_certificate.json", "azure-aci-security-context/host-amd-cert-base64",
		"hcl-snp-milan/var-data.bin", "tdx-gotdxguest/report.dat", "vtpm-state-openvmm/vTpmState.blob", "tcg-eventlogs/debian-10.bin", "vmgs-provenance-jwt/valid_jwt", "dcap-automata/tcb_info_v3_sgx.json", "dcap-automata/pck.der", "dcap-intel-sample-tdx/quote.dat"} {
		t.Run("no evidence: "+file, func(t *testing.T) {
			if ev, err := envelope.Open(vector(t, file)); err == nil {
				t.Errorf("taken for a %s", ev.Form)
			}
		})
	}
}

// TestCutEverywhere: a prefix of good evidence is never taken for evidence, except where only padding or a whole
// certificate table was cut off.
func TestCutEverywhere(t *testing.T) {
	for _, seed := range seeds(t) {
		t.Run(seed.name, func(t *testing.T) {
			if _, err := envelope.Open(seed.raw); err != nil {
				t.Fatal(err)
			}
			for n := range len(seed.raw) {
				ev, err := envelope.Open(seed.raw[:n])
				if err != nil || seed.whole[n] {
					continue
				}
				t.Fatalf("%d of %d bytes are taken for a %s", n, len(seed.raw), ev.Form)
			}
		})
	}
}

type seed struct {
	name  string
	raw   []byte
	whole map[int]bool // lengths at which a prefix is evidence of its own
}

// seeds are one piece of each form, made on the spot. They are well-formed; no one signed anything that counts.
func seeds(t testing.TB) []seed {
	t.Helper()
	v := judgetest.New(t)
	report := v.Report(t, [64]byte{1}, nil)
	table := certificateTable([]byte("certificate"))
	q, sig := v.Quote(t, judgetest.Nonce)
	pcrs := make([]byte, 0, 24*32)
	for n := range 24 {
		value := v.PCRs[n]
		pcrs = append(pcrs, value[:]...)
	}
	le := binary.LittleEndian
	container := append(le.AppendUint64(nil, uint64(len(sig))), sig...)
	container = append(le.AppendUint64(container, uint64(len(q))), q...)
	container = append(le.AppendUint64(container, 24), pcrs...)
	cbor := append([]byte{0xa2}, "\x67outblob\x59\x04\xa0"...)
	cbor = append(append(cbor, report...), "\x68provider\x69sev_guest"...)
	tsm, err := json.Marshal(map[string]string{"outblob": base64.RawURLEncoding.EncodeToString(report), "auxblob": base64.RawURLEncoding.EncodeToString(table), "provider": "sev_guest\n"})
	if err != nil {
		t.Fatal(err)
	}
	vendor := dcaptest.New(t, dcaptest.Options{})
	td := tdxtest.Good()
	return []seed{
		{name: "TD quote, version 4", raw: tdxtest.Quote(t, vendor, td)},
		{name: "TD quote, version 5", raw: tdxtest.Quote(t, vendor, tdxtest.Version5(td))},
		{name: "TDREPORT", raw: tdxtest.Report(t, td)},
		{name: "SNP report", raw: report},
		{name: "SNP report with its certificates", raw: append(bytes.Clone(report), table...), whole: map[int]bool{len(report): true}},
		{name: "SNP report as hex digits", raw: []byte(hex.EncodeToString(report))},
		{name: "HCL report", raw: v.HCL(t, nil)},
		{name: "Azure JSON", raw: v.Azure(t, judgetest.Nonce, nil)},
		{name: "bundle", raw: v.Bundle(t, judgetest.Nonce, nil)},
		{name: "TPM container", raw: container},
		{name: "configfs-tsm CBOR", raw: cbor},
		{name: "configfs-tsm JSON", raw: tsm},
	}
}

func certificateTable(cert []byte) []byte {
	le := binary.LittleEndian
	table := append([]byte(nil), 0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd)
	table = le.AppendUint32(table, 48)
	table = le.AppendUint32(table, uint32(len(cert)))
	return append(append(table, make([]byte, 24)...), cert...)
}

func TestOpenRefuses(t *testing.T) {
	v := judgetest.New(t)
	report := v.Report(t, [64]byte{1}, nil)
	azure := func(change func(map[string]any)) []byte { return v.Azure(t, judgetest.Nonce, change) }
	if _, err := envelope.Open(azure(nil)); err != nil {
		t.Fatal("positive twin:", err)
	}
	table := certificateTable([]byte("certificate"))
	withTable := func(at int, value byte) []byte {
		bad := bytes.Clone(table)
		bad[at] = value
		return append(bytes.Clone(report), bad...)
	}
	if _, err := envelope.Open(withTable(47, 0)); err != nil {
		t.Fatal("positive twin, table:", err)
	}
	tsm := func(provider string, members ...string) []byte {
		return []byte(`{"outblob":"` + base64.RawURLEncoding.EncodeToString(report) + `","provider":"` + provider + `"` + strings.Join(members, "") + `}`)
	}
	if _, err := envelope.Open(tsm("sev_guest")); err != nil {
		t.Fatal("positive twin, configfs-tsm:", err)
	}
	quote := func(version, tee byte) []byte {
		q := make([]byte, 5000)
		q[0], q[2], q[4] = version, 2, tee
		return q
	}
	for _, row := range []struct {
		name string
		raw  []byte
		code evidence.Code
	}{
		{"TDX-24 nothing", nil, evidence.CodeParse},
		{"TDX-24 an empty object", []byte("{}"), evidence.CodeUnsupported},
		{"TDX-24 an empty list", []byte("[]"), ""},
		{"TDX-24 no report in the JSON", azure(func(m map[string]any) { m["hcl_report"] = "" }), evidence.CodeParse},
		{"TDX-24 no quote in the JSON", azure(func(m map[string]any) { delete(m, "tpm_quote") }), evidence.CodeParse},
		{"TDX-24 no signature in the JSON", azure(func(m map[string]any) { m["tpm_quote"].(map[string]any)["signature"] = "" }), evidence.CodeParse},
		{"TDX-24 no PCRs in the JSON", azure(func(m map[string]any) { m["tpm_quote"].(map[string]any)["pcrs"] = []any{} }), evidence.CodeParse},
		{"TDX-24 no VCEK in the JSON", azure(func(m map[string]any) { delete(m, "vcek") }), evidence.CodeUnsupported},
		{"SVC-27 a quote that is none", azure(func(m map[string]any) { m["tpm_quote"].(map[string]any)["message"] = "ff54434780" }), evidence.CodeParse},
		{"SVC-20 an unknown member", azure(func(m map[string]any) { m["extra"] = 1 }), evidence.CodeParse},
		{"SVC-20 a member twice", tsm("sev_guest", `,"provider":"sev_guest"`), evidence.CodeParse},
		{"another version", azure(func(m map[string]any) { m["version"] = 3 }), evidence.CodeUnsupported},
		{"a number that is no byte", azure(func(m map[string]any) { m["hcl_report"] = []int{72, 256} }), evidence.CodeParse},
		{"TDX-27 a TD quote beside an SNP report", azure(func(m map[string]any) { delete(m, "vcek"); m["td_quote"] = "BAAC" }), evidence.CodeUnsupported},
		{"TDX-27 an SNP report labelled TDX", tsm("tdx_guest"), evidence.CodeUnsupported},
		{"TDX-27 an SGX quote of version 4", quote(4, 0), evidence.CodeUnsupported},
		{"TDX-27 a TD quote of version 3", quote(3, 0x81), evidence.CodeUnsupported},
		{"TDX-12 a quote of version 6", quote(6, 0x81), evidence.CodeUnsupported},
		{"SNP-30 a report of zeros", make([]byte, 1184), evidence.CodeUnsupported},
		{"SNP-16 version 99", append([]byte{99}, report[1:]...), evidence.CodeUnsupported},
		{"SNP-17 a reserved byte", append(append(bytes.Clone(report[:0x4c]), 1), report[0x4d:]...), evidence.CodeParse},
		{"a table entry behind the end", withTable(20, 0xff), evidence.CodeParse},
		{"a table without an end", withTable(24, 1), evidence.CodeParse},
		{"TDX-25 a signature of 2^63 bytes", append([]byte{0, 0xff, 0, 0, 0, 0, 0, 0}, make([]byte, 64)...), evidence.CodeParse},
		{"PEM", []byte("-----BEGIN CERTIFICATE-----\n"), evidence.CodeUnsupported},
		{"too much", make([]byte, envelope.MaxSize+1), evidence.CodeParse},
	} {
		t.Run(row.name, func(t *testing.T) {
			ev, err := envelope.Open(row.raw)
			if err == nil {
				t.Fatalf("taken for a %s", ev.Form)
			}
			if got := evidence.CodeOf(err); row.code != "" && got != row.code {
				t.Errorf("%v, want %s", err, row.code)
			}
		})
	}
}

// plain are pieces of evidence that no one signed: a fuzzing process makes them at once.
func plain(t testing.TB) [][]byte {
	t.Helper()
	report := (&sevsnp.Report{Version: 3, Policy: 0x30000, SignatureAlgo: sevsnp.AlgoECDSAP384SHA384, CPUID: sevsnp.CPUID{Family: 0x19, Model: 1, Stepping: 1}}).Marshal()
	claims := []byte(`{"keys":[],"vm-configuration":{"secure-boot":true},"user-data":""}`)
	nv, err := (&hcl.Report{Version: 2, Type: hcl.TypeSNP, Hardware: report, Claims: claims}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	td := tdxtest.Good()
	section := &dcap.SignatureData{PCKChainPEM: []byte("-----BEGIN CERTIFICATE-----\n")}
	quote := tdx.Assemble(tdx.SignedBytes(td), dcaptest.Marshal(4, section))
	later := tdxtest.Version5(td)
	attest := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: judgetest.Nonce},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{PCRDigest: tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{1, 0, 0}}}}})})
	le := binary.LittleEndian
	container := append(le.AppendUint64(nil, 256), make([]byte, 256)...)
	container = append(le.AppendUint64(container, uint64(len(attest))), attest...)
	container = append(le.AppendUint64(container, 1), make([]byte, 32)...)
	cbor := append(append([]byte("\xa2\x67outblob\x59\x04\xa0"), report...), "\x68provider\x69sev_guest"...)
	b64 := base64.RawURLEncoding.EncodeToString
	tpm := `{"message":"` + hex.EncodeToString(attest) + `","signature":"00","pcrs":["` + strings.Repeat("00", 32) + `"]}`
	return [][]byte{
		report, append(bytes.Clone(report), certificateTable([]byte("c"))...), []byte(hex.EncodeToString(report)), nv, quote,
		tdx.Assemble(tdx.SignedBytes(later), dcaptest.Marshal(5, section)), tdxtest.Report(t, td), container, cbor, []byte(tpm),
		[]byte(`{"version":1,"hcl_report":"` + b64(nv) + `","vcek":"AAAA","tpm_quote":` + tpm + `}`),
		[]byte(`{"outblob":"` + b64(report) + `","auxblob":"` + b64(certificateTable([]byte("c"))) + `","provider":"sev_guest\n"}`),
		[]byte(`{"SnpReport":"` + b64(report) + `","VcekCertChain":"AAAA"}`),
		append([]byte{3, 0, 2, 0}, make([]byte, 48+384+4)...),
	}
}

func TestPlainSeedsAreEvidence(t *testing.T) {
	for n, raw := range plain(t) {
		if _, err := envelope.Open(raw); err != nil {
			t.Errorf("seed %d: %v", n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, raw := range plain(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ev, err := envelope.Open(raw)
		if (ev == nil) != (err != nil) {
			t.Fatalf("%v, %v", ev, err)
		}
		if err == nil && (ev.Form == "" || ev.Kind == "" || ev.SNP == nil && ev.TDQuote == nil && ev.TDReport == nil && ev.SGXQuote == nil && ev.TPM == nil) {
			t.Fatalf("%+v", ev)
		}
	})
}

// TestBrokenPiecesGiveNothing flips each byte of each piece: there is evidence or an error, never both.
func TestBrokenPiecesGiveNothing(t *testing.T) {
	for n, raw := range plain(t) {
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 0xff
			if ev, err := envelope.Open(bad); (ev == nil) != (err != nil) {
				t.Fatalf("seed %d, byte %d: %v, %v", n, i, ev, err)
			}
		}
	}
}
