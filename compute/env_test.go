package compute_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
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
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	clientv3 "go.etcd.io/etcd/client/v3"

	"cloister.dev/cloister/compute"
	"cloister.dev/cloister/compute/catalog"
	"cloister.dev/cloister/compute/quota"
	"cloister.dev/cloister/compute/vm"
	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/health"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/evidence/sevsnp"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/identity/identitytest"
	"cloister.dev/cloister/identity/roles"
	"cloister.dev/cloister/internal/tcbfloor"
	"cloister.dev/cloister/store/embedded"
)

const (
	sub      = "00000000-0000-0000-0000-00000000000a"
	location = "local"
	joinWord = "one-time-token"
)

// env is a control plane with one administrator and, once join was called, hosts that play.
type env struct {
	t      *testing.T
	cfg    compute.Config
	srv    *compute.Server
	etcd   *clientv3.Client
	issuer *identitytest.Issuer
	arm    *httptest.Server
	agents *httptest.Server
	keys   *fakeKeys
}

type option func(*compute.Config, *compute.Deps)

// later is a handler that is put in after the server's URL is known.
type later struct{ h http.Handler }

func (l *later) ServeHTTP(w http.ResponseWriter, r *http.Request) { l.h.ServeHTTP(w, r) }

func newEnv(t *testing.T, opts ...option) *env {
	t.Helper()
	return newEnvAt(t, t.TempDir(), embedded.Options{Dir: t.TempDir(), NoSync: true}, opts...)
}

