package paravisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/paravisor/client"
	"cloister.dev/cloister/paravisor/vtpm"
)

// maxWait bounds a long poll for a new status.
const maxWait = 25 * time.Second

// Handler is the control interface on control.sock. It hands out nothing secret: who reaches the
// socket can give an identity token, look, and stop.
func (s *Session) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.getStatus)
	mux.HandleFunc("PUT /v1/identity", s.putIdentity)
	mux.HandleFunc("GET /v1/evidence", s.getEvidence)
	mux.HandleFunc("POST /v1/stop", s.postStop)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics(), promhttp.HandlerOpts{}))
	return mux
}

func (s *Session) getStatus(w http.ResponseWriter, r *http.Request) {
	st, changed := s.Status()
	if unlike := r.URL.Query().Get("unlike"); unlike != "" {
		events, err := strconv.Atoi(r.URL.Query().Get("events"))
		if err != nil {
			refuse(w, http.StatusBadRequest, evidence.Refuse(evidence.CodeParse, "events", r.URL.Query().Get("events"), "a number"))
			return
		}
		deadline := time.NewTimer(maxWait)
		defer deadline.Stop()
	waiting:
		for string(st.Phase) == unlike && len(st.Events) == events {
			select {
			case <-changed:
				st, changed = s.Status()
			case <-deadline.C:
				break waiting
			case <-r.Context().Done():
				return
			}
		}
	}
	reply(w, st)
}

func (s *Session) putIdentity(w http.ResponseWriter, r *http.Request) {
	var id client.Identity
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxIdentity))
	dec.DisallowUnknownFields()
	if dec.Decode(&id) != nil { // its text could hold the token
		refuse(w, http.StatusBadRequest, evidence.Refuse(evidence.CodeParse, "identity", "no such JSON", `{"token":"…"}`))
		return
	}
	if err := s.SetIdentity(id.Token); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Session) getEvidence(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	phase, report := s.status.Phase, s.report
	s.mu.Unlock()
	if phase != client.PhaseReady {
		refuse(w, http.StatusConflict, evidence.Refuse(evidence.CodeUnavailable, "evidence", "phase "+string(phase), "phase "+string(client.PhaseReady)))
		return
	}
	reply(w, client.Evidence{HCLReport: report.hcl, ChainPEM: report.chainPEM, AKCertificate: report.akCertificate})
}

// postStop answers when everything is durable.
func (s *Session) postStop(w http.ResponseWriter, r *http.Request) {
	s.Stop()
	select {
	case <-s.Ended():
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller has gone when this fails
}

func refuse(w http.ResponseWriter, status int, err error) {
	var r *evidence.Refusal
	if !errors.As(err, &r) {
		r = evidence.Refuse(evidence.CodeUnavailable, "paravisor", fmt.Sprint(err), "an answer")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(r)
}

func (s *Session) metrics() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "cloister", Subsystem: "paravisor", Name: name, Help: help}, f))
	}
	counter := func(name, help string, f func(vtpm.Counters) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "cloister", Subsystem: "paravisor", Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			gate := s.gate
			s.mu.Unlock()
			if gate == nil {
				return 0
			}
			return float64(f(gate.Counters()))
		}))
	}
	gauge("ready", "1 while the VM has a vTPM and a variable store.", func() float64 {
		if st, _ := s.Status(); st.Phase == client.PhaseReady {
			return 1
		}
		return 0
	})
	gauge("generation", "Generation of the guest state; 0 where there is none.", func() float64 {
		st, _ := s.Status()
		return float64(st.Generation)
	})
	counter("tpm_commands_total", "TPM commands from the VM.", func(c vtpm.Counters) uint64 { return c.Commands })
	counter("tpm_refused_total", "TPM commands refused because they would remove the vTPM's identity.", func(c vtpm.Counters) uint64 { return c.Refused })
	counter("tpm_commits_total", "vTPM states made durable.", func(c vtpm.Counters) uint64 { return c.Commits })
	counter("hcl_reports_total", "HCL reports made.", func(c vtpm.Counters) uint64 { return c.Reports })
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "cloister", Subsystem: "paravisor", Name: "uefi_commits_total", Help: "UEFI variable stores made durable."}, func() float64 {
		s.mu.Lock()
		vars := s.vars
		s.mu.Unlock()
		if vars == nil {
			return 0
		}
		return float64(vars.Commits())
	}))
	return reg
}
