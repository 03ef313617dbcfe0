package external

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/attest/api"
	"cloister.dev/cloister/attest/issuer"
	"cloister.dev/cloister/attest/request"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/token"
)

var _ api.Evaluator = (*Verifier)(nil)

const issuerURL = "https://other.cloister.test"

var (
	now  = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	keys = sync.OnceValue(func() [2]*rsa.PrivateKey {
		var out [2]*rsa.PrivateKey
		for i := range out {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				panic(err)
			}
			out[i] = key
		}
		return out
	})
)

// fake is another verifier: it answers with a token of the claims that a good one would make, changed.
type fake struct {
	signer, stranger *issuer.Issuer
	claims           map[string]any
	answer           func(w http.ResponseWriter, good string)
	body             []byte
	path             string
	header           http.Header
	url              string
	http             *http.Client
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{}
	var err error
	if f.signer, err = issuer.New(keys()[0], issuerURL, now); err != nil {
		t.Fatal(err)
	}
	if f.stranger, err = issuer.New(keys()[1], issuerURL, now); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.body, _ = io.ReadAll(r.Body)
		f.path, f.header = r.URL.Path, r.Header
		var sent struct{ Nonce string }
		_ = json.Unmarshal(f.body, &sent)
		claims := map[string]any{}
		for k, v := range f.claims {
			claims[k] = v
		}
		if _, set := claims["nonce"]; !set && sent.Nonce != "" {
			claims["nonce"] = sent.Nonce
		}
		good := f.sign(t, f.signer, claims)
		if f.answer != nil {
			f.answer(w, good)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": good})
	}))
	t.Cleanup(server.Close)
	f.url, f.http = server.URL, server.Client()
	f.http.Timeout = time.Minute
	return f
}

func (f *fake) sign(t *testing.T, i *issuer.Issuer, claims map[string]any) string {
	t.Helper()
	if err := i.Stamp(claims, now, issuer.TokenLife); err != nil {
		t.Fatal(err)
	}
	compact, err := i.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func (f *fake) verifier(t *testing.T, p Protocol) *Verifier {
	t.Helper()
	pins, err := f.signer.SigningKeys(now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := token.NewAuthority(initdata.Service{URL: issuerURL, SigningKeys: pins})
	if err != nil {
		t.Fatal(err)
	}
	v, err := New(Options{Protocol: p, URL: f.url, Authority: a, APIKey: "secret", HTTP: f.http})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func data(t *testing.T, text string) *request.Data {
	t.Helper()
	d, err := request.NewJSONData("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func snpRequest(t *testing.T) (*request.SevSnpVM, map[string]any) {
	t.Helper()
	chip := sevsnptest.New(t, sevsnp.Milan).Chip(t, sevsnp.TCB{SNP: 21}, nil)
	in := &request.SevSnpVM{Chain: chip.Chain.PEM(), Runtime: data(t, `{"a":1}`), InitTime: data(t, `{"b":1}`)}
	r := chip.Report()
	r.ReportData, r.HostData, r.Measurement = hcl.ReportData(in.Runtime.Raw), initdata.SNPHostData(in.InitTime.Raw), [48]byte{1}
	in.Report = chip.Sign(t, r).Marshal()
	return in, map[string]any{"x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-reportdata": hex.EncodeToString(r.ReportData[:]), "x-ms-sevsnpvm-hostdata": hex.EncodeToString(r.HostData[:]),
		"x-ms-sevsnpvm-launchmeasurement": hex.EncodeToString(r.Measurement[:]), "x-ms-sevsnpvm-reportid": hex.EncodeToString(r.ReportID[:]), "x-ms-sevsnpvm-vmpl": 0, "x-ms-compliance-status": "azure-compliant-cvm",
		"x-cloister-challenge": "forged", "mine": "forged"}
}

func TestSevSnpVM(t *testing.T) {
	in, claims := snpRequest(t)
	f := newFake(t)
	f.claims = claims
	got, err := f.verifier(t, MAA).SevSnpVM(t.Context(), in, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"x-cloister-root": "amd", "x-cloister-external-verifier": issuerURL, "x-ms-sevsnpvm-vmpl": int64(0), "x-cloister-challenge": nil, "mine": nil, "iss": nil, "exp": nil} {
		if got.Claims()[name] != want {
			t.Errorf("%s = %v, want %v", name, got.Claims()[name], want)
		}
	}
	if f.path != "/attest/SevSnpVm" || !bytes.Contains(f.body, []byte(`"runtimeData":{"data":`)) {
		t.Errorf("sent %s to %s", f.body, f.path)
	}
	var elsewhere int
	trap := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(trap.Close)
	change := func(name string, value any) func(*fake) {
		return func(f *fake) {
			c := map[string]any{}
			for k, v := range claims {
				c[k] = v
			}
			c[name] = value
			f.claims = c
		}
	}
	reply := func(status int, body string) func(*fake) {
		return func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ string) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
		}
	}
	for _, r := range []struct {
		name   string
		change func(*fake)
		code   evidence.Code
	}{
		{"SVC-01 SVC-02 a key that was not pinned", func(f *fake) { f.signer = f.stranger }, evidence.CodeChain},
		{"SVC-04 an unsecured token", func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ string) {
				compact, _ := issuer.Unsecured(map[string]any{"iss": issuerURL})
				_ = json.NewEncoder(w).Encode(map[string]string{"token": compact})
			}
		}, evidence.CodeChain},
		{"a token of another request", change("nonce", "another"), evidence.CodeBinding},
		{"a token about other runtime data", change("x-ms-sevsnpvm-reportdata", strings.Repeat("0", 128)), evidence.CodeBinding},
		{"a token about other init data", change("x-ms-sevsnpvm-hostdata", strings.Repeat("0", 64)), evidence.CodeBinding},
		{"a token about another launch", change("x-ms-sevsnpvm-launchmeasurement", strings.Repeat("0", 96)), evidence.CodeBinding},
		{"a token about another VM", change("x-ms-sevsnpvm-reportid", strings.Repeat("1", 64)), evidence.CodeBinding},
		{"a token of another kind", change("x-ms-attestation-type", "sgx"), evidence.CodeBinding},
		{"SVC-22 a software root", change("x-cloister-root", "software"), evidence.CodePolicy},
		{"a claim that is no text", change("x-ms-sevsnpvm-reportdata", 1), evidence.CodeBinding},
		{"a refusal", reply(400, `{"error":{"code":"PolicyEvaluationError","message":"no"}}`), evidence.CodePolicy},
		{"SVC-28 too many requests", reply(429, ""), evidence.CodeUnavailable},
		{"SVC-28 an error", reply(500, ""), evidence.CodeUnavailable},
		{"SVC-28 no JSON", reply(200, "x"), evidence.CodeUnavailable},
		{"SVC-11 an answer without end", reply(200, strings.Repeat(" ", maxReply+1)), evidence.CodeUnavailable},
		{"no token", reply(200, "{}"), evidence.CodeParse},
		{"SVC-09 a redirect", func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ string) {
				w.Header().Set("Location", trap.URL)
				w.WriteHeader(http.StatusTemporaryRedirect)
			}
		}, evidence.CodeUnavailable},
	} {
		t.Run(r.name, func(t *testing.T) {
			f := newFake(t)
			f.claims = claims
			v := f.verifier(t, MAA)
			r.change(f)
			if got, err := v.SevSnpVM(t.Context(), in, now); got != nil || evidence.CodeOf(err) != r.code {
				t.Errorf("%v, %v; want %s", got, err, r.code)
			}
		})
	}
	if elsewhere != 0 {
		t.Error("a request went elsewhere")
	}
	late := f.verifier(t, MAA)
	if _, err := late.SevSnpVM(t.Context(), in, now.Add(issuer.TokenLife)); evidence.CodeOf(err) != evidence.CodeBinding {
		t.Errorf("SVC-05 an expired token: %v", err)
	}
	f.http.CloseIdleConnections()
}