// newEnvAt is newEnv on state that may be there already.
func newEnvAt(t *testing.T, stateDir string, etcd embedded.Options, opts ...option) *env {
	t.Helper()
	e, err := embedded.Start(t.Context(), etcd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	var front later
	armServer := httptest.NewTLSServer(&front)
	t.Cleanup(armServer.Close)
	issuer := identitytest.New(t, time.Now)
	id := issuer.Config(t, armServer.URL, "https://management.azure.com")
	service := initdata.Service{URL: "https://attest.test", SigningKeys: id.Issuers[0].Keys}
	images := t.TempDir()
	writeImage(t, images, "debian", "d1")
	sum := sha256.Sum256([]byte(joinWord))
	cfg := compute.Config{
		Listen: "127.0.0.1:0", AgentListen: "127.0.0.1:0", Endpoint: armServer.URL, TLS: compute.TLS{Cert: "c", Key: "k"}, StateDir: stateDir,
		Location: location, Zones: []string{"1", "2"}, TenantID: identitytest.TenantID, Subscriptions: []string{sub}, Authority: identitytest.Authority,
		Identity: id, Roles: roles.List{{PrincipalID: identitytest.AdminID, Role: "Contributor", Scope: "/subscriptions/" + sub}},
		ImageDir: images, MinDiskGiB: 4, Quota: quota.Limits{Cores: 100, VMs: 50, Family: 100}, Cap: catalog.Cap{VCPUs: 1, MemoryMiB: 1024}, CPUModel: "EPYC",
		Attest: service, Keys: service, VaultSuffix: "vault.localhost", Health: anyHealth(), JoinTokens: []string{hex.EncodeToString(sum[:])},
	}
	keys := &fakeKeys{}
	deps := compute.Deps{Etcd: e.Client(), MintVM: issuer.MintVM, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Judge: judgeFake, Keys: keys, Maker: keys, AnswerWait: 20 * time.Second}
	for _, o := range opts {
		o(&cfg, &deps)
	}
	srv, err := compute.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	front.h = srv.ARM()
	agents := httptest.NewUnstartedServer(srv.Agents())
	agents.TLS = srv.AgentTLS(tls.Certificate{}) // the test server puts its own certificate in
	agents.TLS.Certificates = nil
	agents.StartTLS()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Run(ctx); err != nil {
			t.Error("run:", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done; agents.CloseClientConnections(); agents.Close() })
	return &env{t: t, cfg: cfg, srv: srv, etcd: e.Client(), issuer: issuer, arm: armServer, agents: agents, keys: keys}
}

func writeImage(t *testing.T, dir, name, digest string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"name":%q,"version":"1.0.0","digest":%q,"distribution":"debian-12"}`, name, digest)
	if err := os.WriteFile(filepath.Join(dir, name, "manifest.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// anyHealth asks nothing of hosts but a good signature by AMD, which judgeFake stands for.
func anyHealth() compute.Health {
	return compute.Health{MinimumTCB: map[string]tcbfloor.Floor{"Milan": tcbfloor.Of(sevsnp.TCB{})},
		Provisional: "any", AliasCheck: "any", SMT: "any", CiphertextHiding: "any", RAPLDisabled: "any"}
}

// fakeKeys remembers what was asked of it.
type fakeKeys struct {
	mu        sync.Mutex
	made      []string
	destroyed []string
	fail      error
}

func (k *fakeKeys) Create(_ context.Context, v vm.VM) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made = append(k.made, v.VMID)
	return k.fail
}

func (k *fakeKeys) Destroy(_ context.Context, v vm.VM) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return "", k.fail
	}
	k.destroyed = append(k.destroyed, v.VMID)
	return "destroyed", nil
}

// GetToken makes env a credential of the Azure SDK.
func (e *env) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	tok, err := e.issuer.MintClient(identitytest.AdminID, strings.TrimSuffix(o.Scopes[0], "/.default"))
	return azcore.AccessToken{Token: tok, ExpiresOn: time.Now().Add(time.Hour)}, err
}

func (e *env) options() *azarm.ClientOptions {
	return &azarm.ClientOptions{DisableRPRegistration: true, ClientOptions: policy.ClientOptions{Transport: e.arm.Client(), Retry: policy.RetryOptions{MaxRetries: -1},
		Cloud: cloud.Configuration{Services: map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: e.arm.URL, Audience: e.arm.URL}}}}}
}

// call makes a plain request with the administrator's token and reads the answer.
func (e *env) call(method, path, body string, change ...func(*http.Request)) (int, map[string]any, http.Header) {
	e.t.Helper()
	if !strings.Contains(path, "api-version") {
		path += "?api-version=2025-04-01"
	}
	req, err := http.NewRequest(method, e.arm.URL+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	tok, err := e.issuer.MintClient(identitytest.AdminID, e.arm.URL)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	for _, c := range change {
		c(req)
	}
	resp, err := e.arm.Client().Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	var out map[string]any
	if len(raw) > 0 && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(raw, &out); err != nil {
			e.t.Fatalf("%s %s: %s: %v", method, path, raw, err)
		}
	} else if len(raw) > 0 {
		out = map[string]any{"raw": string(raw)}
	}
	return resp.StatusCode, out, resp.Header
}

func (e *env) want(status int, method, path, body string) map[string]any {
	e.t.Helper()
	got, out, _ := e.call(method, path, body)
	if got != status {
		e.t.Fatalf("%s %s: got %d %v, want %d", method, path, got, out, status)
	}
	return out
}

func errorOf(out map[string]any) (code, message, target string) {
	e, _ := out["error"].(map[string]any)
	code, _ = e["code"].(string)
	message, _ = e["message"].(string)
	target, _ = e["target"].(string)
	return
}

const group = "/subscriptions/" + sub + "/resourceGroups/g"

// nic makes group, network and one interface by plain calls and gives the interface's id.
func (e *env) nic(name string) string {
	e.t.Helper()
	for _, c := range [][2]string{
		{group, `{"location":"local"}`},
		{group + "/providers/Microsoft.Network/virtualNetworks/net", `{"location":"local","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"a","properties":{"addressPrefix":"10.0.0.0/22"}}]}}`},
		{group + "/providers/Microsoft.Network/networkInterfaces/" + name, `{"location":"local","properties":{"ipConfigurations":[{"name":"primary","properties":{"subnet":{"id":"` + group + `/providers/Microsoft.Network/virtualNetworks/net/subnets/a"}}}]}}`},
	} {
		if status, out, _ := e.call("PUT", c[0], c[1]); status/100 != 2 {
			e.t.Fatalf("PUT %s: %d %v", c[0], status, out)
		}
	}
	return group + "/providers/Microsoft.Network/networkInterfaces/" + name
}

