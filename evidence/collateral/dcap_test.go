package collateral_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/collateral"
	"cloister.dev/cloister/evidence/dcap"
)

// platformOf verifies a real quote and gives its platform.
func platformOf(t testing.TB, name string, at time.Time) *dcap.PCK {
	t.Helper()
	raw := vector(t, name)
	version := uint16(raw[0]) | uint16(raw[1])<<8
	body := 48 + 584
	switch version {
	case 3:
		body = 48 + 384
	case 5:
		n := 54 + int(uint32(raw[50])|uint32(raw[51])<<8)
		body = n
	}
	n := int(uint32(raw[body]) | uint32(raw[body+1])<<8 | uint32(raw[body+2])<<16)
	s, err := dcap.ParseSignatureData(version, raw[body+4:body+4+n])
	if err != nil {
		t.Fatal(err)
	}
	v, err := dcap.Verify(raw[:body], s, dcap.Options{At: at})
	if err != nil {
		t.Fatal(err)
	}
	return v.PCK()
}

// TestRealDCAP: the collateral files of the vectors, in their several forms, give complete collateral for the real
// platforms beside them; and what is taken away is named.
func TestRealDCAP(t *testing.T) {
	for _, r := range []struct {
		quote string
		files []string
		tee   dcap.TEE
		at    time.Time
	}{
		{"dcap-quotes-with-collateral/tdx_quote", []string{"dcap-quotes-with-collateral/tdx_quote_collateral.json"}, dcap.TDX, time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)},
		{"dcap-quotes-with-collateral/sgx_quote", []string{"dcap-quotes-with-collateral/sgx_quote_collateral.json"}, dcap.SGX, time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)},
		{"dcap-quotes-with-collateral/tdx_quote_outdated", []string{"dcap-quotes-with-collateral/tdx_quote_outdated_collateral.json"}, dcap.TDX, time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC)},
		{"dcap-quotes-with-collateral/tdx_quote_outdated", []string{"tdx-gotdxguest/sample_tcbinfo_response_v5", "dcap-quotes-with-collateral/tdx_quote_collateral.json", "dcap-quotes-with-collateral/tdx_quote_outdated_collateral.json", "tdx-gotdxguest/sample_qeIdentity_response", "tdx-gotdxguest/pckcrl", "tdx-gotdxguest/rootcrl.der"}, dcap.TDX, time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC)},
	} {
		pck := platformOf(t, r.quote, r.at)
		s := &collateral.Set{}
		for _, name := range r.files {
			if err := s.Add(name, vector(t, name)); err != nil {
				t.Fatal(err)
			}
		}
		f, err := s.DCAP(pck, r.tee)
		if err != nil {
			t.Errorf("%s: %v", r.quote, err)
			continue
		}
		c, err := dcap.ParseCollateral(f)
		if err != nil {
			t.Errorf("%s: %v", r.quote, err)
			continue
		}
		if r.at.Before(c.IssueDate()) || !r.at.Before(c.Expiry()) {
			t.Errorf("%s: collateral of %s to %s was picked", r.quote, c.IssueDate(), c.Expiry())
		}
		other := dcap.TDX
		if r.tee == dcap.TDX {
			other = dcap.SGX
		}
		_, err = s.DCAP(pck, other)
		if evidence.CodeOf(err) != evidence.CodeUnavailable {
			t.Errorf("%s, the other kind of quote: %v", r.quote, err)
		}
		stranger := *pck
		stranger.FMSPC[0] ^= 0xff
		if _, err = s.DCAP(&stranger, r.tee); evidence.CodeOf(err) != evidence.CodeUnavailable || !strings.Contains(err.Error(), "TCB info") {
			t.Errorf("TDX-19 %s, another family: %v", r.quote, err)
		}
	}
	at := time.Date(2025, 6, 25, 0, 0, 0, 0, time.UTC)
	pck := platformOf(t, "dcap-quotes-with-collateral/tdx_quote", at)
	if _, err := (&collateral.Set{}).DCAP(pck, dcap.TDX); evidence.CodeOf(err) != evidence.CodeUnavailable || !strings.Contains(err.Error(), "b0c06f000000") || !strings.Contains(err.Error(), "TD_QE") || !strings.Contains(err.Error(), "Platform CA") {
		t.Errorf("an empty set: %v, want all that is missing", err)
	}
	if _, err := (&collateral.Set{}).DCAP(nil, dcap.TDX); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("no platform: %v", err)
	}
}