func TestTdxVM(t *testing.T) {
	in := &request.TdxVM{Quote: []byte("quote"), Runtime: data(t, `{"a":1}`), InitTime: data(t, `{"b":1}`)}
	reportData, configID := hcl.ReportData(in.Runtime.Raw), initdata.TDXConfigID(in.InitTime.Raw)
	for _, p := range []Protocol{MAA, TrustAuthority} {
		t.Run(string(p), func(t *testing.T) {
			f := newFake(t)
			good := func() map[string]any {
				return map[string]any{"x-ms-attestation-type": "tdxvm", "tdx_report_data": hex.EncodeToString(reportData[:]), "tdx_mrconfigid": hex.EncodeToString(configID[:]), "attester_tcb_status": "UpToDate", "tdx_seamsvn": 3}
			}
			f.claims = good()
			got, err := f.verifier(t, p).TdxVM(t.Context(), in, now)
			if err != nil {
				t.Fatal(err)
			}
			if c := got.Claims(); c["x-cloister-root"] != "intel" || c["attester_tcb_status"] != "UpToDate" || c["tdx_seamsvn"] != int64(3) {
				t.Errorf("claims %v", c)
			}
			if sent := f.header.Get("x-api-key"); sent != map[Protocol]string{MAA: "", TrustAuthority: "secret"}[p] {
				t.Errorf("API key %q", sent)
			}
			for name, value := range map[string]any{"tdx_report_data": strings.Repeat("0", 128), "tdx_mrconfigid": strings.Repeat("0", 96)} {
				f.claims = good()
				f.claims[name] = value
				if _, err := f.verifier(t, p).TdxVM(t.Context(), in, now); evidence.CodeOf(err) != evidence.CodeBinding {
					t.Errorf("another %s: %v", name, err)
				}
			}
			f.claims = good()
			if _, err := f.verifier(t, p).TdxVM(t.Context(), &request.TdxVM{Quote: in.Quote}, now); evidence.CodeOf(err) != evidence.CodeBinding {
				t.Errorf("a quote about nothing: %v", err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	f := newFake(t)
	in, _ := snpRequest(t)
	if _, err := f.verifier(t, TrustAuthority).SevSnpVM(t.Context(), in, now); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("SEV-SNP at Intel's: %v", err)
	}
	if _, err := f.verifier(t, MAA).Guest(t.Context(), &request.Guest{}, now); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("a guest: %v", err)
	}
	if _, err := f.verifier(t, MAA).AK(t.Context(), &request.AK{}, now); evidence.CodeOf(err) != evidence.CodeUnsupported {
		t.Errorf("a vTPM's key: %v", err)
	}
	good := f.verifier(t, MAA).o
	for name, change := range map[string]func(*Options){
		"no protocol": func(o *Options) { o.Protocol = "" }, "plain HTTP": func(o *Options) { o.URL = "http://x" }, "SVC-34 a user": func(o *Options) { o.URL = "https://a@x" }, "a query": func(o *Options) { o.URL += "?a" },
		"SVC-03 no pinned key": func(o *Options) { o.Authority.Keys = nil }, "no issuer": func(o *Options) { o.Authority.Issuer = "" }, "SVC-11 no time limit": func(o *Options) { o.HTTP = &http.Client{} }, "no client": func(o *Options) { o.HTTP = nil },
	} {
		o := good
		change(&o)
		if _, err := New(o); evidence.CodeOf(err) != evidence.CodePolicy {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Errorf("twin: %v", err)
	}
}
