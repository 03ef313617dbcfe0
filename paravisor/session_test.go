package paravisor

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/initdata"
	"cloister.dev/cloister/paravisor/client"
)

const (
	vmA = "11111111-2222-3333-4444-555555555555"
	vmB = "99999999-2222-3333-4444-555555555555"
)

var verifierKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// world is everything around a paravisor: a CPU, a verifier and a key keeper that work, and the host's files.
type world struct {
	t       *testing.T
	dir     string
	scratch string
	init    initdata.InitData
	mode    string
	vmID    string // of Config
	keeper  *fakeKeeper
	tokens  func(claims map[string]any) // edits the claims before they are signed
	signer  *rsa.PrivateKey
	cpu     fakeCPU
	aks     []AKRequest
	nonces  []string
}

// fakeCPU signs nothing: bytes with the report data in their place.
type fakeCPU struct {
	fail  error
	calls int
	mu    sync.Mutex
}

func (c *fakeCPU) Report(_ context.Context, data [64]byte) (report, chain []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	report = make([]byte, 1184)
	report[0] = 2
	copy(report[0x50:], data[:])
	return report, []byte("chain"), c.fail
}

// fakeKeeper keeps the contract's rules of generations.
type fakeKeeper struct {
	key         []byte
	confirmed   uint64
	pending     uint64 // 0 = none
	session     string
	failConfirm error
	wrongNext   bool
	bearer      func(context.Context) (string, error)
	opens       int
	save        func() // after each change, where the keeper outlives the process
}

func (k *fakeKeeper) saved() {
	if k.save != nil {
		k.save()
	}
}

func (k *fakeKeeper) Open(ctx context.Context, r KeyRequest) (Release, error) {
	if id, err := k.bearer(ctx); err != nil || id != "identity" {
		return Release{}, evidence.Refuse(evidence.CodeAuthz, "caller", id, "the VM")
	}
	k.opens++
	if r.Generation == k.confirmed+1 && k.pending == r.Generation {
		k.confirmed = r.Generation
	}
	if r.Generation < k.confirmed {
		return Release{}, evidence.Refuse(evidence.CodeBinding, "generation", fmt.Sprint(r.Generation), fmt.Sprint(k.confirmed)).By("rolled back")
	}
	if r.Generation > k.confirmed {
		return Release{}, evidence.Refuse(evidence.CodeBinding, "generation", fmt.Sprint(r.Generation), fmt.Sprint(k.confirmed)).By("unknown generation")
	}
	k.pending, k.session = k.confirmed+1, r.Session
	k.saved()
	next := k.pending
	if k.wrongNext {
		next += 7
	}
	return Release{Next: next, OperatorTrusted: true, Unwrap: func(*rsa.PrivateKey) ([]byte, error) { return bytes.Clone(k.key), nil }}, nil
}

func (k *fakeKeeper) Confirm(_ context.Context, r KeyRequest) error {
	if k.failConfirm != nil {
		return k.failConfirm
	}
	if r.Session != k.session || r.Generation != k.pending {
		return evidence.Refuse(evidence.CodeBinding, "session", r.Session, k.session)
	}
	k.confirmed = r.Generation
	k.saved()
	return nil
}

type fakeVerifier struct{ w *world }

func (v fakeVerifier) Token(_ context.Context, e HostEvidence) (string, error) {
	w := v.w
	if sum := sha256.Sum256(e.RuntimeData); !bytes.Equal(e.Report[0x50:0x70], sum[:]) {
		return "", evidence.Refuse(evidence.CodeBinding, "report data", "another", "the digest of the runtime data")
	}
	var runtime any
	if err := json.Unmarshal(e.RuntimeData, &runtime); err != nil {
		return "", err
	}
	w.nonces = append(w.nonces, e.Nonce)
	digest := sha256.Sum256(e.InitialData)
	now := time.Now()
	claims := map[string]any{
		"iss": w.init.Attest.URL, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "t",
		"x-ms-attestation-type": "sevsnpvm", "x-ms-sevsnpvm-hostdata": hex.EncodeToString(digest[:]), "x-ms-runtime": runtime, "x-cloister-root": "software", "nonce": e.Nonce,
	}
	if w.tokens != nil {
		w.tokens(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: w.signer, KeyID: "k1"}}, nil)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

