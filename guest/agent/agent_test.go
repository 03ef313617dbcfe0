package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/evidence/bundle"
	"cloister.dev/cloister/evidence/token"
	"cloister.dev/cloister/guest/attestation"
	"cloister.dev/cloister/guest/event"
	"cloister.dev/cloister/guest/tpm"
)

// host plays the metadata service.
type host struct {
	mu       sync.Mutex
	down     int // calls that fail first
	events   []event.Event
	requests []Request
	answers  map[string]json.RawMessage
	idle     func() // called when no request is left
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.Header.Get("Metadata") != "true":
		http.Error(w, "no header", http.StatusBadRequest)
	case h.down > 0:
		h.down--
		http.Error(w, "not yet", http.StatusServiceUnavailable)
	case r.URL.Path == "/cloister/v1/events":
		var e event.Event
		if err := json.Unmarshal(body, &e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.events = append(h.events, e)
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/cloister/v1/requests":
		if len(h.requests) == 0 {
			h.idle()
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_ = json.NewEncoder(w).Encode(h.requests[0])
		h.requests = h.requests[1:]
	case strings.HasPrefix(r.URL.Path, "/cloister/v1/requests/"):
		h.answers[strings.TrimPrefix(r.URL.Path, "/cloister/v1/requests/")] = body
	default:
		http.NotFound(w, r)
	}
}

func start(t *testing.T, h *host, change func(a *Agent)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h.idle, h.answers = cancel, map[string]json.RawMessage{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	at := time.Unix(1000, 0)
	a := Agent{Metadata: Metadata{srv.URL, srv.Client()}, Result: filepath.Join(t.TempDir(), "r"), Now: func() time.Time { return at },
		Wait: func(ctx context.Context, d time.Duration) error { return ctx.Err() }, Log: slog.New(slog.DiscardHandler),
		Collect: func(_ context.Context, challenge []byte) (*attestation.Evidence, error) {
			return &attestation.Evidence{Bundle: bundle.Bundle{Nonce: challenge, SSHHostKey: []byte("x")}, PCRs: tpm.PCRs{7: {1}}}, nil
		},
		Token: func(context.Context, *attestation.Evidence) (*token.Token, string, error) {
			return &token.Token{Issuer: "https://attest", IssuedAt: at, Claims: map[string]any{"x-cloister-root": "software", "nested": map[string]any{}}}, "a.b.c", nil
		}}
	if change != nil {
		change(&a)
	}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	h := &host{down: 2, requests: []Request{{ID: "1", Kind: "attest", Nonce: []byte("n")}, {ID: "2", Kind: "dump-memory"}}}
	start(t, h, nil)
	var steps []string
	for _, e := range h.events {
		steps = append(steps, e.Step+" "+e.State)
	}
	if got, want := strings.Join(steps, ", "), "distribution done, guest-attestation started, guest-attestation done"; got != want {
		t.Errorf("steps %s, want %s", got, want)
	}
	d := h.events[len(h.events)-1].Detail
	if d["pcr7"] != "01"+strings.Repeat("0", 62) || d["claim x-cloister-root"] != "software" || d["sshHostKeySHA256"] != bundle.Fingerprint([]byte("x")) || d["claim nested"] != "" {
		t.Errorf("detail %v", d)
	}
	for _, v := range d {
		if v == "a.b.c" {
			t.Error("the event carries the token")
		}
	}
	var b bundle.Bundle
	if err := json.Unmarshal(h.answers["1"], &b); err != nil || string(b.Nonce) != "n" {
		t.Errorf("answer 1: %s, %v", h.answers["1"], err)
	}
	if !strings.Contains(string(h.answers["2"]), string(evidence.CodeUnsupported)) {
		t.Errorf("answer 2: %s", h.answers["2"])
	}
}

func TestRefusalIsToldOnce(t *testing.T) {
	h := &host{requests: []Request{{ID: "1", Kind: "attest"}}}
	tries := 0
	refused := evidence.Refuse(evidence.CodePolicy, "policy", "no", "yes")
	start(t, h, func(a *Agent) {
		a.Token = func(context.Context, *attestation.Evidence) (*token.Token, string, error) {
			tries++
			return nil, "", refused
		}
		a.Collect = func(_ context.Context, c []byte) (*attestation.Evidence, error) {
			if len(c) == 0 {
				return nil, errors.New("no challenge")
			}
			return &attestation.Evidence{}, nil
		}
	})
	last := h.events[len(h.events)-1]
	if tries != 1 || last.State != event.Failed || last.Detail["code"] != string(evidence.CodePolicy) {
		t.Errorf("%d tries, last event %+v", tries, last)
	}
	if !strings.Contains(string(h.answers["1"]), "no challenge") {
		t.Errorf("answer %s", h.answers["1"])
	}
}

func TestUnavailableIsTriedAgain(t *testing.T) {
	h := &host{}
	tries := 0
	start(t, h, func(a *Agent) {
		inner := a.Token
		a.Token = func(ctx context.Context, e *attestation.Evidence) (*token.Token, string, error) {
			if tries++; tries < 3 {
				return nil, "", evidence.Refuse(evidence.CodeUnavailable, "verifier", "down", "up")
			}
			return inner(ctx, e)
		}
	})
	if last := h.events[len(h.events)-1]; tries != 3 || last.State != event.Done {
		t.Errorf("%d tries, last event %+v", tries, last)
	}
}

func TestChain(t *testing.T) {
	for name, r := range map[string]struct {
		body string
		ok   bool
	}{
		"whole":   {`{"vcekCert":"A\n","certificateChain":"B\n"}`, true},
		"no leaf": {`{"certificateChain":"B"}`, false},
		"no JSON": {`<html>`, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, r.body) }))
		got, err := Metadata{srv.URL, srv.Client()}.Chain(context.Background())
		srv.Close()
		if (err == nil) != r.ok || (r.ok && got != "A\nB\n") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func healthy(change func(fstest.MapFS)) Health {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	f := fstest.MapFS{
		"proc/swaps":                    file("Filename Type Size Used Priority\n/dev/dm-3 partition 1 0 -2\n"),
		"sys/block/dm-3/dm/uuid":        file("CRYPT-PLAIN-swap\n"),
		"run/cloister/attestation.json": file(`{"issuedAt":"2026-01-01T00:00:00Z","local":"2026-01-01T00:00:03Z"}`),
		"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": file("\x06\x00\x00\x00\x01"),
	}
	if change != nil {
		change(f)
	}
	return Health{Root: f, Ready: func() error { return nil }}
}

func TestCheck(t *testing.T) {
	for _, f := range healthy(nil).Check() {
		if !f.OK {
			t.Errorf("healthy: %+v", f)
		}
	}
	for name, r := range map[string]struct {
		finding string
		change  func(fstest.MapFS)
	}{
		"HD-10 plain swap partition": {"swap", func(f fstest.MapFS) { f["sys/block/dm-3/dm/uuid"].Data = []byte("LVM-x") }},
		"HD-10 swap file":            {"swap", func(f fstest.MapFS) { f["proc/swaps"].Data = []byte("Filename\n/swap file 1 0 -2\n") }},
		"HD-07 clock a year behind": {"clock", func(f fstest.MapFS) {
			f["run/cloister/attestation.json"].Data = []byte(`{"issuedAt":"2026-01-01T00:00:00Z","local":"2025-01-01T00:00:00Z"}`)
		}},
		"HD-07 no signed time": {"clock", func(f fstest.MapFS) { delete(f, "run/cloister/attestation.json") }},
		"HD-13 Secure Boot off": {"secure boot", func(f fstest.MapFS) {
			f["sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"].Data[4] = 0
		}},
		"no firmware variables": {"secure boot", func(f fstest.MapFS) {
			delete(f, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
		}},
	} {
		for _, f := range healthy(r.change).Check() {
			if f.OK == (f.Name == r.finding) {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
	h := healthy(nil)
	h.Ready = func() error { return errors.New("no TPM") }
	if f := h.Check()[3]; f.OK {
		t.Errorf("vTPM: %+v", f)
	}
}

func TestSoftRoot(t *testing.T) {
	if got := softRoot("quiet cloister.softroot=ab12 x"); got != "ab12" {
		t.Errorf("%q", got)
	}
	if got := softRoot("quiet xcloister.softroot=ab12"); got != "" {
		t.Errorf("%q", got)
	}
}
