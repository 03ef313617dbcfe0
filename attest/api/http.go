package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"cloister.dev/cloister/attest/client"
	"cloister.dev/cloister/evidence"
)

// requestID makes a trace-parent text, as Azure's service has in x-ms-request-id.
func requestID() string {
	var id [24]byte
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	return fmt.Sprintf("00-%s-%s-00", hex.EncodeToString(id[:16]), hex.EncodeToString(id[16:]))
}

func checkMedia(r *http.Request, want string) error {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || got != want {
		return evidence.Refuse(evidence.CodeParse, "Content-Type", r.Header.Get("Content-Type"), want)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(raw) // a caller that went away gets nothing, and there is nobody to tell
	return nil
}

// forbidden marks a refusal of a caller who is known but has no role: 403 and not 401.
type forbidden struct{ error }

func (f forbidden) Unwrap() error { return f.error }

// policyText marks a refusal of a policy's text.
type policyText struct{ error }

func (p policyText) Unwrap() error { return p.error }

// invalidOperation marks what Azure's service calls so: a document about policies whose signature does not do.
type invalidOperation struct{ error }

func (i invalidOperation) Unwrap() error { return i.error }

// fail answers with an error. What is no refusal is ours: it is logged, and the caller learns nothing.
func (s *Server) fail(w http.ResponseWriter, err error) {
	var refusal *evidence.Refusal
	if !errors.As(err, &refusal) {
		s.log.Error("request failed", "error", err.Error())
		s.refuse(w, http.StatusInternalServerError, "InternalServerError", evidence.Refuse(evidence.CodeUnavailable, "service", "an internal error", "an answer"))
		return
	}
	status, code := statusOf(err, refusal.Code)
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	if status == http.StatusServiceUnavailable {
		s.log.Error("no verdict", "error", err.Error())
		w.Header().Set("Retry-After", "5")
	}
	s.refuse(w, status, code, refusal)
}

func statusOf(err error, code evidence.Code) (int, string) {
	var f forbidden
	var p policyText
	var b tooBusy
	var o invalidOperation
	switch {
	case errors.As(err, &b):
		return http.StatusTooManyRequests, "TooManyRequests"
	case errors.As(err, &f):
		return http.StatusForbidden, "Forbidden"
	case code == evidence.CodeAuthz:
		return http.StatusUnauthorized, "Unauthorized"
	case code == evidence.CodeUnavailable:
		return http.StatusServiceUnavailable, "ServiceUnavailable"
	case errors.As(err, &o):
		return http.StatusBadRequest, "InvalidOperation"
	case errors.As(err, &p):
		return http.StatusBadRequest, "PolicyParsingError"
	case code == evidence.CodePolicy:
		return http.StatusBadRequest, "PolicyEvaluationError"
	case code == evidence.CodeParse || code == evidence.CodeUnsupported:
		return http.StatusBadRequest, "InvalidParameter"
	}
	return http.StatusBadRequest, "InvalidQuote"
}

// maxShown bounds each field of a refusal in an answer and in the log, in bytes: some hold what a stranger sent.
const maxShown = 512

func shown(r *evidence.Refusal) *evidence.Refusal {
	cut := func(s string) string {
		if len(s) > maxShown {
			return s[:maxShown] + "…"
		}
		return s
	}
	return &evidence.Refusal{Code: r.Code, Field: cut(r.Field), Got: cut(r.Got), Want: cut(r.Want), Rule: cut(r.Rule)}
}

func (s *Server) refuse(w http.ResponseWriter, status int, code string, r *evidence.Refusal) {
	var body client.WireError
	body.Error.Code, body.Error.InnerError = code, shown(r)
	body.Error.Message = body.Error.InnerError.Error()
	raw, err := json.Marshal(body)
	if err != nil { // texts that are not UTF-8 are replaced, so this cannot happen
		raw = []byte(`{"error":{"code":"InternalServerError","message":"the refusal could not be written"}}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("x-ms-error-code", code)
	w.WriteHeader(status)
	_, _ = w.Write(raw)
}

// recorder remembers the status for the metrics, and lets the first one win.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
		r.ResponseWriter.WriteHeader(status)
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.ResponseWriter.Write(b)
}