// TestRealForms: every collateral file of the vectors is recognised, and the signed bytes are those of the file.
func TestRealForms(t *testing.T) {
	for _, name := range []string{
		"tdx-trustee/tcbInfo.json", "tdx-trustee/enclaveIdentity.json", "tdx-gotdxguest/sample_tcbInfo_response", "tdx-gotdxguest/sample_tcbinfo_response_v5", "tdx-gotdxguest/sample_qeIdentity_response",
		"dcap-intel-sample-tdx/tcbInfo.json", "dcap-intel-sample-tdx/qeIdentity.json", "dcap-intel-sample-sgx/tcbInfo.json", "dcap-intel-sample-sgx/qeIdentity.json", "dcap-intel-sample-sgx/qveIdentity.json",
		"dcap-automata/1025-tcb_info.json", "dcap-automata/1025-identity.json", "dcap-automata/tcb_info_v3_sgx.json", "dcap-automata/tcb_info_v3_with_tdx_module.json", "dcap-automata/qe_identity.json", "dcap-automata/1025-tdxtcbeval.json",
		"tdx-gotdxguest/pckcrl", "tdx-gotdxguest/rootcrl.der", "dcap-automata/0825-platform_crl.der", "dcap-automata/1025-pck_crl.der", "dcap-automata/intel_root_ca_crl.der", "dcap-automata/pck.der", "dcap-automata/signing.der", "dcap-automata/root.der",
		"dcap-intel-sample-sgx/tcbSignChain.pem", "dcap-intel-sample-sgx/trustedRootCaCert.pem", "dcap-intel-sample-sgx/intermediateCaCrl.der",
	} {
		raw := vector(t, name)
		var s collateral.Set
		if err := s.Add(name, raw); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, i := range s.Items() {
			if i.Document != nil && !bytes.Contains(raw, i.Document.Signed) {
				t.Errorf("%s: the signed bytes are not those of the file", name)
			}
		}
	}
	for _, name := range []string{"tdx-trustee/tdx_quote_4.dat", "tdx-trustee/parse_tdx_claims_expected.json", "tdx-gotdxguest/report.dat", "azure-aci-thim-snp/snp_report.bin"} {
		var s collateral.Set
		if err := s.Add(name, vector(t, name)); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func FuzzAdd(f *testing.F) {
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors"
	}
	for _, name := range []string{"dcap-quotes-with-collateral/tdx_quote_collateral.json", "tdx-trustee/tcbInfo.json", "tdx-gotdxguest/rootcrl.der", "dcap-automata/pck.der", "azure-aci-thim-snp/uvm_host_amd_certificate.json", "dcap-intel-sample-sgx/tcbSignChain.pem"} {
		if raw, err := os.ReadFile(dir + "/" + name); err == nil {
			f.Add(raw)
		}
	}
	for _, s := range []string{"", "{}", "[]", `["[]"]`, "30", "MA==", "-----BEGIN CERTIFICATE-----", `{"tcbInfo":"{\"tcbInfo\":{}}","signature":""}`, `{"tcbInfo":{"fmspc":"00806f050000"},"signature":"00"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s collateral.Set
		if err := s.Add("f", raw); err != nil {
			if evidence.CodeOf(err) != evidence.CodeParse || len(s.Items()) != 0 {
				t.Fatalf("%v, %d items", err, len(s.Items()))
			}
			return
		}
		for _, i := range s.Items() {
			var again collateral.Set
			if err := again.Add("again", i.Raw); err != nil || len(again.Items()) != 1 || again.Items()[0].Kind != i.Kind {
				t.Fatalf("an item of kind %s is not what it was: %v", i.Kind, err)
			}
		}
		s.SNPCRLs()
	})
}
