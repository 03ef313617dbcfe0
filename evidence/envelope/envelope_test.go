package envelope_test

import (
	"os"
	"path/filepath"
	"testing"

	"cloister.dev/cloister/evidence/envelope"
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
		"hcl-snp-milan/var-data.bin", "tdx-gotdxguest/report.dat", "vtpm-state-openvmm/vTpmState.blob", "tcg-eventlogs/debian-10.bin", "vmgs-provenance-jwt/valid_jwt", "dcap-automata/tcb_info_v3_sgx.json", "dcap-automata/pck.der"} {
		t.Run("no evidence: "+file, func(t *testing.T) {
			if ev, err := envelope.Open(vector(t, file)); err == nil {
				t.Errorf("taken for a %s", ev.Form)
			}
		})
	}
}
