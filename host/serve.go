package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/host/api"
	"cloister.dev/cloister/host/metadata"
	"cloister.dev/cloister/host/network"
	"cloister.dev/cloister/host/qemu"
)

// maxConsole is how much of the console a request gets, in bytes.
const maxConsole = 64 << 10

// serve opens the three services that a VM can reach.
func (m *machine) serve(ctx context.Context, s *session, l layout) error {
	listen := func(name string) (net.Listener, error) {
		return network.Listen(filepath.Join(l.networkDir(), name), int(l.gid))
	}
	md, err := listen("metadata.sock")
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	server := &http.Server{Handler: metadata.Handler(m.source(s), m.log), ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	s.work.Add(2)
	go func() {
		defer s.work.Done()
		if err := server.Serve(md); err != nil && !errors.Is(err, http.ErrServerClosed) {
			m.log.Error("metadata service ended", "error", err)
		}
	}()
	go func() {
		defer s.work.Done()
		<-ctx.Done()
		_ = server.Close()
	}()
	for name, address := range map[string]string{"attest.sock": m.agent.cfg.Attest, "keys.sock": m.agent.cfg.Keys} {
		lis, err := listen(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.work.Add(1)
		go func() { defer s.work.Done(); network.Forward(ctx, lis, address, m.log) }()
	}
	return nil
}

// source is this VM for its metadata service.
func (m *machine) source(s *session) metadata.Source {
	return metadata.Source{
		Spec: m.spec,
		Chain: func(ctx context.Context) (*metadata.Chain, error) {
			e, err := s.control.Evidence(ctx)
			if err != nil {
				return nil, err
			}
			return chain(e.HCLReport, e.ChainPEM)
		},
		Identity: func(ctx context.Context, audience string) (string, error) {
			return m.agent.deps.Control.Identity(ctx, m.id, audience)
		},
		Event:   func(e api.Event) { m.guestEvent(s, e) },
		Request: m.nextRequest,
		Answer:  m.answered,
	}
}

// chain splits a PEM chain as THIM answers it. The reported TCB is at 0x180 of the SEV-SNP report, which is at
// offset 32 of the HCL report. Source: SEV-SNP firmware ABI, attestation report.
func chain(hclReport []byte, chainPEM []byte) (*metadata.Chain, error) {
	const tcbAt = 32 + 0x180
	if len(hclReport) < tcbAt+8 {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "HCL report", fmt.Sprintf("%d bytes", len(hclReport)), "a report")
	}
	leaf, rest := pem.Decode(chainPEM)
	if leaf == nil {
		return nil, evidence.Refuse(evidence.CodeUnavailable, "certificate chain", "no PEM", "leaf, intermediate and root")
	}
	return &metadata.Chain{VCEK: string(pem.EncodeToMemory(leaf)), Issuers: string(rest), TCBM: fmt.Sprintf("%016x", binary.LittleEndian.Uint64(hclReport[tcbAt:]))}, nil
}

// request answers what the agent can, and queues for the guest what only it can.
func (m *machine) request(ctx context.Context, r api.Request) {
	switch r.Kind {
	case api.RequestConsole:
		go func() {
			raw, err := readTail(m.layout().console(), maxConsole)
			if err != nil {
				m.agent.answer(ctx, r, api.Answer{Failure: unavailable("console", "nothing yet", "a VM that was started")})
				return
			}
			m.agent.answer(ctx, r, api.Answer{Console: raw})
		}()
	case api.RequestMetadata:
		go m.agent.answer(ctx, r, m.metadataAnswer(ctx, r.Path))
	case api.RequestAttest:
		m.mu.Lock()
		known, running := false, m.session != nil && m.rec.Session != nil && m.rec.Session.Up
		for _, q := range m.requests {
			known = known || q.ID == r.ID
		}
		if !known && running {
			m.requests = append(m.requests, r)
		}
		m.mu.Unlock()
		if !running {
			go m.agent.answer(ctx, r, api.Answer{Failure: unavailable("VM", "not running", "a VM whose distribution is up")})
			return
		}
		select {
		case m.asked <- struct{}{}:
		default:
		}
	default:
		go m.agent.answer(ctx, r, api.Answer{Failure: evidence.Refuse(evidence.CodeUnsupported, "request", r.Kind, "attest or console")})
	}
}

// metadataAnswer asks the VM's own metadata service in its place. Whoever asks this way gets no identity token.
func (m *machine) metadataAnswer(ctx context.Context, path string) api.Answer {
	s := m.current()
	if s == nil {
		return api.Answer{Failure: unavailable("VM", "not running", "a running VM")}
	}
	source := m.source(s)
	source.Identity = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+qemu.MetadataAddress+path, nil)
	if err != nil {
		return api.Answer{Failure: evidence.Refuse(evidence.CodeParse, "path", path, "a path and query")}
	}
	req.Header.Set("Metadata", "true")
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	metadata.Handler(source, m.log).ServeHTTP(w, req)
	return api.Answer{Metadata: &api.MetadataAnswer{Status: w.status, ContentType: w.header.Get("Content-Type"), Body: w.body.Bytes()}}
}

// recorder keeps an answer instead of sending it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// nextRequest waits for a question for the guest. One that was handed out and never answered is handed out again
// after the guest asks the next time.
func (m *machine) nextRequest(ctx context.Context) (*api.Request, error) {
	for {
		m.mu.Lock()
		if len(m.requests) > 0 {
			r := m.requests[0]
			m.requests = append(m.requests[1:], r) // a guest that can't answer one still gets to the others
			m.mu.Unlock()
			return &r, nil
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.asked:
		}
	}
}

func (m *machine) answered(ctx context.Context, id string, bundle json.RawMessage) error {
	m.mu.Lock()
	var r *api.Request
	for i, q := range m.requests {
		if q.ID == id {
			r = &q
			m.requests = append(m.requests[:i], m.requests[i+1:]...)
			break
		}
	}
	m.mu.Unlock()
	if r == nil {
		return fmt.Errorf("no open request %q", id)
	}
	return m.agent.deps.Control.Answer(ctx, m.id, id, api.Answer{Bundle: bundle})
}
