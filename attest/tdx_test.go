package attest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/token"
)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("CLOISTER_VECTORS")
	if dir == "" {
		dir = "../../shared/vectors"
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("SKIPPED: test vectors are missing (%v); set CLOISTER_VECTORS", err)
	}
	return raw
}

// files is an endorser of what lies in files, for any platform.
type files struct {
	dcap.Files
	asked *dcap.PCK
}

func (f *files) DCAP(_ context.Context, pck *dcap.PCK, tee dcap.TEE) (*dcap.Collateral, error) {
	if tee != dcap.TDX {
		return nil, fmt.Errorf("asked for %s", tee)
	}
	if f.asked = pck; f.TCBInfo == nil {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "collateral", "none", "some")
	}
	return dcap.ParseCollateral(f.Files)
}

// october is collateral of autumn 2025 in files of one part each, spring that of June 2025 in one file.
func october(t testing.TB) *files {
	t.Helper()
	certs := func(names ...string) (out []byte) {
		for _, n := range names {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vector(t, "dcap-automata/"+n)})...)
		}
		return out
	}
	signer := certs("signing.der", "root.der")
	return &files{Files: dcap.Files{TCBInfo: vector(t, "dcap-automata/1025-tcb_info.json"), QEIdentity: vector(t, "dcap-automata/1025-identity.json"), PCKCRL: vector(t, "dcap-automata/1025-pck_crl.der"),
		RootCRL: vector(t, "dcap-automata/intel_root_ca_crl.der"), TCBInfoIssuerChain: signer, QEIdentityIssuerChain: signer, PCKCRLIssuerChain: certs("platform.der", "root.der")}}
}

func spring(t testing.TB) *files {
	t.Helper()
	var c map[string]string
	if err := json.Unmarshal(vector(t, "dcap-quotes-with-collateral/tdx_quote_collateral.json"), &c); err != nil {
		t.Fatal(err)
	}
	document := func(member, of string) []byte {
		return []byte(`{"` + member + `":` + c[of] + `,"signature":"` + c[of+"_signature"] + `"}`)
	}
	return &files{Files: dcap.Files{TCBInfo: document("tcbInfo", "tcb_info"), QEIdentity: document("enclaveIdentity", "qe_identity"), PCKCRL: []byte(c["pck_crl"]), RootCRL: []byte(c["root_ca_crl"]),
		TCBInfoIssuerChain: []byte(c["tcb_info_issuer_chain"]), QEIdentityIssuerChain: []byte(c["qe_identity_issuer_chain"]), PCKCRLIssuerChain: []byte(c["pck_crl_issuer_chain"])}}
}

// tdWorld is a service whose hardware issuer stands for Intel, with an endorser of the test's.
func tdWorld(t testing.TB, at time.Time, o appraise.IntelOptions) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: at}
	s, err := Open(config(t, w.dir, w.chip), func() time.Time { return w.now }, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.providers {
		if p.Name == "hardware" {
			p.Evaluator = appraise.New(appraise.Hardware(nil, &o, nil))
		}
	}
	server := httptest.NewTLSServer(s.Handler)
	t.Cleanup(func() { server.Close(); s.Close() })
	w.url, w.http, w.handler = server.URL, server.Client(), s.Handler
	w.authority = readAuthority(t, filepath.Join(w.dir, "state", "hardware.public.json"))
	return w
}

var (
	summer = time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC)
	autumn = time.Date(2025, 10, 25, 0, 0, 0, 0, time.UTC)
)

