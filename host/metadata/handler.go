// Package metadata is what a VM sees at 169.254.169.254: Azure's instance metadata, and the narrow channel on
// which the guest tells of its steps and answers attestation requests.
//
// Everything here is the host's word. A guest checks what matters against its init data.
package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister.dev/cloister/host/api"
)

// Limits of what a guest may send, in bytes, and of how long it may wait.
const (
	maxEvent  = 16 << 10
	maxAnswer = 4 << 20
	maxWait   = 60 * time.Second
)

// Source is one VM as its metadata service knows it.
type Source struct {
	Spec     func() api.VMSpec
	Chain    func(context.Context) (*Chain, error)                      // endorsements of the hardware report
	Identity func(ctx context.Context, audience string) (string, error) // nil: not offered
	Event    func(api.Event)                                            // the guest tells of a step
	Request  func(ctx context.Context) (*api.Request, error)            // the next open question, nil when the wait is over
	Answer   func(ctx context.Context, id string, bundle json.RawMessage) error
}

// Chain is what THIM answers: PEM texts and the reported TCB of the chip as 16 hex digits, microcode first.
type Chain struct {
	VCEK, Issuers, TCBM string
}

// Handler answers for one VM.
func Handler(s Source, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/metadata/versions", func(w http.ResponseWriter, r *http.Request) {
		write(w, http.StatusOK, map[string]any{"apiVersions": Versions})
	})
	mux.HandleFunc("/metadata/instance", versioned(instance(s)))
	mux.HandleFunc("/metadata/instance/", versioned(instance(s)))
	mux.HandleFunc("/metadata/THIM/amd/certification", certification(s, log))
	mux.HandleFunc("/metadata/identity/oauth2/token", versioned(identityToken(s, log)))
	mux.HandleFunc("POST /cloister/v1/events", event(s))
	mux.HandleFunc("GET /cloister/v1/requests", nextRequest(s, log))
	mux.HandleFunc("POST /cloister/v1/requests/{id}", answer(s, log))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusNotFound, "Not found") })
	return guard(mux)
}

// guard enforces what holds for every path.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
			refuse(w, http.StatusBadRequest, "Bad request. Required metadata header not specified")
		case r.Header.Get("X-Forwarded-For") != "":
			refuse(w, http.StatusBadRequest, "Bad request. Forwarded requests are not answered")
		case repeated(r):
			refuse(w, http.StatusBadRequest, "Bad request. A query parameter comes twice")
		case strings.HasPrefix(r.URL.Path, "/metadata/") && r.Method != http.MethodGet:
			refuse(w, http.StatusMethodNotAllowed, "Method not allowed")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func repeated(r *http.Request) bool {
	for _, values := range r.URL.Query() {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

// versioned demands an api-version that is known.
func versioned(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := r.URL.Query().Get("api-version")
		newest := Versions[max(0, len(Versions)-3):]
		switch {
		case v == "":
			write(w, http.StatusBadRequest, map[string]any{
				"error":           "Bad request. api-version was not specified in the request. For more information refer to aka.ms/azureimds",
				"newest-versions": newest})
		case !slices.Contains(Versions, v):
			write(w, http.StatusBadRequest, map[string]any{"error": "Bad request. api-version is invalid or is not a supported version.", "newest-versions": newest})
		default:
			next(w, r)
		}
	}
}

func certification(s Source, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.Chain(r.Context())
		if err != nil {
			log.Warn("no endorsements for a VM", "error", err)
			refuse(w, http.StatusServiceUnavailable, "The endorsements can't be had now")
			return
		}
		write(w, http.StatusOK, map[string]string{"vcekCert": c.VCEK, "tcbm": c.TCBM, "certificateChain": c.Issuers, "cacheControl": "86400"})
	}
}

func identityToken(s Source, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		resource := r.URL.Query().Get("resource")
		if s.Identity == nil || resource == "" {
			write(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "resource is needed, and this VM must have an identity"})
			return
		}
		t, err := s.Identity(r.Context(), strings.TrimSuffix(resource, "/"))
		if err != nil {
			log.Warn("no identity token for a VM", "error", err)
			write(w, http.StatusServiceUnavailable, map[string]string{"error": "unavailable", "error_description": "the identity service did not answer"})
			return
		}
		now := time.Now().Unix()
		const life = 3600
		write(w, http.StatusOK, map[string]string{"access_token": t, "client_id": s.Spec().VMID, "expires_in": strconv.Itoa(life), "ext_expires_in": strconv.Itoa(life),
			"expires_on": strconv.FormatInt(now+life, 10), "not_before": strconv.FormatInt(now, 10), "resource": resource, "token_type": "Bearer"})
	}
}

func event(s Source) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var e api.Event
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEvent)).Decode(&e); err != nil || e.Step == "" {
			refuse(w, http.StatusBadRequest, "Bad request. A step is needed, in JSON")
			return
		}
		s.Event(e)
		w.WriteHeader(http.StatusNoContent)
	}
}

func nextRequest(s Source, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wait := 25 * time.Second
		if text := r.URL.Query().Get("wait"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || time.Duration(n)*time.Second > maxWait {
				refuse(w, http.StatusBadRequest, fmt.Sprintf("Bad request. wait must be 0 to %d seconds", int(maxWait.Seconds())))
				return
			}
			wait = time.Duration(n) * time.Second
		}
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		req, err := s.Request(ctx)
		switch {
		case err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled):
			log.Warn("no requests for a VM", "error", err)
			refuse(w, http.StatusServiceUnavailable, "Try again")
		case req == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			write(w, http.StatusOK, map[string]any{"id": req.ID, "kind": req.Kind, "nonce": req.Nonce})
		}
	}
}

func answer(s Source, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
		if err != nil || !json.Valid(raw) {
			refuse(w, http.StatusBadRequest, "Bad request. The evidence bundle must be JSON")
			return
		}
		if err := s.Answer(r.Context(), r.PathValue("id"), raw); err != nil {
			log.Warn("an answer of a VM went nowhere", "error", err)
			refuse(w, http.StatusNotFound, "No such request")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	write(w, status, map[string]string{"error": text})
}

func write(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // a client that hung up needs no answer
}