// initData makes a tenant's init data, as base64.
func (e *env) initData(vmID, name, mode string) string {
	e.t.Helper()
	raw, err := initdata.Marshal(initdata.InitData{VMID: vmID, Name: name, AdminUser: "azureuser", SSHKeys: []string{"ssh-ed25519 AAAA"}, OSDiskEncryption: mode, Attest: e.cfg.Attest, Keys: e.cfg.Keys})
	if err != nil {
		e.t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

const vmID = "b6c98c3b-4ec7-4da6-bd2f-7d98d20d7b75"

// body is a request for a VM that all rules accept, with changes.
func (e *env) body(nic string, change ...func(m map[string]any)) string {
	e.t.Helper()
	text := `{"location":"local","properties":{
	 "hardwareProfile":{"vmSize":"Standard_DC2as_v5"},
	 "securityProfile":{"securityType":"ConfidentialVM","uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true}},
	 "storageProfile":{"imageReference":{"id":"/subscriptions/` + sub + `/resourceGroups/cloister-images/providers/Microsoft.Compute/images/debian"},
	  "osDisk":{"createOption":"FromImage","managedDisk":{"storageAccountType":"Premium_LRS","securityProfile":{"securityEncryptionType":"DiskWithVMGuestState"}}}},
	 "networkProfile":{"networkInterfaces":[{"id":"` + nic + `"}]}}}`
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		e.t.Fatal(err)
	}
	set(m, "properties.userData", e.initData(vmID, "web", "DiskWithVMGuestState"))
	for _, c := range change {
		c(m)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(raw)
}

// set changes one member, making what lies between; a nil value removes it.
func set(m map[string]any, path string, v any) {
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	if last := parts[len(parts)-1]; v == nil {
		delete(m, last)
	} else {
		m[last] = v
	}
}

func with(path string, v any) func(map[string]any) {
	return func(m map[string]any) { set(m, path, v) }
}

// player is a host agent that plays running VMs: what is wanted is reached at once.
type player struct {
	e         *env
	client    *api.Client
	facts     api.HostFacts
	reporting sync.Mutex
	mu        sync.Mutex
	vms       map[string]api.VMSpec
	seen      []api.VMSpec // every spec that came
	fail      *evidence.Refusal
	disks     map[string]api.DiskSpec
	diskFail  *evidence.Refusal
	diskHold  bool // disks are left as they are, and nothing is said of them
	bundle    string
	probes    []api.ProbeReport               // for the next report
	answer    func(api.Probe) api.ProbeReport // nil: probes are left unanswered
}

// certificate joins and gives a client that shows the certificate.
func (e *env) certificate(name, token string) (*api.Client, *api.JoinResponse, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, nil, err
	}
	plain := api.NewClient(e.agents.URL, e.agents.Client())
	got, err := plain.Join(e.t.Context(), api.JoinRequest{Token: token, CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode([]byte(got.Certificate))
	tr := e.agents.Client().Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}
	e.t.Cleanup(tr.CloseIdleConnections)
	return api.NewClient(e.agents.URL, &http.Client{Transport: tr}), got, nil
}

func (e *env) join(vcpus int) *player {
	e.t.Helper()
	return e.joinWith(vcpus, joinWord, goodProbe)
}

func (e *env) joinWith(vcpus int, token string, answer func(api.Probe) api.ProbeReport) *player {
	e.t.Helper()
	client, _, err := e.certificate("host-1", token)
	if err != nil {
		e.t.Fatal(err)
	}
	p := &player{e: e, client: client, vms: map[string]api.VMSpec{}, disks: map[string]api.DiskSpec{}, bundle: `{"version":"1"}`, answer: answer,
		facts: api.HostFacts{Name: "host-1", Launcher: "software", TEEs: []string{"snp"}, VCPUs: vcpus, MemoryMiB: 1 << 20, Slots: 1000, Zone: "1", Version: "test"}}
	if err := p.report(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := client.Watch(ctx, func(m api.Message) error { return p.handle(ctx, m) }); err != nil && ctx.Err() == nil && err != io.EOF {
				e.t.Error("watch:", err)
				return
			}
		}
	}()
	e.t.Cleanup(func() { cancel(); <-done })
	return p
}

func (p *player) handle(ctx context.Context, m api.Message) error {
	switch m.Kind {
	case api.MessageSnapshot:
		p.mu.Lock()
		p.vms = map[string]api.VMSpec{}
		for _, v := range m.VMs {
			p.vms[v.VMID] = v
			p.seen = append(p.seen, v)
		}
		p.mu.Unlock()
	case api.MessageVM:
		p.mu.Lock()
		p.vms[m.VM.VMID] = *m.VM
		p.seen = append(p.seen, *m.VM)
		p.mu.Unlock()
	case api.MessageGone:
		p.mu.Lock()
		delete(p.vms, m.VMID)
		p.mu.Unlock()
	case api.MessageDisk:
		p.mu.Lock()
		p.disks[m.Disk.ID] = *m.Disk
		p.mu.Unlock()
	case api.MessageRequest:
		a := api.Answer{Console: []byte("login: ")}
		if m.Request.Kind == api.RequestAttest {
			a = api.Answer{Bundle: json.RawMessage(p.bundle)}
		}
		return p.client.Answer(ctx, m.Request.VMID, m.Request.ID, a)
	default:
		return nil
	}
	return p.report(ctx)
}

// change changes what the host tells of itself from its next report on.
func (p *player) change(change func(*api.HostFacts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.facts)
}

// report tells the control plane what there is. One report at a time: a later one is never overtaken by an earlier one.
func (p *player) report(ctx context.Context) error {
	p.reporting.Lock()
	defer p.reporting.Unlock()
	return p.send(ctx)
}

func (p *player) send(ctx context.Context) error {
	p.mu.Lock()
	r := api.Report{Host: p.facts, Probes: p.probes}
	p.probes = nil
	for _, v := range p.vms {
		st := api.VMStatus{VMID: v.VMID, Generation: v.Generation, RestartCount: v.RestartCount, Phase: api.PhaseRunning, Power: v.Power, SSHEndpoint: "127.0.0.1:2222"}
		if p.fail != nil {
			st.Phase, st.Power, st.Failure = api.PhaseFailed, "", p.fail
		}
		r.VMs = append(r.VMs, st)
		r.Events = append(r.Events, api.Event{VMID: v.VMID, Time: time.Unix(int64(v.Generation), 0), Step: "evidence", State: api.StepDone})
	}
	for _, d := range p.disks {
		st := api.DiskStatus{ID: d.ID, Resource: d.Resource, Generation: d.Generation, State: api.DiskReady}
		switch {
		case p.diskHold:
			continue
		case p.diskFail != nil:
			st.State, st.Failure = api.DiskFailed, p.diskFail
		case d.Deleted:
			st.State = api.DiskDeleted
		}
		r.Disks = append(r.Disks, st)
	}
	answer := p.answer
	p.mu.Unlock()
	out, err := p.client.Report(ctx, r)
	if err != nil || len(out.Probes) == 0 || answer == nil {
		return err
	}
	p.mu.Lock()
	for _, asked := range out.Probes {
		p.probes = append(p.probes, answer(asked))
	}
	p.mu.Unlock()
	return p.send(ctx)
}

// goodProbe answers as a platform that is fit: see judgeFake.
func goodProbe(p api.Probe) api.ProbeReport {
	data := api.ProbeData("host-1", p.Nonce)
	return api.ProbeReport{TEE: p.TEE, Nonce: p.Nonce, Evidence: data[:]}
}

// judgeFake stands for the judgement of real evidence: a platform is fit when its evidence is the report data and no more.
func judgeFake(p api.ProbeReport, reportData [64]byte, _ time.Time) health.State {
	if bytes.Equal(p.Evidence, reportData[:]) {
		return health.State{Verdict: evidence.Accepted}
	}
	return health.State{Verdict: evidence.Refused, Checks: []evidence.Check{{Claim: "report data", Got: "another", Want: "the challenge", Result: evidence.NotMet}}}
}

// wait polls an operation's status to its end.
func (e *env) wait(h http.Header) (string, map[string]any) {
	e.t.Helper()
	url := h.Get("Azure-AsyncOperation")
	if url == "" {
		e.t.Fatalf("no Azure-AsyncOperation in %v", h)
	}
	path := strings.TrimPrefix(url, e.arm.URL)
	if path == url {
		e.t.Fatalf("operation URL %s is not below %s", url, e.arm.URL)
	}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		status, out, _ := e.call("GET", path, "")
		if status != 200 {
			e.t.Fatalf("operation: %d %v", status, out)
		}
		if s := out["status"].(string); s != "InProgress" {
			return s, out
		}
		<-time.After(10 * time.Millisecond)
	}
	e.t.Fatal("operation did not end")
	return "", nil
}

func jsonText(v any) string {
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(v)
	return b.String()
}

// until waits for an answer that holds a text.
func (e *env) until(path, text string) {
	e.t.Helper()
	var last string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		_, out, _ := e.call("GET", path, "")
		if last = jsonText(out); strings.Contains(last, text) {
			return
		}
	}
	e.t.Fatalf("GET %s: never %s, but %s", path, text, last)
}