// Quotes of real TDs get tokens with Azure's claims, and the status that Intel's collateral of their time gives.
func TestTdxVM(t *testing.T) {
	quote := vector(t, "dcap-quotes-with-collateral/tdx_quote")
	collateral := spring(t)
	w := tdWorld(t, summer, appraise.IntelOptions{Collateral: collateral, Accept: []dcap.Status{dcap.UpToDate}})
	compact, err := w.client("").TdxVM(t.Context(), client.TdxVM{Quote: quote, Nonce: "n"})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	body := quote[48:]
	text := func(at, size int) string { return hex.EncodeToString(body[at : at+size]) }
	for name, want := range map[string]any{
		"x-ms-attestation-type": "tdxvm", "x-cloister-root": "intel", "x-ms-ver": "1.0", "nonce": "n", "attester_tcb_status": "UpToDate", "dbgstat": "disabled", "intuse": "generic",
		"eat_profile": "https://aka.ms/maa-eat-profile-tdxvm", "tdx_tee_tcb_svn": text(0, 16), "tdx_seamsvn": float64(body[0]) + 256*float64(body[1]), "tdx_mrseam": text(16, 48), "tdx_mrsignerseam": text(64, 48),
		"tdx_seam_attributes": text(112, 8), "tdx_td_attributes": text(120, 8), "tdx_xfam": text(128, 8), "tdx_mrtd": text(136, 48), "tdx_mrconfigid": text(184, 48), "tdx_mrowner": text(232, 48),
		"tdx_mrownerconfig": text(280, 48), "tdx_rtmr0": text(328, 48), "tdx_rtmr1": text(376, 48), "tdx_rtmr2": text(424, 48), "tdx_rtmr3": text(472, 48), "tdx_report_data": text(520, 64),
		"tdx_td_attributes_debug": false, "tdx_td_attributes_key_locker": false, "tdx_td_attributes_perfmon": false, "tdx_td_attributes_protection_keys": false, "tdx_td_attributes_septve_disable": true,
		"x-cloister-tdx-migratable": false,
	} {
		if got := tok.Claims[name]; got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if _, there := tok.Claims["x-ms-compliance-status"]; there {
		t.Error("a compliance status")
	}
	if advisories, ok := tok.Claims["x-cloister-tcb-advisories"].([]any); !ok || len(advisories) != 0 {
		t.Errorf("advisories %v", tok.Claims["x-cloister-tcb-advisories"])
	}
	if hex.EncodeToString(collateral.asked.FMSPC[:]) != "b0c06f000000" {
		t.Errorf("asked for the collateral of %x", collateral.asked.FMSPC)
	}
}

func TestTdxVMRefused(t *testing.T) {
	good := vector(t, "dcap-quotes-with-collateral/tdx_quote")
	accept := []dcap.Status{dcap.UpToDate}
	flipped := bytes.Clone(good)
	flipped[48+136] ^= 1
	for _, r := range []struct {
		name    string
		at      time.Time
		options appraise.IntelOptions
		in      client.TdxVM
		code    evidence.Code
	}{
		{"TDX-13 a changed MRTD", summer, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: flipped}, evidence.CodeChain},
		{"TDX-23 half a quote", summer, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: good[:2000]}, evidence.CodeParse},
		{"TDX-27 an SGX quote", summer, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: vector(t, "dcap-quotes-with-collateral/sgx_quote")}, evidence.CodeUnsupported},
		{"SVC-32 runtime data of another", summer, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: good, RuntimeData: []byte("{}")}, evidence.CodeBinding},
		{"init data of another", summer, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: good, InitTimeData: []byte("{}")}, evidence.CodeBinding},
		{"TDX-15 collateral at another time", autumn, appraise.IntelOptions{Collateral: spring(t), Accept: accept}, client.TdxVM{Quote: good}, evidence.CodeUnavailable},
		{"SVC-28 no collateral", summer, appraise.IntelOptions{Collateral: &files{}, Accept: accept}, client.TdxVM{Quote: good}, evidence.CodeUnavailable},
		{"TDX-19 collateral of another platform", autumn, appraise.IntelOptions{Collateral: october(t), Accept: accept}, client.TdxVM{Quote: good}, evidence.CodeBinding},
		{"TDX-04 a platform that is out of date", autumn, appraise.IntelOptions{Collateral: october(t), Accept: accept}, client.TdxVM{Quote: vector(t, "dcap-automata/quote_tdx.bin")}, evidence.CodeTCB},
		{"TDX-16 collateral of long ago", autumn, appraise.IntelOptions{Collateral: october(t), Accept: []dcap.Status{dcap.OutOfDate}, MinimumEvaluation: 1000}, client.TdxVM{Quote: vector(t, "dcap-automata/quote_tdx.bin")}, evidence.CodeTCB},
	} {
		t.Run(r.name, func(t *testing.T) {
			w := tdWorld(t, r.at, r.options)
			if got, err := w.client("").TdxVM(t.Context(), r.in); got != "" || evidence.CodeOf(err) != r.code {
				t.Errorf("%v, want %s", err, r.code)
			}
		})
	}
	w := tdWorld(t, autumn, appraise.IntelOptions{Collateral: october(t), Accept: []dcap.Status{dcap.UpToDate, dcap.OutOfDate}})
	compact, err := w.client("").TdxVM(t.Context(), client.TdxVM{Quote: vector(t, "dcap-automata/quote_tdx.bin")})
	if err != nil {
		t.Fatalf("twin of TDX-04: %v", err)
	}
	tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(tok.Claims["attester_tcb_status"], tok.Claims["x-cloister-tcb-advisories"]); got != "OutOfDate[INTEL-SA-00960 INTEL-SA-00982 INTEL-SA-00986]" {
		t.Errorf("TDX-06 status and advisories: %s", got)
	}
	if _, err := w.client("").SevSnpVM(t.Context(), w.report(t, w.chip, nil)); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("a SEV-SNP report where only Intel counts: %v", err)
	}
	if _, err := w.client("/software").TdxVM(t.Context(), client.TdxVM{Quote: good}); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("SVC-22 a real quote at the software issuer: %v", err)
	}
	amd := newWorld(t)
	if _, err := amd.client("").TdxVM(t.Context(), client.TdxVM{Quote: good}); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("a TD where only AMD counts: %v", err)
	}
	for _, version := range []string{"2022-08-01", "2022-09-01-preview"} {
		resp, err := w.http.Post(w.url+"/attest/TdxVm?api-version="+version, "application/json", strings.NewReader(`{"quote":"AA"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("version %s: %d", version, resp.StatusCode)
		}
	}
}
