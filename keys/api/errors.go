package api

import (
	"errors"
	"fmt"
	"net/http"

	"cloister.dev/cloister/evidence"
	"cloister.dev/cloister/keys/client"
	"cloister.dev/cloister/keys/keystore"
)

// failure is an error in Key Vault's words.
type failure struct {
	status  int
	code    string
	message string
	inner   string
	refusal *evidence.Refusal
	cause   error // logged, not shown
}

func (f *failure) Error() string {
	if f.cause != nil {
		return fmt.Sprintf("%s: %v", f.code, f.cause)
	}
	return f.code + ": " + f.message
}

func (f *failure) Unwrap() error { return f.cause }

func badParameter(message string) error {
	return &failure{status: http.StatusBadRequest, code: "BadParameter", message: message}
}

func conflict(message, inner string) error {
	return &failure{status: http.StatusConflict, code: "Conflict", message: message, inner: inner}
}

func keyNotFound(name string) error {
	return &failure{status: http.StatusNotFound, code: "KeyNotFound", message: "A key with (name/id) " + name + " was not found in this key vault."}
}

// forbidden is what a caller without a role is told, whether or not there is such a key.
func forbidden(action string, cause error) error {
	return &failure{status: http.StatusForbidden, code: "Forbidden", message: "Caller is not authorized to perform action on resource. Action: '" + action + "'.", inner: "ForbiddenByRbac",
		refusal: evidence.Refuse(evidence.CodeAuthz, "action "+action, "no role", "a role assignment that allows it"), cause: cause}
}

// unattested is what a caller is told whose token or evidence was refused. Clients test for the status and the text;
// the reason is in the inner error.
func unattested(err error) error {
	var r *evidence.Refusal
	if !errors.As(err, &r) {
		return err
	}
	if r.Code == evidence.CodeUnavailable {
		return err
	}
	return &failure{status: http.StatusForbidden, code: "Forbidden", message: "Target environment attestation statement cannot be verified.", inner: "AccessDenied", refusal: r, cause: err}
}

// failure maps an error to status and body, and logs it once.
func (c *call) failure(err error) (int, any) {
	var f *failure
	var r *evidence.Refusal
	switch {
	case errors.As(err, &f):
	case errors.Is(err, keystore.ErrNotFound):
		f = &failure{status: http.StatusNotFound, code: "KeyNotFound", message: "A key with this name was not found in this key vault."}
	case errors.As(err, &r):
		f = &failure{refusal: r, message: r.Error(), inner: string(r.Code)}
		switch r.Code {
		case evidence.CodeParse, evidence.CodeUnsupported:
			f.status, f.code = http.StatusBadRequest, "BadParameter"
		case evidence.CodeUnavailable:
			f.status, f.code = http.StatusServiceUnavailable, "ServiceUnavailable"
		default:
			f.status, f.code = http.StatusForbidden, "Forbidden"
		}
	default:
		f = &failure{status: http.StatusInternalServerError, code: "InternalServerError", message: "An unexpected error occurred; the request id is in the service's log."}
	}
	level := c.Log.Info
	if f.status >= 500 {
		level = c.Log.Error
	}
	caller := ""
	if c.caller != nil {
		caller = c.caller.ObjectID
	}
	level("request refused", "requestId", c.requestID, "operation", c.operation, "vault", c.vault.Name, "caller", caller, "status", f.status, "error", err)
	e := client.Error{Code: f.code, Message: f.message}
	if f.inner != "" || f.refusal != nil {
		e.Inner = &client.InnerError{Code: f.inner, Cloister: f.refusal}
	}
	return f.status, client.ErrorBody{Error: e}
}
