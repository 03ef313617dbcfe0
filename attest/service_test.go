package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/hcl"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/evidence/sevsnp/sevsnptest"
	"cloister.dev/cloister/evidence/soft"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/tcbfloor"
)

const (
	hardwareURL = "https://attest.cloister.test"
	softwareURL = "https://attest.cloister.test/software"
)

// world is a service with both issuers, and a software CPU under the root that it names.
type world struct {
	url       string // of the test server
	dir       string
	chip      *sevsnptest.Chip
	amdLike   *sevsnptest.Chip // a vendor with AMD's names and other keys
	authority token.Authority
	now       time.Time
	identity  *identitytest.Issuer
	http      *http.Client
	// certificate is the test server's own.
	certificate *x509.Certificate
	handler     http.Handler
}

// Making keys is slow, so tests share one software CPU and one vendor with AMD's names.
var (
	chips       sync.Once
	sharedChip  *sevsnptest.Chip
	sharedOther *sevsnptest.Chip
)

func softwareChip(t testing.TB) *sevsnptest.Chip {
	t.Helper()
	chips.Do(func() {
		sharedChip = newSoftwareChip(t)
		sharedOther = sevsnptest.New(t, sevsnp.Milan).Chip(t, sharedChip.TCB, nil)
	})
	return sharedChip
}

func newSoftwareChip(t testing.TB) *sevsnptest.Chip {
	t.Helper()
	v := sevsnptest.New(t, sevsnp.Milan)
	v.ARK = v.Authority(t, soft.RootName, 1, &v.ARKKey.PublicKey, nil, v.ARKKey)
	v.ASK = v.Authority(t, soft.IntermediateName, 2, &v.ASKKey.PublicKey, v.ARK, v.ARKKey)
	return v.Chip(t, sevsnp.TCB{BootLoader: 4, TEE: 1, SNP: 21, Microcode: 211}, nil)
}

func config(t testing.TB, dir string, chip *sevsnptest.Chip) Config {
	t.Helper()
	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chip.Chain.Root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	floor := tcbfloor.Of(sevsnp.TCB{BootLoader: 3, SNP: 8, Microcode: 115})
	return Config{
		Listen: "127.0.0.1:0", StateDir: filepath.Join(dir, "state"), TLS: TLS{Certificate: "c", Key: "k"},
		Hardware: &Hardware{Issuer: hardwareURL, AMD: &AMD{MinimumTCB: &floor, RequireRevocationLists: new(bool)}},
		Software: &Software{Issuer: softwareURL, Roots: []string{root}},
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), chip: softwareChip(t), now: sevsnptest.Now}
	w.amdLike = sharedOther
	w.identity = identitytest.New(t, w.clock)
	c := config(t, w.dir, w.chip)
	ids := w.identity.Config(t, "https://attest.azure.net")
	c.Identity = &ids
	c.Roles = roles.List{{PrincipalID: identitytest.AdminID, Role: "Attestation Contributor", Scope: "/attestation"}}
	w.serve(t, c)
	w.authority = readAuthority(t, filepath.Join(c.StateDir, "software.public.json"))
	return w
}

func (w *world) clock() time.Time { return w.now }

