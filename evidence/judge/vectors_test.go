package judge_test

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/envelope"
	"cloister.dev/cloister/evidence/judge"
)

// vector reads a file of the shared vectors, and skips where they are not at hand.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIPPED: the shared vectors are not here (%v)", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return raw
}

func open(t testing.TB, raw []byte) *envelope.Evidence {
	t.Helper()
	ev, err := envelope.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func day(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// find gives the first check whose claim begins so and that ended so.
func find(j evidence.Judgement, claim string, result evidence.Result) bool {
	for _, c := range j.Checks {
		if strings.HasPrefix(c.Claim, claim) && c.Result == result {
			return true
		}
	}
	return false
}

func show(t testing.TB, j evidence.Judgement) {
	t.Helper()
	for _, c := range j.Checks {
		if c.Result != evidence.NotAsked {
			t.Logf("%s %s: got %s, want %s (%s)", c.Result, c.Claim, c.Got, c.Want, c.Rule)
		}
	}
}

const milan, genoa = "amd-roots/ask_ark_milan.pem", "amd-roots/ask_ark_genoa.pem"

// spring is collateral of 2026-02 for the FMSPC 90C06F000000.
const spring = "dcap-quotes-with-collateral/tdx_quote_outdated_collateral.json"

// intel are Intel's own certificates and lists of 2025-10, automata these and what fits the FMSPC 00806F050000.
var (
	intel    = []string{"dcap-automata/signing.der", "dcap-automata/root.der", "dcap-automata/platform.der", "dcap-automata/1025-pck_crl.der", "dcap-automata/intel_root_ca_crl.der"}
	automata = append([]string{"dcap-automata/1025-tcb_info.json", "dcap-automata/1025-identity.json"}, intel...)
)

// TestVectors gives each piece of real evidence the verdict that its folder names.
func TestVectors(t *testing.T) {
	for _, row := range []struct {
		file      string
		with      []string
		at        string
		authentic bool
		verdict   evidence.Verdict // with any for all that may be any
		why       string           // beginning of a check that is not met
	}{
		{"az-snp-vtpm-evidence/evidence-genoa.json", []string{genoa}, "2025-06-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/evidence-genoa.json", []string{milan}, "2025-06-01", false, evidence.Unavailable, "certificate-chain"},
		{"az-snp-vtpm-evidence/evidence-v0.json", []string{milan}, "2025-06-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/evidence-v1.json", []string{milan}, "2025-06-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/evidence-v2.json", []string{milan}, "2025-12-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/hcl-report.bin", []string{"az-snp-vtpm-evidence/vcek.pem"}, "2024-06-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/quote.bin", nil, "2025-06-01", false, evidence.Unavailable, "attestation-key"},
		{"azure-aci-thim-snp/snp_report.bin", []string{"azure-aci-thim-snp/uvm_host_amd_certificate.json"}, "2024-06-01", true, evidence.Accepted, ""},
		{"azure-aci-thim-snp/snp_report.bin", []string{"azure-aci-thim-snp/uvm_host_amd_certificate.pem"}, "2024-06-01", true, evidence.Accepted, ""},
		{"hcl-snp-milan/hcl-report-snp-2048.bin", []string{"hcl-snp-milan/vcek-ask-ark-chain.pem"}, "2024-06-01", false, evidence.Refused, ""},
		{"snp-milan-gosevguest/attestation.bin", []string{"snp-milan-gosevguest/vcek.testcer", "snp-milan-gosevguest/milan.testcer"}, "2024-06-01", true, evidence.Refused, "policy-debug"},
		{"snp-trustee/test-report.bin", []string{"snp-trustee/test-vcek.der", milan}, "2025-06-01", true, evidence.Accepted, ""},
		{"snp-trustee/test-report.bin", []string{"snp-trustee/test-vcek-invalid-legacy.der", milan}, "2025-06-01", false, evidence.Refused, "hardware-report"},
		{"snp-trustee/test-report.bin", []string{"snp-trustee/test-vcek-invalid-new.der", milan}, "2025-06-01", false, evidence.Refused, "hardware-report"},
		{"snp-trustee/test-report.bin", []string{"snp-trustee/test-vcek.der", genoa}, "2025-06-01", false, evidence.Unavailable, "certificate-chain"},
		{"snp-trustee/test-vlek-report.bin", []string{"snp-trustee/test-vlek.der", "amd-roots/ask_ark_milan_vlek.pem"}, "2026-06-01", false, evidence.Refused, "hardware-report"},
		{"snp-trustee/test-vlek-report.bin", []string{"snp-trustee/test-vcek.der", milan}, "2025-06-01", false, evidence.Refused, "hardware-report"},
		{"snp-trustee/test-vlek-report.bin", []string{"snp-trustee/test-vlek.der", "amd-roots/ask_ark_milan_vlek.pem"}, "2025-06-01", true, evidence.Refused, "vmpl"},
		{"snp-virtee/report_milan.hex", []string{"snp-virtee/vcek_milan.der", "snp-virtee/cert_chain_milan.pem"}, "2024-06-01", true, evidence.Accepted, ""},
		{"snp-trustee/test-report.bin", []string{"dcap-automata/signing.der", "dcap-automata/root.der", milan}, "2025-06-01", false, evidence.Unavailable, "certificate-chain"},
		{"snp-veraison-tsm/sevsnp-tsm-report.cbor", nil, "2025-06-01", true, evidence.Accepted, ""},
		{"az-snp-vtpm-evidence/tpm-quote-v1.json", nil, "2025-06-01", false, evidence.Unavailable, "attestation-key"},
		{"tdx-trustee/tpm_evidence.json", nil, "2025-06-01", false, evidence.Unavailable, "attestation-key"},
		{"az-snp-vtpm-evidence/evidence-v1.json", nil, "2025-06-01", false, evidence.Unavailable, "certificate-chain"},
		{"az-snp-vtpm-evidence/evidence-v1.json", []string{milan}, "2041-06-01", false, evidence.Refused, "hardware-report"},
		{"az-snp-vtpm-evidence/hcl-report.bin", []string{"hcl-snp-milan/vcek-ask-ark-chain.pem"}, "2024-06-01", false, evidence.Refused, "hardware-report"},
		{"snp-veraison-tsm/sevsnp-tsm-report.json", nil, "2025-06-01", true, evidence.Accepted, ""},
		{"dcap-quotes-with-collateral/sgx_quote", []string{"dcap-quotes-with-collateral/sgx_quote_collateral.json"}, "2025-06-20", true, evidence.Refused, "tcb-status"},
		{"dcap-quotes-with-collateral/sgx_quote", []string{"dcap-quotes-with-collateral/sgx_quote_collateral.json"}, "2026-06-20", true, evidence.Unavailable, "collateral"},
		{"dcap-quotes-with-collateral/sgx_quote", nil, "2025-06-20", true, evidence.Unavailable, "collateral"},
		{"dcap-automata/quote_sgx.bin", []string{"dcap-automata/tcb_info_v3_sgx.json"}, "2025-07-10", true, evidence.Refused, "sgx-debug"},
		{"az-tdx-vtpm-evidence/evidence-v0.json", automata, "2025-10-25", true, evidence.Refused, "tcb-status"},
		{"az-tdx-vtpm-evidence/evidence-v1.json", automata, "2025-10-25", true, evidence.Refused, "tcb-status"},
		{"az-tdx-vtpm-evidence/evidence-v1.json", nil, "2025-10-25", true, evidence.Unavailable, "collateral"},
		{"az-tdx-vtpm-evidence/evidence-v1.json", automata, "2026-10-25", true, evidence.Unavailable, "collateral"},
		{"az-tdx-vtpm-evidence/td-quote.bin", automata, "2025-10-25", true, evidence.Refused, "tcb-status"},
		{"az-tdx-vtpm-evidence/hcl-report.bin", automata, "2025-10-25", false, evidence.Unavailable, "hardware-report"},
		{"hcl-tdx/hcl-report-tdx.bin", nil, "2025-10-25", false, evidence.Unavailable, "hardware-report"},
		{"hcl-tdx-cvmtools/snp_hcl_report.bin", nil, "2025-10-25", false, evidence.Unavailable, "hardware-report"},
		{"tdx-trustee/tdx_report_1.bin", nil, "2025-10-25", false, evidence.Unavailable, "hardware-report"},
		{"dcap-automata/quote_tdx.bin", automata, "2025-10-25", true, evidence.Refused, "tcb-status"},
		{"tdx-ccel-gcp-cos113/cos-113-tdx-quote.dat", automata, "2025-10-25", true, evidence.Accepted, ""},
		{"dcap-quotes-with-collateral/tdx_quote", []string{"dcap-quotes-with-collateral/tdx_quote_collateral.json"}, "2025-06-20", true, evidence.Accepted, ""},
		{"dcap-quotes-with-collateral/tdx_quote", []string{"dcap-quotes-with-collateral/tdx_quote_collateral.json"}, "2025-09-20", true, evidence.Unavailable, "collateral"},
		{"dcap-quotes-with-collateral/tdx_quote", []string{spring}, "2026-02-20", true, evidence.Unavailable, "collateral"},
		{"dcap-quotes-with-collateral/tdx_quote_outdated", []string{spring}, "2026-02-20", true, evidence.Refused, "tcb-status"},
		{"dcap-quotes-with-collateral/tdx-quote.hex", nil, "2026-02-20", true, evidence.Unavailable, "collateral"},
		{"dcap-quotes-with-collateral/quote-from-tappd.hex", nil, "2026-02-20", true, evidence.Unavailable, "collateral"},
		{"tdx-quote-azure-cvmtools/td_quote_v4.dat", []string{spring}, "2026-02-20", true, evidence.Refused, "tcb-status"},
		{"tdx-quote-azure-cvmtools/td_quote_v5.dat", []string{spring}, "2026-02-20", true, evidence.Refused, "tcb-status"},
		{"tdx-gotdxguest/quote_v5_sample.dat", []string{spring}, "2026-02-20", true, evidence.Accepted, ""},
		{"tdx-gotdxguest/tdx_prod_quote_SPR_E4.dat", nil, "2023-06-20", true, evidence.Unavailable, "collateral"},
		{"tdx-trustee/tdx_quote_4.dat", nil, "2025-06-20", true, evidence.Refused, "td-debug"},
		{"tdx-trustee/tdx_quote_5.dat", []string{spring}, "2026-02-20", true, evidence.Refused, "tcb-status"},
		{"tdx-trustee/tdx_quote_6.dat", append([]string{"tdx-trustee/tcbInfo.json", "tdx-trustee/enclaveIdentity.json"}, intel...), "2025-11-01", true, evidence.Refused, "tcb-status"},
		{"dcap-automata/alibaba_quote_5.dat", []string{spring}, "2026-02-20", true, evidence.Refused, "mrservicetd"},
		{"dcap-automata/tdx_quote_5.dat", []string{spring}, "2026-02-20", true, evidence.Refused, "mrservicetd"},
		{"dcap-intel-sample-sgx/quote.dat", nil, "2020-06-20", false, evidence.Refused, "hardware-report"},
		{"vtpm-quote-azure/quote.bin", []string{"vtpm-quote-azure/akpub.pem"}, "2025-06-01", false, evidence.Unavailable, "attestation-key"},
	} {
		t.Run(row.file+" "+row.at, func(t *testing.T) {
			in := judge.Input{Evidence: open(t, vector(t, row.file)), Roots: judge.VendorRoots(), At: day(t, row.at)}
			for _, name := range row.with {
				in.Files = append(in.Files, judge.File{Name: name, Raw: vector(t, name)})
			}
			var e judge.Expect
			if err := e.Any("all"); err != nil {
				t.Fatal(err)
			}
			j, err := judge.Verify(in, e)
			if err != nil {
				t.Fatal(err)
			}
			if j.Authentic != row.authentic || j.Verdict != row.verdict || row.why != "" && !find(j, row.why, evidence.NotMet) && !find(j, row.why, evidence.NotHad) {
				t.Errorf("authentic %t, verdict %s", j.Authentic, j.Verdict)
				show(t, j)
			}
		})
	}
}

// TestSGXQuote judges a real quote by what its platform is worth: Intel's collateral says that it should be configured
// otherwise, which only a relying party that names this accepts.
func TestSGXQuote(t *testing.T) {
	in := judge.Input{Evidence: open(t, vector(t, "dcap-quotes-with-collateral/sgx_quote")), Roots: judge.VendorRoots(), At: day(t, "2025-06-20"),
		Files: []judge.File{{Name: "collateral", Raw: vector(t, "dcap-quotes-with-collateral/sgx_quote_collateral.json")}}}
	said := mustInspect(t, in).Claims
	doc := func(change m) string {
		claims := m{"mrenclave": m{"exactly": said["mrenclave"]}, "report-data": m{"exactly": said["report-data"]}, "mrsigner": m{"exactly": said["mrsigner"]},
			"tcb-status": m{"oneOf": []string{"UpToDate", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"}}}
		for name, x := range change {
			claims[name] = x
		}
		return strings.Replace(document("sgx", claims), `"software"`, `"intel"`, 1)
	}
	if j := verify(t, in, expect(t, doc(nil))); j.Verdict != evidence.Accepted || j.Root != evidence.RootIntel || j.Kind != "sgx" {
		show(t, j)
		t.Fatalf("verdict %s", j.Verdict)
	}
	for name, change := range map[string]m{
		"mrenclave": {"mrenclave": m{"exactly": strings.Repeat("01", 32)}}, "mrsigner": {"mrsigner": m{"exactly": strings.Repeat("01", 32)}},
		"report-data": {"report-data": m{"exactly": strings.Repeat("01", 64)}}, "isv-svn": {"isv-svn": m{"atLeast": 60000}}, "isv-prod-id": {"isv-prod-id": m{"exactly": 7}},
		"tcb-status": {"tcb-status": m{"exactly": "UpToDate"}}, "vmpl": {"vmpl": m{"exactly": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if j := verify(t, in, expect(t, doc(change))); j.Verdict != evidence.Refused || !find(j, name, evidence.NotMet) {
				show(t, j)
				t.Errorf("verdict %s", j.Verdict)
			}
		})
	}
	t.Run("TDX-26 one flipped bit", func(t *testing.T) {
		raw := vector(t, "dcap-quotes-with-collateral/sgx_quote")
		raw[100] ^= 1
		in := in
		in.Evidence = open(t, raw)
		if j := verify(t, in, expect(t, doc(nil))); j.Verdict != evidence.Refused || j.Authentic {
			t.Errorf("verdict %s, authentic %t", j.Verdict, j.Authentic)
		}
	})
	t.Run("TDX-27 an SGX quote where a TD is expected", func(t *testing.T) {
		if j := verify(t, in, expect(t, strings.Replace(doc(nil), `"sgx"`, `"tdxvm"`, 1))); j.Verdict != evidence.Refused || !find(j, "kind", evidence.NotMet) {
			t.Errorf("verdict %s", j.Verdict)
		}
	})
	for _, status := range []string{"Revoked", "SomethingNew"} {
		if _, err := judge.ParseExpect([]byte(doc(m{"tcb-status": m{"oneOf": []string{status}}}))); err == nil {
			t.Errorf("a document may ask for %s", status)
		}
	}
}

// TestTDXVectors judges real evidence of an Azure CVM with TDX by a document, then changes one expectation at a time.
func TestTDXVectors(t *testing.T) {
	in := judge.Input{Evidence: open(t, vector(t, "az-tdx-vtpm-evidence/evidence-v1.json")), Roots: judge.VendorRoots(), At: day(t, "2025-10-25")}
	for _, name := range automata {
		in.Files = append(in.Files, judge.File{Name: name, Raw: vector(t, name)})
	}
	said := mustInspect(t, in).Claims
	exactly := m{}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "report-data", "mrowner", "mrownerconfig", "mrseam", "mrsignerseam", "seam-attributes", "td-debug", "td-migratable",
		"td-sept-ve-disable", "td-pks", "td-key-locker", "td-perfmon", "xfam", "td-reserved-attributes", "fmspc", "ppid", "user-data", "vm-id", "vm-secure-boot", "pcr0", "pcr7"} {
		exactly[name] = m{"exactly": said[name]}
	}
	exactly["tcb-status"] = m{"oneOf": []string{"UpToDate", "OutOfDate"}}
	exactly["tee-tcb-svn"] = m{"atLeast": said["tee-tcb-svn"]}
	exactly["tcb-evaluation"] = m{"atLeast": said["tcb-evaluation"]}
	exactly["qe-isv-svn"] = m{"atLeast": said["qe-isv-svn"]}
	exactly["pck-pce-svn"] = m{"atLeast": said["pck-pce-svn"]}
	with := func(name string, value any) evidence.Judgement {
		t.Helper()
		claims := m{}
		for n, x := range exactly {
			claims[n] = x
		}
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
		e := expect(t, strings.Replace(document("azurevm", claims), `"software"`, `"intel"`, 1))
		if err := e.Nonce(unhex(t, said["quote-nonce"].(string))); err != nil {
			t.Fatal(err)
		}
		return verify(t, in, e)
	}
	if j := with("", nil); j.Verdict != evidence.Accepted || !j.Authentic || j.Root != evidence.RootIntel {
		show(t, j)
		t.Fatalf("positive twin: verdict %s", j.Verdict)
	}
	wrong := map[string]any{"tcb-status": m{"exactly": "UpToDate"}, "tee-tcb-svn": m{"atLeast": strings.Repeat("ff", 16)}, "tcb-evaluation": m{"atLeast": 1000}, "qe-isv-svn": m{"atLeast": 1000},
		"pck-pce-svn": m{"atLeast": 1000}, "xfam": m{"exactly": "0x1"}, "td-reserved-attributes": m{"exactly": "0x2"}, "vm-id": m{"exactly": "x"}}
	for name := range exactly {
		t.Run(name, func(t *testing.T) {
			value := wrong[name]
			switch x := said[name].(type) {
			case bool:
				value = m{"exactly": !x}
			case string:
				if value == nil {
					value = m{"exactly": strings.Repeat("7e", len(x)/2)}
				}
			}
			j := with(name, value)
			for _, c := range j.Checks {
				if c.Result == evidence.NotMet && c.Claim != name {
					t.Errorf("%s fails too", c.Claim)
				}
			}
			if j.Verdict != evidence.Refused || !find(j, name, evidence.NotMet) {
				show(t, j)
				t.Errorf("verdict %s", j.Verdict)
			}
		})
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid"} {
		t.Run("SVC-26 nothing said of "+name, func(t *testing.T) {
			if j := with(name, nil); j.Verdict != evidence.Refused || !find(j, name, evidence.NotMet) {
				t.Errorf("verdict %s", j.Verdict)
			}
		})
	}
	t.Run("TDX-20 RTMR 3 alone", func(t *testing.T) {
		e := expect(t, strings.Replace(document("azurevm", m{"rtmr3": exactly["rtmr3"], "pcrs": "any", "nonce": "any"}), `"software"`, `"intel"`, 1))
		if j := verify(t, in, e); j.Verdict != evidence.Refused || !find(j, "mrtd", evidence.NotMet) {
			t.Errorf("verdict %s", j.Verdict)
		}
	})
	t.Run("TDX-27 a TD taken as SNP", func(t *testing.T) {
		in := in
		in.Evidence = open(t, vector(t, "hcl-tdx-cvmtools/snp_hcl_report.bin"))
		e := expect(t, strings.Replace(document("sevsnpvm", m{"measurement": "any", "host-data": "any", "user-data": "any"}), `"software"`, `"amd"`, 1))
		if j := verify(t, in, e); j.Verdict != evidence.Refused || !find(j, "kind", evidence.NotMet) {
			show(t, j)
			t.Errorf("verdict %s", j.Verdict)
		}
	})
	t.Run("TDX-27 a quote that was made of another report", func(t *testing.T) {
		in := in
		ev := *in.Evidence
		ev.TDQuote = open(t, vector(t, "dcap-automata/quote_tdx.bin")).TDQuote
		in.Evidence = &ev
		if j := mustInspect(t, in); j.Authentic || !find(j, "runtime-claims", evidence.NotMet) {
			show(t, j)
			t.Error("authentic")
		}
	})
	t.Run("SVC-22 only AMD's roots are named", func(t *testing.T) {
		in := in
		in.Roots = judge.Roots{AMD: true}
		if j := mustInspect(t, in); j.Authentic || j.Root != "" {
			t.Error("authentic")
		}
	})
}