func (v fakeVerifier) AKCertificate(_ context.Context, r AKRequest) ([]byte, error) {
	v.w.aks = append(v.w.aks, r)
	return []byte("DER of the AK certificate"), nil
}

func newWorld(t *testing.T, mode string) *world {
	t.Helper()
	base := "/dev/shm"
	if killed := os.Getenv("CLOISTER_CRASH_DIR"); killed != "" {
		base = killed // a killed process leaves its scratch directory
	}
	scratch, err := os.MkdirTemp(base, "cloister-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(scratch)
		if err != nil || len(left) != 0 {
			t.Errorf("scratch is not empty: %v, %v", left, err)
		}
		os.RemoveAll(scratch)
	})
	w := &world{t: t, dir: shortDir(t), scratch: scratch, mode: mode, vmID: vmA,
		keeper: &fakeKeeper{key: bytes.Repeat([]byte{0x42}, 32)},
		init:   initdata.InitData{VMID: vmA, Name: "web", OSDiskEncryption: mode}}
	w.pin(verifierKey())
	if err := os.WriteFile(filepath.Join(w.dir, "vars.fd"), bytes.Repeat([]byte{0xee}, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// pin lets the verifier sign with a key, and the init data name it.
func (w *world) pin(key *rsa.PrivateKey) {
	w.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		w.t.Fatal(err)
	}
	pinned := []initdata.SigningKey{{KID: "k1", PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
	w.signer = key
	w.init.Attest = initdata.Service{URL: "https://attest.example", SigningKeys: pinned}
	w.init.Keys = initdata.Service{URL: "https://keys.example", SigningKeys: pinned}
}

// shortDir is a temporary directory whose sockets' paths fit a socket address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *world) state() string { return filepath.Join(w.dir, "guest.vmgs") }

// running is a session in the background with its control socket.
type running struct {
	*Session
	control *client.Client
	done    chan error
	dir     string
}

func (w *world) start() *running {
	w.t.Helper()
	raw, err := initdata.Marshal(w.init)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "init"), append(raw, make([]byte, 512)...), 0o600); err != nil {
		w.t.Fatal(err)
	}
	run, err := os.MkdirTemp(w.dir, "run")
	if err != nil {
		w.t.Fatal(err)
	}
	s := New(Options{
		Config: client.Config{VMID: w.vmID, Mode: w.mode, RunDir: run, GuestStateFile: w.state(), InitDataFile: filepath.Join(w.dir, "init"),
			FirmwareVars: filepath.Join(w.dir, "vars.fd"), ScratchDir: w.scratch, SoftchipSocket: "/nowhere", SoftchipHandle: "h", SecureBoot: true},
		Hardware: &w.cpu,
		Verifier: func(initdata.Service) (Verifier, error) { return fakeVerifier{w}, nil },
		KeyKeeper: func(_ initdata.Service, bearer func(context.Context) (string, error)) (KeyKeeper, error) {
			w.keeper.bearer = bearer
			return w.keeper, nil
		},
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	l, err := Listen(filepath.Join(run, client.ControlSocket))
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{Handler: s.Handler()}
	go func() { _ = server.Serve(l) }()
	r := &running{Session: s, control: client.Dial(filepath.Join(run, client.ControlSocket)), done: make(chan error, 1), dir: run}
	go func() { r.done <- s.Run(w.t.Context()) }()
	w.t.Cleanup(func() {
		s.Stop()
		<-s.Ended()
		server.Close()
	})
	return r
}

// until waits for a phase after which nothing more happens by itself.
func (r *running) until(t *testing.T, phases ...client.Phase) *client.Status {
	t.Helper()
	st, err := r.control.Status(t.Context())
	for err == nil {
		for _, p := range append(phases, client.PhaseFailed, client.PhaseStopped) {
			if st.Phase == p {
				return st
			}
		}
		st, err = r.control.Wait(t.Context(), st.Phase, len(st.Events))
	}
	t.Fatal(err)
	return nil
}

func (w *world) boot() *running {
	w.t.Helper()
	r := w.start()
	if err := r.control.PutIdentity(w.t.Context(), "identity"); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) ready() *running {
	w.t.Helper()
	r := w.boot()
	if st := r.until(w.t, client.PhaseReady); st.Phase != client.PhaseReady {
		w.t.Fatalf("phase %s: %v", st.Phase, st.Failure)
	}
	return r
}

func (w *world) halt(r *running) {
	w.t.Helper()
	if err := r.control.Stop(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if err := <-r.done; err != nil {
		w.t.Fatal(err)
	}
}

func TestJourney(t *testing.T) {
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	r := w.start()
	if st := r.until(t, client.PhaseWaitingIdentity); st.Phase != client.PhaseWaitingIdentity {
		t.Fatalf("phase %s", st.Phase)
	}
	if _, err := r.control.Evidence(t.Context()); evidence.CodeOf(err) != evidence.CodeUnavailable {
		t.Errorf("evidence before ready: %v", err)
	}
	for _, name := range []string{client.TPMSocket, client.VarsSocket} {
		if _, err := os.Stat(filepath.Join(r.dir, name)); err == nil {
			t.Errorf("%s is there before ready", name)
		}
	}
	if err := r.control.PutIdentity(t.Context(), "identity"); err != nil {
		t.Fatal(err)
	}
	st := r.until(t, client.PhaseReady)
	if st.Phase != client.PhaseReady || st.Generation != 1 || !st.OperatorTrusted || st.Failure != nil {
		t.Fatalf("status %+v", st)
	}
	var steps []string
	for _, e := range st.Events {
		if e.State == client.StateDone {
			steps = append(steps, e.Step)
		}
	}
	if got := strings.Join(steps, " "); got != "evidence token guest-state-key vtpm uefi-variables" {
		t.Errorf("steps %q", got)
	}
	for _, name := range []string{client.TPMSocket, client.VarsSocket, client.ControlSocket} {
		if info, err := os.Stat(filepath.Join(r.dir, name)); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	e, err := r.control.Evidence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(e.HCLReport, []byte("HCLA")) || !bytes.Contains(e.HCLReport, []byte(`"HCLAkPub"`)) || string(e.AKCertificate) != "DER of the AK certificate" {
		t.Error("evidence is not the second report with its certificate")
	}
	if claims := e.HCLReport[1236:]; sha256.Sum256(claims) != [32]byte(e.HCLReport[32+0x50:32+0x70]) {
		t.Error("SVC-32 the report does not bind its claims")
	}
	if w.keeper.confirmed != 1 || w.cpu.calls != 2 {
		t.Errorf("confirmed %d, %d reports", w.keeper.confirmed, w.cpu.calls)
	}
	w.halt(r)
}

func TestNextBootKeepsTheIdentity(t *testing.T) {
	w := newWorld(t, client.ModeVMGuestStateOnly)
	for want := uint64(1); want <= 3; want++ {
		r := w.ready()
		if st, _ := r.Status(); st.Generation != want {
			t.Errorf("generation %d, want %d", st.Generation, want)
		}
		w.halt(r)
	}
	if len(w.aks) != 3 || !bytes.Equal(w.aks[0].AKPublic, w.aks[2].AKPublic) || !bytes.Equal(w.aks[0].EKPublic, w.aks[1].EKPublic) {
		t.Error("TPM-16 another AK or EK after a restart")
	}
	if w.nonces[0] == w.nonces[1] {
		t.Error("a nonce came twice")
	}
}

func TestNonPersistedIsFreshEachTime(t *testing.T) {
	w := newWorld(t, client.ModeNonPersistedTPM)
	for range 2 {
		r := w.start() // no identity token: there is nothing to release
		if st := r.until(t, client.PhaseReady); st.Phase != client.PhaseReady || st.Generation != 0 {
			t.Fatalf("status %+v", st)
		}
		w.halt(r)
	}
	if bytes.Equal(w.aks[0].AKPublic, w.aks[1].AKPublic) {
		t.Error("the AK was kept")
	}
	if _, err := os.Stat(w.state()); err == nil {
		t.Error("a guest-state file was made")
	}
	if w.keeper.opens != 0 {
		t.Error("a key was asked for")
	}
}

func TestVarsSurvive(t *testing.T) {
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	r := w.ready()
	if !r.vars.WriteAt([]byte("BootOrder"), 100) {
		t.Fatal("write refused")
	}
	w.halt(r)
	if err := os.WriteFile(filepath.Join(w.dir, "vars.fd"), make([]byte, 8192), 0o600); err != nil { // only generation 0 reads it
		t.Fatal(err)
	}
	r = w.ready()
	got := make([]byte, 10)
	r.vars.ReadAt(got, 100)
	if string(got) != "BootOrder\xee" {
		t.Errorf("variables %q", got)
	}
}

// TestRefusals: each row is a world that differs from a working one in one thing.
func TestRefusals(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, v any) func(*world) {
		return func(w *world) { w.tokens = func(c map[string]any) { c[name] = v } }
	}
	for _, row := range []struct {
		name   string
		booted bool // a first boot went well before
		spoil  func(*world)
		code   evidence.Code
		text   string
	}{
		{"the world as it is", true, func(*world) {}, "", ""},
		{"HD-04 a host that plays the verifier", false, func(w *world) { w.signer = other }, evidence.CodeChain, ""},
		{"HD-04 another issuer", false, claim("iss", "https://evil.example"), evidence.CodeBinding, "iss"},
		{"token about other init data", false, claim("x-ms-sevsnpvm-hostdata", strings.Repeat("0", 64)), evidence.CodeBinding, "hostdata"},
		{"token without host data", false, func(w *world) { w.tokens = func(c map[string]any) { delete(c, "x-ms-sevsnpvm-hostdata") } }, evidence.CodeBinding, "hostdata"},
		{"token without a root", false, func(w *world) { w.tokens = func(c map[string]any) { delete(c, "x-cloister-root") } }, evidence.CodeBinding, "root"},
		{"SVC-32 token about another transfer key", false, claim("x-ms-runtime", map[string]any{"keys": []any{map[string]any{"kid": "HCLTransferKey", "n": "AAAA"}}}), evidence.CodeBinding, "keys"},
		{"SVC-32 token about no key", false, claim("x-ms-runtime", map[string]any{}), evidence.CodeBinding, "keys"},
		{"token made for another nonce", false, claim("nonce", strings.Repeat("0", 64)), evidence.CodeBinding, "nonce"},
		{"token without a nonce", false, func(w *world) { w.tokens = func(c map[string]any) { delete(c, "nonce") } }, evidence.CodeBinding, "nonce"},
		{"token of another kind", false, claim("x-ms-attestation-type", "azurevm"), evidence.CodeBinding, "attestation-type"},
		{"expired token", false, claim("exp", 1000), evidence.CodeBinding, "exp"},
		{"no evidence", false, func(w *world) { w.cpu.fail = errors.New("no chip") }, evidence.CodeUnavailable, "no chip"},
		{"VM id of the host differs", false, func(w *world) { w.vmID = vmB }, evidence.CodeBinding, "VM id"},
		{"mode of the host differs", false, func(w *world) { w.mode = client.ModeNonPersistedTPM }, evidence.CodeBinding, "mode"},
		{"the next generation is not the next", false, func(w *world) { w.keeper.wrongNext = true }, evidence.CodeBinding, "next generation"},
		{"wrong guest-state key", true, func(w *world) { w.keeper.key = bytes.Repeat([]byte{1}, 32) }, evidence.CodeBinding, "authenticate"},
		{"HD-16 key of zeros", true, func(w *world) { w.keeper.key = make([]byte, 32) }, evidence.CodeUnsupported, "key"},
		{"init data changed after the first boot", true, func(w *world) { w.init.Name = "evil" }, evidence.CodeBinding, "tenant's signature"},
		{"HD-08 guest state deleted", true, func(w *world) { os.Remove(w.state()) }, evidence.CodeBinding, "rolled back"},
		{"HD-09 guest state of another VM", true, func(w *world) { w.init.VMID, w.vmID = vmB, vmB }, evidence.CodeBinding, "VM id"},
		{"confirmation fails", true, func(w *world) { w.keeper.failConfirm = errors.New("lost") }, evidence.CodeUnavailable, "lost"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, client.ModeDiskWithVMGuestState)
			if row.booted {
				w.halt(w.ready())
			}
			row.spoil(w)
			r := w.boot()
			st := r.until(t, client.PhaseReady)
			if row.code == "" {
				if st.Phase != client.PhaseReady {
					t.Fatalf("failed: %v", st.Failure)
				}
				return
			}
			if st.Phase != client.PhaseFailed || st.Failure == nil || st.Failure.Code != row.code || !strings.Contains(st.Failure.Error(), row.text) {
				t.Fatalf("phase %s, failure %v; want %s %q", st.Phase, st.Failure, row.code, row.text)
			}
			if _, err := os.Stat(filepath.Join(r.dir, client.TPMSocket)); err == nil {
				t.Error("a TPM is offered after a refusal")
			}
			if err := <-r.done; err == nil {
				t.Error("Run ended without an error")
			}
		})
	}
}

func TestRollbackAndClone(t *testing.T) {
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	w.halt(w.ready())
	older, err := os.ReadFile(w.state())
	if err != nil {
		t.Fatal(err)
	}
	first := w.ready()
	clone := w.boot() // HD-09: started twice on the very file
	if st := clone.until(t, client.PhaseReady); st.Phase != client.PhaseFailed || st.Failure.Code != evidence.CodeBinding {
		t.Errorf("HD-09 second start: %s %v", st.Phase, st.Failure)
	}
	w.halt(first)
	newer, err := os.ReadFile(w.state())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.state(), older, 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.boot()
	if st := r.until(t, client.PhaseReady); st.Phase != client.PhaseFailed || st.Failure.Rule != "rolled back" {
		t.Errorf("HD-08 older guest state: %s %v", st.Phase, st.Failure)
	}
	<-r.done
	if err := os.WriteFile(w.state(), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	w.halt(w.ready())
}

// TestCrashBeforeConfirm: nobody is locked out when the session ends between the write of N+1 and its confirmation.
func TestCrashBeforeConfirm(t *testing.T) {
	for _, boots := range []int{0, 2} {
		w := newWorld(t, client.ModeDiskWithVMGuestState)
		for range boots {
			w.halt(w.ready())
		}
		w.keeper.failConfirm = errors.New("killed here")
		r := w.boot()
		if st := r.until(t, client.PhaseReady); st.Phase != client.PhaseFailed {
			t.Fatalf("phase %s", st.Phase)
		}
		<-r.done
		w.keeper.failConfirm = nil
		r = w.ready()
		if st, _ := r.Status(); st.Generation != uint64(boots+2) {
			t.Errorf("generation %d", st.Generation)
		}
		w.halt(r)
	}
}

func TestSwtpmDies(t *testing.T) {
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	r := w.ready()
	process, err := os.FindProcess(r.gate.TPM.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	if st := r.until(t); st.Phase != client.PhaseFailed || st.Failure.Field != "vTPM" {
		t.Errorf("status %s %v", st.Phase, st.Failure)
	}
	<-r.done
	w.halt(w.ready())
}

func TestControlRefusals(t *testing.T) {
	w := newWorld(t, client.ModeDiskWithVMGuestState)
	r := w.start()
	if err := r.control.PutIdentity(t.Context(), ""); evidence.CodeOf(err) != evidence.CodeParse {
		t.Errorf("empty identity: %v", err)
	}
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(r.dir, client.ControlSocket))
	}}}
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "cloister_paravisor_ready 0"} {
		resp, err := h.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v %s", path, err, body)
		}
	}
	w.halt(r) // stop while it waits
	if st, _ := r.Status(); st.Phase != client.PhaseStopped {
		t.Errorf("phase %s", st.Phase)
	}
}