// serve opens the service with a configuration, behind TLS.
func (w *world) serve(t testing.TB, c Config) {
	t.Helper()
	s, err := Open(c, w.clock, slog.New(slog.NewJSONHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(s.Handler)
	t.Cleanup(func() { server.Close(); s.Close() })
	w.url, w.http, w.certificate, w.handler = server.URL, server.Client(), server.Certificate(), s.Handler
}

func readAuthority(t testing.TB, path string) token.Authority {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s initdata.Service
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	a, err := token.NewAuthority(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) client(path string) *client.Client {
	return client.New(client.Options{URL: w.url + path, HTTP: w.http})
}

var (
	runtimeData = []byte(`{"keys":[{"kid":"HCLTransferKey","key_ops":["encrypt"],"kty":"RSA","e":"AQAB","n":"AQAB"}],"n":9007199254740993}`)
	initData    = []byte(`{"version":"cloister.initdata/1"}`)
)

// report is good evidence but for what change breaks, signed after that.
func (w *world) report(t testing.TB, chip *sevsnptest.Chip, change func(*sevsnp.Report)) client.SevSnpVM {
	t.Helper()
	r := chip.Report()
	r.ReportData, r.HostData = hcl.ReportData(runtimeData), initdata.SNPHostData(initData)
	r.Measurement = [48]byte{0xaa, 47: 0xbb}
	r.GuestSVN = 7
	if change != nil {
		change(r)
	}
	return client.SevSnpVM{Report: chip.Sign(t, r).Marshal(), ChainPEM: chip.Chain.PEM(), RuntimeData: runtimeData, InitTimeData: initData, Nonce: "my nonce"}
}

func TestSevSnpVM(t *testing.T) {
	w := newWorld(t)
	compact, err := w.client("/software").SevSnpVM(t.Context(), w.report(t, w.chip, nil))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	got := maps.Clone(tok.Claims)
	delete(got, "jti")
	zeros := strings.Repeat("0", 96)
	sum, host := sha256.Sum256(runtimeData), sha256.Sum256(initData)
	want := `{"exp":1793563200,"iat":1793534400,"iss":"` + softwareURL + `","nbf":1793534400,"nonce":"my nonce","x-cloister-policy-origin":"default","x-cloister-root":"software","x-cloister-vtpm-isolation":"process",` +
		`"x-ms-attestation-type":"sevsnpvm","x-ms-inittime":{"version":"cloister.initdata/1"},"x-ms-policy-hash":"` + tok.Claims["x-ms-policy-hash"].(string) + `",` +
		`"x-ms-runtime":{"keys":[{"e":"AQAB","key_ops":["encrypt"],"kid":"HCLTransferKey","kty":"RSA","n":"AQAB"}],"n":9007199254740992},` +
		`"x-ms-sevsnpvm-authorkeydigest":"` + zeros + `","x-ms-sevsnpvm-bootloader-svn":4,"x-ms-sevsnpvm-familyId":"` + zeros[:32] + `","x-ms-sevsnpvm-guestsvn":7,` +
		`"x-ms-sevsnpvm-hostdata":"` + hex.EncodeToString(host[:]) + `","x-ms-sevsnpvm-idkeydigest":"` + zeros + `","x-ms-sevsnpvm-imageId":"` + zeros[:32] + `",` +
		`"x-ms-sevsnpvm-is-debuggable":false,"x-ms-sevsnpvm-launchmeasurement":"aa` + zeros[:92] + `bb","x-ms-sevsnpvm-microcode-svn":211,"x-ms-sevsnpvm-migration-allowed":false,` +
		`"x-ms-sevsnpvm-reportdata":"` + hex.EncodeToString(sum[:]) + zeros[:64] + `","x-ms-sevsnpvm-reportid":"` + zeros[:64] + `","x-ms-sevsnpvm-smt-allowed":true,` +
		`"x-ms-sevsnpvm-snpfw-svn":21,"x-ms-sevsnpvm-tee-svn":1,"x-ms-sevsnpvm-vmpl":0,"x-ms-ver":"1.0"}`
	if raw, _ := json.Marshal(got); string(raw) != want {
		t.Errorf("claims\n%s\nwant\n%s", raw, want)
	}
	if _, ok := tok.Lookup("x-ms-compliance-status"); ok {
		t.Error("SVC-24: a software token carries a compliance status")
	}
	hardware := readAuthority(t, filepath.Join(w.dir, "state", "hardware.public.json"))
	if _, err := token.Verify(compact, []token.Authority{hardware}, w.now); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SVC-22: the software token under the hardware issuer's key: %v", err)
	}
}

func TestSevSnpVMRefused(t *testing.T) {
	w := newWorld(t)
	other := newSoftwareChip(t)
	for _, c := range []struct {
		name, path string
		in         client.SevSnpVM
		code       evidence.Code
	}{
		{"SNP-01 report data of another session", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.ReportData[0] ^= 1 }), evidence.CodeBinding},
		{"SVC-32 the second half of the report data", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.ReportData[63] = 1 }), evidence.CodeBinding},
		{"SNP-24 other init data", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.HostData[0] ^= 1 }), evidence.CodeBinding},
		{"SNP-02 VMPL 1", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.VMPL = 1 }), evidence.CodePolicy},
		{"SNP-02 VMPL of the host", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.VMPL = 0xffffffff }), ""},
		{"SNP-03 debug", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyDebug }), evidence.CodePolicy},
		{"SNP-04 migration agent", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.Policy |= sevsnp.PolicyMigrationAgent }), evidence.CodePolicy},
		{"SNP-10 TCB of another certificate", "/software", w.report(t, w.chip, func(r *sevsnp.Report) { r.ReportedTCB.SNP-- }), evidence.CodeChain},
		{"SNP-14 another software root", "/software", w.report(t, other, nil), evidence.CodeChain},
		{"SNP-14 a vendor with AMD's names", "/software", w.report(t, w.amdLike, nil), evidence.CodeChain},
		{"SNP-14 a vendor with AMD's names, at the hardware issuer", "", w.report(t, w.amdLike, nil), evidence.CodeChain},
		{"SVC-24 software evidence at the hardware issuer", "", w.report(t, w.chip, nil), evidence.CodePolicy},
		{"SNP-30 zeros", "/software", client.SevSnpVM{Report: make([]byte, 1184), ChainPEM: w.chip.Chain.PEM()}, ""},
		{"SNP-33 cut", "/software", client.SevSnpVM{Report: make([]byte, 1183), ChainPEM: w.chip.Chain.PEM()}, evidence.CodeParse},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := w.client(c.path).SevSnpVM(t.Context(), c.in)
			if code := evidence.CodeOf(err); got != "" || code == "" || c.code != "" && code != c.code {
				t.Errorf("got %q, %v; want %s", got, err, c.code)
			}
		})
	}
	flipped := w.report(t, w.chip, nil)
	flipped.Report[0x90] ^= 1
	if _, err := w.client("/software").SevSnpVM(t.Context(), flipped); evidence.CodeOf(err) != evidence.CodeChain {
		t.Errorf("SNP-33 a flipped bit: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(w.dir, "state", "transparency.jsonl"))
	if err != nil || bytes.Count(log, []byte(`"event":"token-refused"`)) != 15 {
		t.Errorf("refusals in the log: %d (%v)", bytes.Count(log, []byte(`"event":"token-refused"`)), err)
	}
	twin := w.report(t, w.chip, nil)
	twin.RuntimeData, twin.InitTimeData = nil, nil
	if _, err := w.client("/software").SevSnpVM(t.Context(), twin); err != nil {
		t.Errorf("twin without data: %v", err)
	}
}

func (w *world) bearer(t testing.TB) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return adminToken(t, w), nil }
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	admin := client.New(client.Options{URL: w.url + "/software", HTTP: w.http, Bearer: w.bearer(t)})
	ctx := t.Context()
	standard, err := admin.Policy(ctx, "SevSnpVm")
	if err != nil || !strings.Contains(standard, "permit()") {
		t.Fatalf("default policy %q, %v", standard, err)
	}
	deny := "version=1.0;authorizationrules{=>deny();};"
	if err := admin.SetPolicy(ctx, "SevSnpVm", deny); err != nil {
		t.Fatal(err)
	}
	if text, err := admin.Policy(ctx, "SevSnpVm"); err != nil || text != deny {
		t.Errorf("policy %q, %v", text, err)
	}
	if _, err := w.client("/software").SevSnpVM(ctx, w.report(t, w.chip, nil)); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("under a deny policy: %v", err)
	}
	if err := admin.SetPolicy(ctx, "SevSnpVm", `version=1.0;authorizationrules{[type=="x-ms-sevsnpvm-launchmeasurement", value=="aa`+strings.Repeat("0", 92)+`bb"]=>permit();};issuancerules{=>issue(type="mine",value=1);=>issueproperty(type="report_validity_in_minutes",value=5);};`); err != nil {
		t.Fatal(err)
	}
	compact, err := w.client("/software").SevSnpVM(ctx, w.report(t, w.chip, nil))
	if err != nil {
		t.Fatalf("under a policy that names the measurement: %v", err)
	}
	tok, err := token.Verify(compact, []token.Authority{w.authority}, w.now)
	if err != nil || tok.Claims["mine"] != 1.0 || tok.Expires.Sub(tok.IssuedAt) != 5*time.Minute {
		t.Errorf("token %v, %v", tok, err)
	}
	if _, err := w.client("/software").SevSnpVM(ctx, w.report(t, w.chip, func(r *sevsnp.Report) { r.Measurement[0] = 1 })); evidence.CodeOf(err) != evidence.CodePolicy {
		t.Errorf("SNP other measurement: %v", err)
	}
	for name, text := range map[string]string{"syntax": "version=1.0;x", "SVC-08 unknown claim": `version=1.0;authorizationrules{[type=="x-ms-nothing"]=>permit();};`} {
		if err := admin.SetPolicy(ctx, "SevSnpVm", text); evidence.CodeOf(err) != evidence.CodeParse {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := admin.ResetPolicy(ctx, "SevSnpVm"); err != nil {
		t.Fatal(err)
	}
	if text, err := admin.Policy(ctx, "SevSnpVm"); err != nil || text != standard {
		t.Errorf("after the reset: %q, %v", text, err)
	}
	anonymous := w.client("/software")
	if err := anonymous.SetPolicy(ctx, "SevSnpVm", deny); evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Errorf("nobody sets a policy: %v", err)
	}
	if _, err := anonymous.Policy(ctx, "SevSnpVm"); evidence.CodeOf(err) != evidence.CodeAuthz {
		t.Errorf("nobody reads a policy: %v", err)
	}
	if _, err := admin.Policy(ctx, "../hardware"); err == nil {
		t.Error("SVC-12: a path as a kind")
	}
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	good, err := json.Marshal(map[string]any{"report": "AA"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method, path, header string
		body                       []byte
		status                     int
	}{
		{"health", "GET", "/healthz", "", nil, 200},
		{"metrics", "GET", "/metrics", "", nil, 200},
		{"certs", "GET", "/software/certs?api-version=2022-08-01", "", nil, 200},
		{"discovery", "GET", "/software/.well-known/openid-configuration", "", nil, 200},
		{"unknown path", "GET", "/x", "", nil, 404},
		{"wrong method", "GET", "/software/attest/SevSnpVm", "", nil, 404},
		{"another kind", "POST", "/software/attest/SgxEnclave?api-version=2023-04-01-preview", "", good, 404},
		{"no api-version", "POST", "/software/attest/SevSnpVm", "", good, 400},
		{"an odd api-version", "POST", "/software/attest/SevSnpVm?api-version=latest", "", good, 400},
		{"an early api-version", "POST", "/software/attest/SevSnpVm?api-version=2019-01-01", "", good, 400},
		{"an api-version before the call", "POST", "/software/attest/SevSnpVm?api-version=2020-10-01", "", good, 400},
		{"an api-version to come", "POST", "/software/attest/SevSnpVm?api-version=2099-01-01", "", good, 400},
		{"our version at Azure's call", "POST", "/software/attest/AzureGuest?api-version=2026-11-01", "", good, 400},
		{"two api-versions", "POST", "/software/attest/AzureGuest?api-version=2020-10-01&api-version=2020-10-01", "", good, 400},
		{"Azure's version at our call", "POST", "/software/cloister/akcertificate?api-version=2025-06-01", "", good, 400},
		{"SVC-19 gzip", "POST", "/software/attest/SevSnpVm?api-version=2022-08-01", "Content-Encoding: gzip", good, 400},
		{"SVC-11 a body without end", "POST", "/software/attest/SevSnpVm?api-version=2022-08-01", "", make([]byte, 5<<20), 400},
		{"another media type", "POST", "/software/attest/SevSnpVm?api-version=2022-08-01", "Content-Type: text/plain", good, 400},
		{"SVC-30 forged headers", "GET", "/software/certs", "X-Forwarded-Host: evil.test", nil, 200},
		{"SVC-30 method override", "GET", "/software/policies/SevSnpVm:reset?api-version=2022-08-01", "X-HTTP-Method-Override: POST", nil, 404},
		{"policy without sign-in", "PUT", "/software/policies/SevSnpVm?api-version=2022-08-01", "", []byte("x"), 401},
		{"reset with an escaped colon", "POST", "/software/policies/SevSnpVm%3Areset?api-version=2022-08-01", "", nil, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, w.url+c.path, bytes.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if name, value, ok := strings.Cut(c.header, ": "); ok {
				req.Header.Set(name, value)
			}
			resp, err := w.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			raw, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || strings.Contains(string(raw), "evil.test") {
				t.Errorf("%d %s", resp.StatusCode, raw)
			}
			for _, name := range []string{"Server", "X-Powered-By", "x-ms-maa-service-version"} {
				if v := resp.Header.Get(name); v != "" {
					t.Errorf("header %s: %q", name, v)
				}
			}
			if c.path != "/metrics" && c.path != "/healthz" && resp.Header.Get("Content-Type") != "application/json; charset=utf-8" || resp.Header.Get("x-ms-request-id") == "" {
				t.Errorf("headers %v", resp.Header)
			}
			if c.status >= 400 && (resp.Header.Get("x-ms-error-code") == "" || !strings.Contains(string(raw), `"error":{"code":"`)) {
				t.Errorf("no error of the protocol: %s", raw)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	good := config(t, t.TempDir(), softwareChip(t))
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	err := Config{Hardware: &Hardware{Issuer: "http://x/", AMD: &AMD{}}, Software: &Software{Issuer: "https://x/?a"}, Roles: roles.List{{Role: "x"}}}.Validate()
	for _, want := range []string{"listen", "tls", "stateDir", "hardware.issuer", "hardware.amd.minimumTCB", "software.issuer", "software.roots", "roles"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no complaint about %s in %v", want, err)
		}
	}
	for name, breakIt := range map[string]func(*Config){
		"SVC-03 no issuer":                  func(c *Config) { c.Hardware, c.Software = nil, nil },
		"SVC-03 no software root":           func(c *Config) { c.Software.Roots = nil },
		"same paths":                        func(c *Config) { c.Software.Issuer = hardwareURL },
		"SVC-34 user in the URL":            func(c *Config) { c.Software.Issuer = "https://a@b/software" },
		"SVC-34 fragment":                   func(c *Config) { c.Software.Issuer = softwareURL + "#a" },
		"SNP-18 revocation unsaid":          func(c *Config) { c.Hardware.AMD.RequireRevocationLists = nil },
		"SNP-18 lists required, none given": func(c *Config) { *c.Hardware.AMD.RequireRevocationLists = true },
		"SNP-21 half a floor":               func(c *Config) { c.Hardware.AMD.MinimumTCB.SNP = nil },
	} {
		c := config(t, t.TempDir(), softwareChip(t))
		breakIt(&c)
		if c.Validate() == nil {
			t.Errorf("%s: valid", name)
		}
		if s, err := Open(c, time.Now, slog.Default()); err == nil {
			s.Close()
			t.Errorf("%s: the service started", name)
		}
	}
}

// Each version of Azure's service that has a call is served; errors then are about the body.
func TestVersions(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ call, version, field string }{
		{"SevSnpVm", "2022-08-01", "request.report"}, {"SevSnpVm", "2022-09-01-preview", "request.report"}, {"SevSnpVm", "2023-04-01-preview", "request.report"}, {"SevSnpVm", "2025-06-01", "request.report"},
		{"SevSnpVm", "2020-10-01", "api-version"}, {"AzureGuest", "2020-10-01", "request.AttestationInfo"}, {"AzureGuest", "2025-06-01", "request.AttestationInfo"}, {"AzureGuest", "2021-01-01", "api-version"},
	} {
		resp, err := w.http.Post(w.url+"/software/attest/"+c.call+"?api-version="+c.version, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		var body client.WireError
		err = json.NewDecoder(resp.Body).Decode(&body)
		resp.Body.Close()
		if err != nil || body.Error.InnerError == nil || body.Error.InnerError.Field != c.field || resp.Header.Get("x-ms-error-code") != "InvalidParameter" || body.Error.Code != "InvalidParameter" {
			t.Errorf("%s %s: %+v, %v; want a complaint about %s", c.call, c.version, body, err, c.field)
		}
	}
}
