package softchip

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/softchip/client"
)

const maxRequest = 4096 // bytes

// handler serves a chip. Metrics and health are on the same socket.
func handler(c *Chip, log *slog.Logger) http.Handler {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cloister_softchip_calls_total", Help: "Calls by operation and result."}, []string{"operation", "result"})
	reg := prometheus.NewRegistry()
	reg.MustRegister(calls)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	serve := func(path, operation string, do func(*http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			out, err := do(r)
			result, status := "ok", http.StatusOK
			var refusal *evidence.Refusal
			switch {
			case errors.As(err, &refusal):
				out, status, result = client.Failure{Refusal: refusal}, http.StatusUnprocessableEntity, string(refusal.Code)
			case err != nil:
				out, status, result = client.Failure{Message: "the software chip failed; its log says why"}, http.StatusInternalServerError, "error"
			}
			calls.WithLabelValues(operation, result).Inc()
			if err != nil {
				log.Warn("call not served", "operation", operation, "error", err)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if err := json.NewEncoder(w).Encode(out); err != nil {
				log.Warn("answer not written", "operation", operation, "error", err)
			}
		})
	}
	serve(client.PathLaunch, "launch", func(r *http.Request) (any, error) {
		firmware := takeFile(r.Context())
		if firmware != nil {
			defer firmware.Close()
		}
		if err := ownerOnly(r); err != nil {
			return nil, err
		}
		var in client.LaunchRequest
		var hostData [32]byte
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := fixed(hostData[:], "hostData", in.HostData); err != nil {
			return nil, err
		}
		handle, err := c.Launch(firmware, in.VCPUs, in.CPUModel, in.Policy, hostData)
		return client.LaunchResponse{Handle: handle}, err
	})
	serve(client.PathReport, "report", func(r *http.Request) (any, error) {
		var in client.ReportRequest
		var data [64]byte
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := fixed(data[:], "reportData", in.ReportData); err != nil {
			return nil, err
		}
		report, err := c.Report(in.Handle, data)
		return client.ReportResponse{Report: report, Chain: c.ChainPEM()}, err
	})
	serve(client.PathDestroy, "destroy", func(r *http.Request) (any, error) {
		if err := ownerOnly(r); err != nil {
			return nil, err
		}
		var in client.DestroyRequest
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, c.Destroy(in.Handle)
	})
	return mux
}

// ownerOnly lets only the chip's own user launch and destroy, as only a hypervisor may. A report needs the launch's
// handle instead: it is what a VM's paravisor, which has a user of its own, was given.
func ownerOnly(r *http.Request) error {
	owner, err := ownerCalls(r.Context())
	if err != nil {
		return fmt.Errorf("asking who calls: %w", err)
	}
	if !owner {
		return evidence.Refuse(evidence.CodeAuthz, "caller", "another user", "the user that the software chip runs as")
	}
	return nil
}

func decode(r *http.Request, to any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return evidence.Refuse(evidence.CodeParse, "request", err.Error(), "one JSON object")
	}
	return nil
}

// fixed reads hexadecimal digits of exactly the size of to: nothing is padded or cut.
func fixed(to []byte, field, text string) error {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(to) {
		return evidence.Refuse(evidence.CodeParse, field, fmt.Sprintf("%d characters", len(text)), fmt.Sprintf("%d hexadecimal digits", 2*len(to)))
	}
	copy(to, b)
	return nil
}
