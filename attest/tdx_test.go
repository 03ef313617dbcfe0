package attest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister.dev/cloister/attest/appraise"
	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/dcap"
	"cloister.dev/cloister/evidence/hcl"
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

// swapped judges by whatever options a test set last, so that rows share one service.
type swapped struct {
	atomic.Pointer[appraise.Verifier]
}

func (s *swapped) SevSnpVM(ctx context.Context, in *request.SevSnpVM, at time.Time) (*appraise.Result, error) {
	return s.Load().SevSnpVM(ctx, in, at)
}

func (s *swapped) TdxVM(ctx context.Context, in *request.TdxVM, at time.Time) (*appraise.Result, error) {
	return s.Load().TdxVM(ctx, in, at)
}

func (s *swapped) Guest(ctx context.Context, in *request.Guest, at time.Time) (*appraise.Result, error) {
	return s.Load().Guest(ctx, in, at)
}

func (s *swapped) AK(ctx context.Context, in *request.AK, at time.Time) (*appraise.AK, error) {
	return s.Load().AK(ctx, in, at)
}

func (s *swapped) set(o appraise.IntelOptions) {
	s.Store(appraise.New(appraise.Hardware(nil, &o, appraise.SoftwareRoots{})))
}

// tdWorld is a service whose hardware issuer stands for Intel, with an endorser of the test's.
func tdWorld(t testing.TB, at time.Time, o appraise.IntelOptions) (*world, *swapped) {
	t.Helper()
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: at}
	s, err := Open(config(t, w.dir, w.chip), func() time.Time { return w.now }, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	judge := &swapped{}
	judge.set(o)
	for _, p := range s.providers {
		if p.Name == "hardware" {
			p.Evaluator = judge
		}
	}
	server := httptest.NewTLSServer(s.Handler)
	t.Cleanup(func() { server.Close(); s.Close() })
	w.url, w.http, w.handler = server.URL, server.Client(), s.Handler
	w.authority = readAuthority(t, filepath.Join(w.dir, "state", "hardware.public.json"))
	return w, judge
}

var (
	summer = time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC)
	autumn = time.Date(2025, 10, 25, 0, 0, 0, 0, time.UTC)
)

// Quotes of real TDs get tokens with Azure's claims, and the status that Intel's collateral of their time gives.
func TestTdxVM(t *testing.T) {
	quote := vector(t, "dcap-quotes-with-collateral/tdx_quote")
	collateral := spring(t)
	w, _ := tdWorld(t, summer, appraise.IntelOptions{Collateral: collateral, Accept: []dcap.Status{dcap.UpToDate}})
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
	w, judge := tdWorld(t, summer, appraise.IntelOptions{})
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
			judge.set(r.options)
			w.now = r.at
			if got, err := w.client("").TdxVM(t.Context(), r.in); got != "" || evidence.CodeOf(err) != r.code {
				t.Errorf("%v, want %s", err, r.code)
			}
		})
	}
	judge.set(appraise.IntelOptions{Collateral: october(t), Accept: []dcap.Status{dcap.UpToDate, dcap.OutOfDate}})
	w.now = autumn
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
	if _, err := w.client("/software").TdxVM(t.Context(), client.TdxVM{Quote: good}); evidence.CodeOf(err) != evidence.CodeChain {
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

// A real TD's evidence holds together from the quote by the HCL report to the vTPM's quote. There is no boot log with it,
// and its nonce is not ours: there it ends, and nowhere before.
func TestRealTDGuest(t *testing.T) {
	report, err := hcl.Parse(vector(t, "az-tdx-vtpm-evidence/hcl-report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	named, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := named.RSAKey(hcl.KeyAK)
	if err != nil {
		t.Fatal(err)
	}
	var quote struct {
		Signature, Message string
		PCRs               []string
	}
	if err := json.Unmarshal(vector(t, "az-tdx-vtpm-evidence/tpm-quote-v1.json"), &quote); err != nil {
		t.Fatal(err)
	}
	bytesOf := func(text string) []byte {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	w, judge := tdWorld(t, autumn, appraise.IntelOptions{Collateral: october(t), Accept: []dcap.Status{dcap.UpToDate, dcap.SWHardeningNeeded, dcap.OutOfDate}})
	good := func() client.Guest {
		g := client.Guest{OSType: "Linux", OSDistro: "Ubuntu", TDQuote: vector(t, "az-tdx-vtpm-evidence/td-quote.bin"), RuntimeClaims: report.Claims,
			AKPublic: public(ak, signing, nil), Quote: bytesOf(quote.Message), QuoteSignature: bytesOf(quote.Signature), PCRs: map[int][32]byte{}}
		for n, text := range quote.PCRs {
			g.PCRs[n] = [32]byte(bytesOf(text))
		}
		return g
	}
	stranger := newTPM(t)
	for _, r := range []struct {
		name   string
		change func(*client.Guest)
		code   evidence.Code
		field  string
	}{
		{"TPM-01 a quote of another session", nil, evidence.CodeBinding, "quote qualifying data"},
		{"SVC-32 other claims", func(g *client.Guest) { g.RuntimeClaims = stranger.claims(t) }, evidence.CodeBinding, "REPORTDATA"},
		{"TPM-07 another AK", func(g *client.Guest) { g.AKPublic = public(&stranger.ak.PublicKey, signing, nil) }, evidence.CodeBinding, "HCLAkPub"},
		{"TPM-03 other registers", func(g *client.Guest) { g.PCRs[4] = [32]byte{1} }, evidence.CodeBinding, ""},
		{"TPM-09 another signature", func(g *client.Guest) { g.QuoteSignature[9] ^= 1 }, evidence.CodeChain, ""},
		{"TDX-27 a SEV-SNP report in the quote's place", func(g *client.Guest) { g.TDQuote = report.Hardware }, evidence.CodeUnsupported, ""},
		{"init data of another", func(g *client.Guest) { g.InitTimeData = initData }, evidence.CodeBinding, "MRCONFIGID"},
		{"TDX-04 a status that is not accepted", func(*client.Guest) {
			judge.set(appraise.IntelOptions{Collateral: october(t), Accept: []dcap.Status{dcap.ConfigurationNeeded}})
		}, evidence.CodeTCB, "TCB status"},
	} {
		t.Run(r.name, func(t *testing.T) {
			g := good()
			if r.change != nil {
				r.change(&g)
			}
			_, err := w.client("").AzureGuest(t.Context(), g)
			var refusal *evidence.Refusal
			if !errors.As(err, &refusal) || refusal.Code != r.code || r.field != "" && refusal.Field != r.field {
				t.Errorf("%v, want %s of %s", err, r.code, r.field)
			}
		})
	}
}
